"""The command that reproduces the ablations of papers. The work is done in `experiments/ablations`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..._vocabulary import InputError
from ..console import Console
from .options import AsJson, Quiet, answer, show

JOINT_UNUSED = ("--tables", "--objective", "--num-long", "--epochs")
PIXEL_UNUSED = ("--tables", "--objective", "--num-long")


def ablate(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Which study. [default: list them]")] = None,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where all of it is kept. Made if missing; a second run goes on.")
    ] = Path("frameloom-ablations"),
    tables: Annotated[
        str | None, typer.Option(metavar="N,N", help="Tables of the paper, such as 4,5. [default: all]")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="Trainings of each model. Deviations need two at least.")
    ] = 3,
    objective: Annotated[
        str | None, typer.Option(metavar="NAME", help="Weights of the objective, for every row. [default: published]")
    ] = None,
    num_train: Annotated[
        int | None, typer.Option(min=2, help="Clips to train on. [default: the study's, as of those below]")
    ] = None,
    num_test: Annotated[int | None, typer.Option(min=2, help="Clips to ask for, as long as those of training.")] = None,
    num_long: Annotated[int | None, typer.Option(min=2, help="Clips to ask for that are longer.")] = None,
    world: Annotated[int | None, typer.Option(min=0, help="Another number draws other clips.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training clips.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Least steps of each training of a study of pixels.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce the ablations of a paper on a small synthetic data set: train every variant, print the paper's tables.

    Clips are rendered and their features extracted once; every variant is trained on the same ones by the same recipe,
    with the same order and captions for one seed. The tables are Markdown, with means and deviations over seeds, and
    each order that the paper states is compared seed by seed: as published, the other way round, or not settled.
    Everything is kept in DIR: what was stopped goes on, and a second run only prints.

    The studies clover, t2v2t, miles and all_in_one train from pixels. Each has one table and one objective; their
    folder is not that of other studies. An option that a study has no use for is refused.

    Example: frameloom ablate everything_at_once --tables 4,5 > tables.md
    """
    from ..experiments.ablations import (
        JOINT_STUDIES,
        PIXEL_STUDIES,
        STUDIES,
        Worlds,
        run_joint_study,
        run_pixel_study,
        run_study,
    )

    if study is None:
        known: list[dict[str, Any]] = [
            {
                "study": name,
                "paper": STUDIES[name].paper,
                "tables": {table.number: table.title for table in STUDIES[name].tables},
                "objectives": list(STUDIES[name].objectives),
            }
            for name in STUDIES
        ]
        known += [
            {"study": name, "paper": one.paper, "tables": {one.table.number: one.table.title}, "objectives": []}
            for name, one in JOINT_STUDIES.items()
        ]
        lines = (
            "\n".join([f"{one['study']}: {one['paper']}", *(f"  table {n}: {t}" for n, t in one["tables"].items())])
            for one in known
        )
        of_pixels = [
            {"study": name, "paper": PIXEL_STUDIES[name].paper, "variants": list(PIXEL_STUDIES[name].variants)}
            for name in PIXEL_STUDIES
        ]
        more = (f"{one['study']}: {one['paper']}\n  variants: {', '.join(one['variants'])}" for one in of_pixels)
        show([*known, *of_pixels], (*lines, *more), as_json=as_json)
        return
    options: dict[str, Any] = {"--tables": tables, "--objective": objective, "--num-long": num_long}
    options |= {"--epochs": epochs, "--steps": steps}
    unused = {**dict.fromkeys(JOINT_STUDIES, JOINT_UNUSED), **dict.fromkeys(PIXEL_STUDIES, PIXEL_UNUSED)}
    of_study = unused.get(study, ("--steps",))
    if wrong := [name for name in of_study if options[name] is not None]:
        raise InputError(f"the study {study} has no use for {', '.join(wrong)}: leave out {', '.join(of_study)}")
    sizes = {"num_train": num_train, "num_test": num_test, "seed": world, "num_long": num_long}
    clips: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    if study in PIXEL_STUDIES:
        if steps is not None and epochs is not None:
            raise InputError("--steps and --epochs both say how long a training lasts: give one of them")
        length = {"epochs": epochs} if epochs is not None else {"epochs": 1, "min_steps": steps} if steps else {}
        answer(
            run_pixel_study(
                study,
                folder,
                seeds=seeds,
                world=replace(PIXEL_STUDIES[study].world, **clips),
                overrides=length,
                console=Console(quiet=quiet),
            ),
            as_json=as_json,
        )
    if study in JOINT_STUDIES:
        answer(
            run_joint_study(study, folder, seeds=seeds, steps=steps, console=Console(quiet=quiet), **clips),
            as_json=as_json,
        )
    numbers = re.split(r"[,\s]+", tables.strip(" ,")) if tables is not None else []
    if not all(number.isdecimal() for number in numbers):
        raise InputError(f"--tables {tables!r}: give numbers of tables, such as 4,5,6")
    found = run_study(
        study,
        folder,
        tables=[int(number) for number in numbers],
        seeds=seeds,
        objective=objective,
        worlds=Worlds(**clips),
        overrides={} if epochs is None else {"epochs": epochs},
        console=Console(quiet=quiet),
    )
    answer(found, as_json=as_json)
