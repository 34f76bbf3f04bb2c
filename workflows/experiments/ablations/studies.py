"""The ablations of papers, as data: which models are trained, how each row of a table asks them, what was published.

To add a study: write one of these and register it. Nothing else in `frameloom ablate` knows a paper by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from ...._registry import Registry

Gallery = Literal["short", "long"]
Strategy = Literal["at_once", "clips", "max_pool", "nearest", "beginning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One model of a study: its options where they differ from the study's, and those that it is evaluated with."""

    options: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        key: its name in orders and in JSON.
        label: what the table calls it.
        training: the model that is asked.
        media: how sight and sound are put together: "video+audio" attend to each other, "video,audio" are averaged.
        gallery: the clips that are searched: as long as those of training, or longer.
        strategy: how longer clips are read; "beginning" keeps as much as a clip of training has.
        published: R@5 and R@10 of the paper, by data set; empty for a row that the paper does not have.
    """

    key: str
    label: str
    training: str
    media: Literal["video+audio", "video,audio"] = "video+audio"
    gallery: Gallery = "short"
    strategy: Strategy = "at_once"
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A claim of a paper: one row is better than another."""

    better: str
    worse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: its number in the paper, what it is about, its rows, and the orders of them that the paper states."""

    number: int
    title: str
    rows: tuple[Row, ...]
    orders: tuple[Order, ...]

    def row(self, key: str) -> Row:
        return next(row for row in self.rows if row.key == key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A paper's ablations: variants of one model, all trained by one recipe, and the tables that compare them.

    Attributes:
        overrides: of the recipe.
        options: of the model, in every row.
        objectives: weights of the objective by name, the same for every row of a run; the first is the default.
    """

    paper: str
    model: str
    recipe: str
    overrides: Mapping[str, Any]
    options: Mapping[str, Any]
    objectives: Mapping[str, Mapping[str, float]]
    trainings: Mapping[str, Training]
    tables: tuple[Table, ...]


STUDIES: Registry[Study] = Registry("study")

_LAMBDAS = ("lambda_tv", "lambda_ta", "lambda_va", "lambda_t_va", "lambda_v_ta", "lambda_a_tv")
# The rows of a training clip: 4 s of one row a second and of 100 spectrogram frames a second.
_TRAINING_LENGTH = {"max_video_tokens": 4, "max_audio_frames": 400, "max_words": 20}
# Without the combinatorial loss nothing fused is trained; how such a model fuses all the same is a row of table 4.
_PAIRWISE = {"fused_pairs": False}
_OURS = ((40.7, 51.3), (23.8, 31.8))


def _row(key: str, label: str, *published: tuple[float, float], **fields: Any) -> Row:
    """A row with R@5 and R@10 on YouCook2 and on MSR-VTT. It asks the model of its own name where none is given."""
    by_data_set = dict(zip(("YouCook2", "MSR-VTT"), published, strict=False))
    return Row(**{"key": key, "label": label, "training": key, "published": by_data_set, **fields})


_averaged = partial(_row, media="video,audio")


def _long(key: str, label: str, *published: tuple[float, float], strategy: Strategy) -> Row:
    training = "positional" if key.startswith("positional") else "ours"
    return _row(key, label, *published, training=training, gallery="long", strategy=strategy)


def orders_of(*claims: tuple[str, ...]) -> tuple[Order, ...]:
    """The first of each claim is better than each of the others."""
    return tuple(Order(better=better, worse=worse) for better, *rest in claims for worse in rest)


