"""What a model is trained on: clips, or narrated videos of which clips are drawn; and the file that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..._vocabulary import digest_of
from ...train import ClipDataset, NarratedDataset, NarratedVideo, Recipe, StoredWords, TrainingData
from .examples import Example, StoredExamples, joined_name, opened_store, read_examples, write_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Narration:
    """One narrated video: its features, and of every sentence its span, its text and its feature.

    Attributes:
        video: the video's identity in its collection.
        streams: fingerprints of its video features, which are joined in this order.
        audio: fingerprint of its sound.
        starts: of the sentences, in seconds, ascending.
        ends: of the sentences.
        sentences: their texts.
        texts: their fingerprints.
    """

    video: str
    streams: tuple[str, ...]
    audio: str | None
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    sentences: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What is trained on: clips, or narrated videos where the recipe draws clips of them."""

    examples: tuple[Example, ...] = ()
    narrations: tuple[Narration, ...] = ()

    def __len__(self) -> int:
        return len(self.examples) + len(self.narrations)

    @property
    def unit(self) -> str:
        """What is counted."""
        return "narrated video" if self.narrations else "clip"

    @property
    def is_silent(self) -> bool:
        """Whether these are narrated videos in none of which anything is said."""
        return bool(self.narrations) and not any(one.sentences for one in self.narrations)

    @property
    def digest(self) -> str:
        """What identifies a training set: its clips and their features."""
        if self.narrations:
            return digest_of([asdict(one) for one in self.narrations])
        return digest_of([_identity(one) for one in self.examples])

    def write(self, path: Path) -> None:
        """Write the list as a Parquet file, the record of what a model was trained on."""
        if self.narrations:
            _write_narrations(path, self.narrations)
        else:
            write_examples(path, self.examples)


def training_data(recipe: Recipe, store: str, path: Path, *, limits: Mapping[str, int]) -> TrainingData:
    """The data that a file of `TrainingSet.write` lists, as the training loop reads it."""
    if recipe.narration:
        return _narrated(recipe, store, path, limits)
    return ClipDataset(StoredExamples(store, read_examples(path)), **dict(limits), training=True, seed=recipe.seed)


def _identity(one: Example) -> list[Any]:
    return [one.clip, joined_name(one.video), one.audio, list(one.texts), *([dict(one.more)] if one.more else [])]


def _write_narrations(path: Path, narrations: Iterable[Narration]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    many, seconds = pa.list_(pa.string()), pa.list_(pa.float64())
    schema = pa.schema(
        {
            "video": pa.string(),
            "streams": many,
            "audio": pa.string(),
            "starts": seconds,
            "ends": seconds,
            "sentences": many,
            "texts": many,
        }
    )
    pq.write_table(pa.Table.from_pylist([asdict(one) for one in narrations], schema=schema), path)


def _narrated(recipe: Recipe, store: str, path: Path, limits: Mapping[str, int]) -> NarratedDataset:
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    opened = opened_store(store)
    opened.refresh()
    # A sentence is found by its feature: two texts of the same words have one.
    videos = [
        NarratedVideo(
            key=row["video"],
            video=tuple(row["streams"]),
            audio=row["audio"],
            starts=row["starts"],
            ends=row["ends"],
            sentences=row["texts"],
        )
        for row in rows
    ]
    options: dict[str, Any] = {**limits, **recipe.narration}
    return NarratedDataset(opened, videos, words=StoredWords(opened, str), missing="empty", seed=recipe.seed, **options)
