"""The project that ablations run on: a training set and two galleries, rendered and extracted once, and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...._files import publish_text
from ...._vocabulary import FrameloomError
from ....train import Recipe
from ....train.data import ClipFeatures, TrainingSet
from ...console import Console
from ...laboratory import LONG_NAME, MANIFEST_NAME, VIDEOS_NAME, LongWorld, World, make_collection, make_long_clips
from ...project import CONFIG_NAME, Project, in_split
from ...sync import extract_only, take_state, training_set
from ..config import write_demo_config
from .studies import Gallery

_BOTH_NAME = "all_captions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """How many clips of each kind there are, and the seed that they are drawn from."""

    num_train: int = 900
    num_test: int = 400
    num_long: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """The clips of a study with the names of their features in the store."""

    project: Project
    training: TrainingSet
    galleries: Mapping[Gallery, TrainingSet]


def prepare(folder: Path, worlds: Worlds, recipe: Recipe, console: Console) -> Clips:
    """Render and extract what is missing, and list what the recipe trains on.

    Raises:
        ConfigError: the folder holds clips of another data set.
        FrameloomError: some clip could not be extracted.
    """
    short = World(num_train=worlds.num_train, num_val=0, num_test=worlds.num_test, seed=worlds.seed)
    with console.progress("render", short.num_clips, "clips") as advance:
        make_collection(folder, short, on_progress=advance)
    with console.progress("render", worlds.num_long, "long clips") as advance:
        longer = make_long_clips(folder, LongWorld(num_clips=worlds.num_long, seed=worlds.seed), on_progress=advance)
    rows = [{"video": clip.video, "captions": list(clip.captions), "split": "test"} for clip in longer]
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8") + "".join(json.dumps(row) + "\n" for row in rows)
    both = folder / _BOTH_NAME
    if not both.exists() or both.read_text(encoding="utf-8") != text:
        publish_text(both, text)
    if not (folder / CONFIG_NAME).exists():
        write_demo_config(folder, seed=0, videos=f"[{VIDEOS_NAME}, {LONG_NAME}]", captions=_BOTH_NAME)
    report = extract_only(Project.open(folder), console)
    if report.exit_code:
        raise FrameloomError(f"not every clip of {folder} was extracted: {'; '.join(report.lines())}")
    project = Project.open(folder)
    clips = take_state(project).clips
    galleries: dict[Gallery, list[ClipFeatures]] = {"short": [], "long": []}
    for state in clips:
        if in_split(state.clip.split, "test"):
            is_long = state.clip.video.split("/")[0] == LONG_NAME
            galleries["long" if is_long else "short"].append(state.inputs)
    return Clips(
        project=project,
        training=training_set(recipe, clips),
        galleries={name: TrainingSet(clips=tuple(listed)) for name, listed in galleries.items()},
    )