_FUSION_COMPONENTS = Table(
    number=4,
    title="Contribution of the fusion transformer and of the combinatorial loss",
    rows=(
        _averaged("no_transformers", "no transformers, t -> v+a", (32.7, 41.4), (24.1, 33.7)),
        _averaged("per_modality", "a transformer for each modality, t -> v+a", (39.9, 50.7), (25.3, 33.9)),
        _averaged("fusion_v+a", "fusion transformer, t -> v+a", (39.5, 50.2), (23.8, 32.7), training="fusion"),
        _row("fusion_va", "fusion transformer, t -> va", (36.6, 47.0), (22.6, 32.1), training="fusion"),
        _averaged(
            "combinatorial_v+a",
            "fusion transformer + combinatorial loss, t -> v+a",
            *((38.2, 49.2), (23.3, 33.2)),
            training="ours",
        ),
        _row("ours", "fusion transformer + combinatorial loss, t -> va (ours)", *_OURS),
    ),
    orders=orders_of(
        ("per_modality", "no_transformers", "fusion_v+a"),
        ("fusion_v+a", "fusion_va"),
        ("ours", "fusion_va", "combinatorial_v+a", "per_modality", "no_transformers"),
    ),
)

_PROJECTIONS = Table(
    number=5,
    title="Token aggregation and projection",
    rows=(
        _row("ours", "ours", *_OURS),
        _row("shared", "ours + shared final projection", (37.2, 48.7), (23.1, 29.4), training="shared_projection"),
        _row("cls", "ours + class token + shared final projection", (35.9, 46.9), (21.4, 28.8), training="class_token"),
    ),
    orders=orders_of(("ours", "shared"), ("shared", "cls"), ("ours", "cls")),
)

_LONG_CLIPS = Table(
    number=6,
    title="Clips longer than those of training, and positional embeddings",
    rows=(
        _long("positional_nearest", "positional + uniform sampling", (32.7, 43.4), (21.8, 29.1), strategy="nearest"),
        _long("positional_max_pool", "positional + max pooling", (33.2, 43.9), (21.6, 30.5), strategy="max_pool"),
        _long("positional_clips", "positional + averaging over clips", (35.6, 46.9), (23.0, 29.2), strategy="clips"),
        _long("nearest", "uniform sampling", (34.5, 45.1), (22.1, 30.2), strategy="nearest"),
        _long("max_pool", "max pooling", (34.8, 45.2), (23.0, 31.8), strategy="max_pool"),
        _long("clips", "averaging over clips", (36.9, 47.9), (22.7, 31.3), strategy="clips"),
        _long("at_once", "video at once (ours)", *_OURS, strategy="at_once"),
        _long("beginning", "the first 4 s alone (a control, not in the paper)", strategy="beginning"),
    ),
    orders=orders_of(
        ("nearest", "positional_nearest"),
        ("max_pool", "positional_max_pool"),
        ("clips", "positional_clips", "nearest", "max_pool"),
        ("at_once", "nearest", "max_pool", "clips", "beginning"),
    ),
)

STUDIES.add(
    "everything_at_once",
    Study(
        paper="Shvetsova et al., Everything at Once, CVPR 2022 (arXiv 2112.04446), section 4.4",
        model="everything_at_once_tiny",
        recipe="everything_at_once_tiny",
        overrides={**_TRAINING_LENGTH, "epochs": 30, "min_steps": 0},
        options=_TRAINING_LENGTH,
        objectives={
            # Section 4.1, chosen there for HowTo100M.
            "published": dict(zip(_LAMBDAS, (1.0, 0.1, 0.1, 0.1, 0.1, 0.1), strict=True)),
            # The authors' fine-tunings on the data sets of table 2.
            "equal": dict.fromkeys(_LAMBDAS, 1.0),
        },
        trainings={
            "no_transformers": Training(options={**_PAIRWISE, "depth": 0}),
            "per_modality": Training(options={**_PAIRWISE, "transformer": "per_modality"}),
            "fusion": Training(options=_PAIRWISE, reading={"fused_pairs": True}),
            "ours": Training(),
            "shared_projection": Training(options={"individual_projections": False}),
            "class_token": Training(options={"individual_projections": False, "cls_token": True}),
            "positional": Training(options={"positional": True}),
        },
        tables=(_FUSION_COMPONENTS, _PROJECTIONS, _LONG_CLIPS),
    ),
)
