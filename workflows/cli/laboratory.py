"""The command that makes a synthetic data set. The work is done in `laboratory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Console, count_of
from .options import AsJson, Quiet, show


def laboratory(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the clips go. A second run only adds.")],
    num_train: Annotated[int, typer.Option(min=0, help="Clips to learn from.")] = 600,
    num_val: Annotated[int, typer.Option(min=0, help="Clips to choose by.")] = 50,
    num_test: Annotated[int, typer.Option(min=0, help="Clips to judge by.")] = 150,
    temporal: Annotated[
        bool, typer.Option("--temporal", help="Vary shape, direction of motion and order of events, too.")
    ] = False,
    named_seen: Annotated[int, typer.Option(min=0, help="Seen things that a caption names.")] = 4,
    named_heard: Annotated[int, typer.Option(min=0, help="Heard things that a caption names; 0 for pixels.")] = 3,
    questions: Annotated[
        int, typer.Option(min=0, help="Open questions about each clip, and as many with options: questions.jsonl.")
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Length of each clip.")] = 4.0,
    size: Annotated[int, typer.Option(help="Pixels of a side.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other clips.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a synthetic data set of captioned clips, whose answers are known: videos, captions.jsonl, questions.jsonl.

    Example: frameloom laboratory lab --temporal --named-heard 0 --questions 3, then in that folder
    frameloom init videos --captions captions.jsonl --preset miles_tiny
    """
    from ..laboratory import World, make_collection

    world = World(
        num_train=num_train,
        num_val=num_val,
        num_test=num_test,
        temporal=temporal,
        named_seen=named_seen,
        named_heard=named_heard,
        seconds=seconds,
        size=size,
        seed=seed,
    )
    with Console(quiet=quiet).progress("render", world.num_clips, "clips") as advance:
        made = make_collection(folder, world, on_progress=advance, questions=questions)
    found = {"folder": str(folder), "clips": len(made.clips), "rendered": made.num_rendered}
    show(found, [f"{folder}: {count_of(len(made.clips), 'clip')}, {made.num_rendered} new"], as_json=as_json)
