"""What a model is trained on: clips, or narrated videos of which clips are drawn; and the file that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._vocabulary import digest_of
from ..train import ClipDataset, NarratedDataset, NarratedVideo, Recipe, StoredWords, TrainingData
from ._collection import in_split
from ._examples import Example, StoredExamples, opened_store, read_examples, write_examples
from ._survey import ClipState, joined_name


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


def training_set(recipe: Recipe, clips: Iterable[ClipState]) -> TrainingSet:
    """What the training split holds: clips that have two modalities to bring together, or narrated videos.

    The captions of a narrated video's spans are its sentences; those without a known word are left out.
    """
    mine = [state for state in clips if in_split(state.clip.split, "train")]
    if recipe.narration:
        by_video: dict[str, list[ClipState]] = {}
        for state in mine:
            by_video.setdefault(state.clip.video, []).append(state)
        return TrainingSet(narrations=tuple(_narration(video, states) for video, states in by_video.items()))
    examples = (example_of(state) for state in mine)
    return TrainingSet(examples=tuple(one for one in examples if _num_modalities(one) >= 2))


def training_data(recipe: Recipe, store: str, path: Path, *, limits: Mapping[str, int]) -> TrainingData:
    """The data that a file of `TrainingSet.write` lists, as the training loop reads it."""
    if recipe.narration:
        return _narrated(recipe, store, path, limits)
    return ClipDataset(StoredExamples(store, read_examples(path)), **dict(limits), training=True, seed=recipe.seed)


def example_of(state: ClipState) -> Example:
    """A clip as training and embedding read it."""
    return Example(
        clip=state.inputs.clip,
        start_seconds=state.inputs.start_seconds,
        end_seconds=state.inputs.end_seconds,
        video=state.inputs.video,
        audio=state.inputs.audio,
        texts=state.text_fingerprints,
        more=state.inputs.more,
    )


def _num_modalities(one: Example) -> int:
    return sum((bool(one.video), one.audio is not None, bool(one.texts), *map(bool, one.more.values())))


def _identity(one: Example) -> list[Any]:
    return [one.clip, joined_name(one.video), one.audio, list(one.texts), *([dict(one.more)] if one.more else [])]


def _narration(video: str, states: list[ClipState]) -> Narration:
    said = sorted((one for one in states if one.text_fingerprints), key=lambda one: one.clip.start_seconds)
    return Narration(
        video=video,
        streams=next((one.inputs.video for one in states if one.inputs.video), ()),
        audio=next((one.inputs.audio for one in states if one.inputs.audio), None),
        starts=tuple(one.clip.start_seconds for one in said),
        ends=tuple(one.clip.end_seconds for one in said),
        sentences=tuple(one.clip.captions[0] for one in said),
        texts=tuple(one.text_fingerprints[0] for one in said),
    )


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
