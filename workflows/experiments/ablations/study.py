"""`frameloom ablate`: train the variants of a paper's ablations on the laboratory, and print its tables.

Everything is kept: clips, features, checkpoints, numbers. A second call does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...._files import publish_text
from ...._registry import nearest
from ...._vocabulary import ConfigError
from ....train import Recipe, get_recipe
from ...console import Console, count_of
from ...sync import working
from .data import Worlds, prepare
from .report import TableResult
from .run import Metrics, plan_jobs, run_jobs
from .studies import STUDIES, Study

FOLDER_NAME = "ablations"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The result of a study with one objective and one recipe for every row, and the file that the lines are in."""

    name: str
    study: Study
    objective: str
    recipe: Recipe
    seeds: int
    num_clips: Mapping[str, int]
    tables: tuple[TableResult, ...]
    document: Path

    @property
    def exit_code(self) -> int:
        """Always 0: an order that does not come out is a finding."""
        return 0

    def lines(self) -> Iterator[str]:
        weights = ", ".join(f"{name} {value:g}" for name, value in self.study.objectives[self.objective].items())
        recipe, counts = self.recipe, self.num_clips
        yield f"# Ablations: {self.name}, on the laboratory"
        yield ""
        yield f"Paper: {self.study.paper}."
        yield (
            f"Model `{self.study.model}`, {count_of(counts['training'], 'training clip')},"
            f" {count_of(recipe.epochs, 'epoch')} in batches of {recipe.batch_size}, objective `{self.objective}`"
            f" ({weights}), the same for every row."
        )
        yield (
            f"Galleries: {count_of(counts['short'], 'clip')} as long as those of training,"
            f" {count_of(counts['long'], 'longer clip')}; the first caption of each asks. R@k in percent, MedR from 1,"
            f" mean ± standard deviation over {count_of(self.seeds, 'seed')}."
        )
        yield (
            "Orders are those of the paper's text, tried on the mean of R@1, R@5, R@10 of text -> media in each seed."
            " One is settled when every seed, of two at least, agrees and the mean difference is above its deviation."
        )
        for table in self.tables:
            yield ""
            yield from table.lines()

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "paper": self.study.paper,
            "model": self.study.model,
            "objective": {"name": self.objective, **self.study.objectives[self.objective]},
            "recipe": self.recipe.model_dump(),
            "seeds": self.seeds,
            "clips": dict(self.num_clips),
            "tables": [table.as_dict() for table in self.tables],
            "document": str(self.document),
        }


def run_study(
    name: str,
    folder: Path,
    *,
    tables: Sequence[int] = (),
    seeds: int = 3,
    objective: str | None = None,
    worlds: Worlds | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console,
) -> StudyResult:
    """Do what is missing of a study, and put its tables together.

    Args:
        name: of the study.
        folder: where clips, features, checkpoints and tables are kept.
        tables: their numbers; none for all.
        seeds: trainings of each model.
        objective: weights of the objective, by name; None takes the study's first.
        worlds: how many clips there are.
        overrides: fields of the recipe, for every row.
        console: for progress.

    Raises:
        UnknownNameError: no such study.
        ConfigError: no such table or objective, or a folder that holds something else.
    """
    study = STUDIES[name]
    known = {table.number: table for table in study.tables}
    for number in tables:
        if number not in known:
            raise ConfigError(f"no table {number} in this study: it has {', '.join(map(str, known))}")
    chosen = tuple(known[number] for number in dict.fromkeys(tables)) or study.tables
    if objective is None:
        objective = next(iter(study.objectives))
    elif objective not in study.objectives:
        raise ConfigError(f"no objective {objective!r} in this study: {nearest(objective, list(study.objectives))}")
    recipe = get_recipe(study.recipe, **{**study.overrides, **(overrides or {})})
    clips = prepare(folder, worlds or Worlds(), recipe, console)
    root = clips.project.root / FOLDER_NAME / name
    jobs = plan_jobs(
        clips, study, root, tables=chosen, objective=objective, seeds=seeds, overrides=dict(overrides or {})
    )
    with working(clips.project, console) as stage:
        run_jobs(jobs, stage.executor, console)
    metrics: dict[str, list[Metrics]] = {}  # by table and row, each job's file read once
    for job in jobs:
        for key, of_row in (job.found() or {}).items():
            metrics.setdefault(key, []).append(of_row)
    # Some tables of a study do not take the place of all of them.
    some = [f"table{table.number}" for table in chosen] if len(chosen) < len(study.tables) else []
    result = StudyResult(
        name=name,
        study=study,
        objective=objective,
        recipe=recipe,
        seeds=seeds,
        num_clips={"training": len(clips.training), **{key: len(each) for key, each in clips.galleries.items()}},
        tables=tuple(
            TableResult(table=table, found={row.key: metrics[f"{table.number}/{row.key}"] for row in table.rows})
            for table in chosen
        ),
        document=folder / ("-".join([name, objective, *some]) + ".md"),
    )
    publish_text(result.document, "\n".join(result.lines()) + "\n")
    console.say(f"the tables are in {result.document}")
    return result
