"""Ablations of joint encoders, which learn from pixels: Clover's table 3 and T2V2T's table 2, on the laboratory.

Each row is a project over the same clips and store, whose training differs in options of the model alone: rows of one
seed see the same clips in the same order with the same captions and masks. A row is judged as `frameloom evaluate`
judges a project, by vectors alone or with its own joint head as the second stage. A table is printed with means and
deviations over seeds, and a verdict for each order that the paper states, as those of other studies are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...._files import publish_text
from ...console import Console, count_of
from ...laboratory import MANIFEST_NAME, VIDEOS_NAME, World, make_collection
from ...project import Project
from ...sync import sync
from ..evaluate import COLUMNS, evaluate
from .report import JUDGED, TableResult
from .run import Metrics
from .studies import Row, Table, Training, orders_of

SEEN = ("colour", "background", "texture", "size", "number", "shape")
# Raised whenever the same checkpoint would be judged differently.
_REVISION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JointStudy:
    """Variants of one model that learns from pixels.

    Attributes:
        paper: where they were published.
        recipe: of every row.
        overrides: of the recipe.
        options: of the model, in every row.
        text: options of the word pieces.
        trainings: the variants, by row.
        table: the paper's.
        candidates: that a row's own joint head judges again; 0: rows are judged by vectors.
    """

    paper: str
    recipe: str
    overrides: Mapping[str, Any]
    options: Mapping[str, Any]
    trainings: Mapping[str, Training]
    table: Table
    candidates: int = 0
    text: Mapping[str, Any] = field(default_factory=dict)


_FRAMES = {"num_frames": 4, "size": 48, "min_area": 0.8, "flip": 0.0}
_LENGTH: Mapping[str, Any] = {
    "epochs": 1,
    "min_steps": 1500,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 30,
    "max_words": 20,
    "checkpoint_steps": 0,
}

_SEMANTIC: Mapping[str, Any] = {"word_masking": "semantic", "mask_phrases": False, "mask_adjectives": True}
"""As the paper reads; the authors' code never hides adjectives, of which the laboratory's captions consist."""

JOINT_STUDIES: Mapping[str, JointStudy] = {
    "clover": JointStudy(
        paper="Huang et al., Clover, CVPR 2023 (arXiv 2207.07885), table 3",
        recipe="clover_tiny",
        overrides={**_LENGTH, "frames": {**_FRAMES, "rule": "clover"}},
        options={
            "swin_width": 32,
            "swin_heads": (2, 4),
            "window": (2, 3, 3),
            "text_width": 96,
            "text_hidden": 192,
            "projection_dim": 96,
            "video_hidden": 128,
            "fused_hidden": 128,
            "masked_cells": 2,
            "word_masking": "random",
        },
        text={"tags": "en_core_web_md"},
        trainings={
            "baseline": Training(options={"alignment": "pair", "ranking": False}),
            "tma": Training(options={"ranking": False}),
            "tma_sm": Training(options={"ranking": False, **_SEMANTIC}),
            "tma_sm_rank": Training(options={"ranking": True, **_SEMANTIC}),
        },
        table=Table(
            number=3,
            title="Tri-modal alignment, semantic masking and ranking, zero-shot retrieval by vectors",
            rows=(
                Row(
                    key="baseline",
                    label="baseline",
                    training="baseline",
                    published={"DiDeMo": (47.9, 58.2), "MSR-VTT": (41.7, 51.1)},
                ),
                Row(
                    key="tma",
                    label="+ TMA",
                    training="tma",
                    published={"DiDeMo": (49.7, 60.0), "MSR-VTT": (42.2, 52.2)},
                ),
                Row(
                    key="tma_sm",
                    label="+ TMA + semantic masking",
                    training="tma_sm",
                    published={"DiDeMo": (49.5, 60.5), "MSR-VTT": (42.7, 52.0)},
                ),
                Row(
                    key="tma_sm_rank",
                    label="+ TMA + semantic masking + ranking",
                    training="tma_sm_rank",
                    published={"DiDeMo": (51.1, 61.3), "MSR-VTT": (43.3, 52.4)},
                ),
            ),
            orders=orders_of(("tma", "baseline"), ("tma_sm", "tma"), ("tma_sm_rank", "tma_sm", "tma", "baseline")),
        ),
    ),
    "t2v2t": JointStudy(
        paper="Kim et al., T2V2T, table 2",
        recipe="t2v2t_tiny",
        overrides={**_LENGTH, "frames": {**_FRAMES, "rule": "vindlu"}},
        options={
            "video_width": 96,
            "video_depth": 2,
            "video_hidden": 192,
            "text_width": 96,
            "text_hidden": 192,
            "projection_dim": 96,
            # Masked words are what the joint head learns by: with matching alone it stays near guessing.
            "mlm_weight": 1.0,
            "mask_probability": 0.5,
        },
        trainings={
            "none": Training(options={"fusion": "none"}),
            "unidirectional": Training(options={"fusion": "unidirectional"}),
            "naive": Training(options={"fusion": "naive"}),
            "bypass": Training(options={"fusion": "bypass"}),
        },
        table=Table(
            number=2,
            title="Fusion of frames and text, its joint head judging the candidates",
            rows=(
                Row(key="none", label="no joint encoder (not in the paper)", training="none"),
                Row(
                    key="unidirectional",
                    label="text looks at frames (VindLU)",
                    training="unidirectional",
                    published={"MSR-VTT": (70.3, 79.5), "DiDeMo": (81.3, 89.0), "ActivityNet": (79.2, 88.4)},
                ),
                Row(
                    key="naive",
                    label="naive T2V2T",
                    training="naive",
                    published={"MSR-VTT": (70.1, 79.3), "DiDeMo": (80.7, 88.0), "ActivityNet": (78.8, 87.9)},
                ),
                Row(
                    key="bypass",
                    label="T2V2T, bypass",
                    training="bypass",
                    published={"MSR-VTT": (70.7, 79.5), "DiDeMo": (81.9, 89.7), "ActivityNet": (79.4, 88.2)},
                ),
            ),
            orders=orders_of(
                ("bypass", "naive", "unidirectional", "none"), ("unidirectional", "none"), ("naive", "none")
            ),
        ),
        candidates=50,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JointStudyResult:
    """The table of a study, and the file that it is in."""

    name: str
    study: JointStudy
    world: World
    seeds: int
    steps: int
    found: TableResult
    document: Path

    @property
    def exit_code(self) -> int:
        """Always 0: an order that does not come out is a finding."""
        return 0

    def lines(self) -> Iterator[str]:
        study, world = self.study, self.world
        size = study.overrides["batch_size"]
        yield f"# Ablations: {self.name}, on the laboratory"
        yield ""
        yield f"Paper: {study.paper}."
        yield (
            f"Recipe `{study.recipe}`, {count_of(world.num_train, 'training clip')}, {count_of(self.steps, 'step')} in"
            f" batches of {size}, the same for every row; the first captions of {count_of(world.num_test, 'clip')} ask."
            f" R@k in percent, MedR from 1, mean ± standard deviation over {count_of(self.seeds, 'seed')}."
        )
        if study.candidates:
            yield (
                f"The row's own joint head judges the first {study.candidates} clips of each question again; a row"
                " without one is judged by its vectors."
            )
        yield (
            "Orders are tried on the mean of R@1, R@5, R@10 in each seed. One is settled when every seed, of two at"
            " least, agrees and the mean difference is above its deviation."
        )
        yield ""
        yield from self.found.lines()

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "paper": self.study.paper,
            "seeds": self.seeds,
            "clips": {"training": self.world.num_train, "test": self.world.num_test},
            "tables": [self.found.as_dict()],
            "document": str(self.document),
        }


def run_joint_study(
    name: str,
    folder: Path,
    *,
    seeds: int,
    num_train: int = 560,
    num_test: int = 200,
    seed: int = 0,
    steps: int | None = None,
    console: Console,
) -> JointStudyResult:
    """Train and judge what is missing of a study, and put its table together.

    Args:
        name: of the study.
        folder: where clips, features, checkpoints and numbers are kept.
        seeds: trainings of each row.
        num_train: clips to learn from.
        num_test: clips to ask for.
        seed: of the clips.
        steps: of each training; None: the study's.
        console: for progress.

    Raises:
        ConfigError: the folder holds clips of another data set, or what makes the features is not installed.
    """
    study, folder = JOINT_STUDIES[name], folder.resolve()
    example = project_of(study, folder, options={}, seed=0)
    example.check_model(example.resolve())  # before clips are rendered
    clips = World(
        num_train=num_train,
        num_val=0,
        num_test=num_test,
        seed=seed,
        size=64,
        seconds=2.0,
        attributes=SEEN,
        named_heard=0,
    )
    with console.progress("render", clips.num_clips, "clips") as advance:
        make_collection(folder, clips, on_progress=advance)
    metrics: dict[str, list[Metrics]] = {row.key: [] for row in study.table.rows}
    for number in range(seeds):
        for row in study.table.rows:
            options = study.trainings[row.training].options
            project = project_of(study, folder, options=options, seed=number, steps=steps)
            metrics[row.key].append(_metrics(project, study, console))
            console.say(f"  {row.key}, seed {number}: R@1 {metrics[row.key][-1][JUDGED]['r1']:.1f}")
    result = JointStudyResult(
        name=name,
        study=study,
        world=clips,
        seeds=seeds,
        steps=steps or study.overrides["min_steps"],
        found=TableResult(table=study.table, found=metrics),
        document=folder / f"{name}.md",
    )
    publish_text(result.document, "\n".join(result.lines()) + "\n")
    console.say(f"the table is in {result.document}")
    return result


def project_of(
    study: JointStudy, folder: Path, *, options: Mapping[str, Any], seed: int, steps: int | None = None
) -> Project:
    """A row with one seed, as a project."""
    from ...project.config import parse_config

    own = {} if steps is None else {"min_steps": steps}
    overrides = {**study.overrides, **own, "seed": seed, "model_options": _all_options(study, options)}
    config = {
        "collection": {"videos": VIDEOS_NAME, "captions": MANIFEST_NAME, "clip_seconds": None},
        "features": {
            "video": {"backbone": "pixels", "options": {"rate_hz": 4, "size": 56, "frames": "jpeg"}},
            "text": {"backbone": "wordpiece", "options": {"vocabulary": 400, **study.text}},
        },
        "training": {"recipe": study.recipe, "overrides": overrides},
        "store": {"format": "webdataset", "combinations": ["video"]},
        "run": {"workers": 0, "batch_videos": 32},
    }
    plain = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(config))))
    return Project(parse_config(plain, study.recipe), folder)


def _all_options(study: JointStudy, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the recipe's model with the study's and the row's over them."""
    from ....train import get_recipe

    return {**get_recipe(study.recipe).model_options, **study.options, **options}


def _metrics(project: Project, study: JointStudy, console: Console) -> Metrics:
    """What a row reaches, trained and judged where it was not yet."""

    def result() -> tuple[bool, Path]:
        known = project.resolve()  # the first training of a store brings the word pieces, which its key holds
        return known.checkpoint is not None, known.model_folder / f"result-{_REVISION}-{study.candidates}.json"

    is_trained, path = result()
    if not is_trained or not path.is_file():
        sync(project, console)
        fused = project.model_options.get("fusion") != "none"
        judge = project.model_name if study.candidates and fused else None
        judged = evaluate(project, rerank=judge, candidates=max(study.candidates, 1))
        found = judged.metrics["video"] if judged.rerank is None else judged.rerank.metrics
        _, path = result()
        publish_text(path, json.dumps({name: found[name] for name in COLUMNS}))
    return {JUDGED: json.loads(path.read_text(encoding="utf-8"))}
