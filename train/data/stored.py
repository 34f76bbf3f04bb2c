"""Inputs of training and embedding: lists of clips or narrated videos, their files, and their features in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..._vocabulary import digest_of
from ...store import FeatureStore
from .clips import ClipDataset, ClipFeatures, TrainingData
from .features import FeatureDataset
from .narrated import NarratedDataset, NarratedVideo

MEMORY_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The training data: clips, or narrated videos where the recipe draws clips of them."""

    clips: tuple[ClipFeatures, ...] = ()
    videos: tuple[NarratedVideo, ...] = ()

    def __len__(self) -> int:
        return len(self.clips) + len(self.videos)

    @property
    def unit(self) -> str:
        """The name of one item, in messages."""
        return "narrated video" if self.videos else "clip"

    @property
    def is_silent(self) -> bool:
        """Whether these are narrated videos in none of which anything is said."""
        return bool(self.videos) and not any(one.sentences for one in self.videos)

    @property
    def digest(self) -> str:
        """The identity of the training set: a digest of its clips and their features."""
        if self.videos:
            return digest_of([asdict(one) for one in self.videos])
        return digest_of([[one.clip, one.identities(), one.captions] for one in self.clips])

    def write(self, path: Path) -> None:
        """Write the list as a Parquet file, the record of what a model was trained on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        strings, seconds = pa.list_(pa.string()), pa.list_(pa.float64())
        fields: dict[str, Any] = {"features": pa.map_(pa.string(), strings), "captions": strings}
        if self.videos:
            fields |= {"key": pa.string(), "starts": seconds, "ends": seconds, "sentences": strings}
        else:
            fields |= {"clip": pa.string(), "start_seconds": pa.float64(), "end_seconds": pa.float64()}
        rows = [{**asdict(one), "features": list(one.features.items())} for one in self.videos or self.clips]
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)

    @classmethod
    def read(cls, path: Path) -> TrainingSet:
        """The list that a Parquet file holds."""
        import pyarrow.parquet as pq

        rows = [
            {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
            | {"features": {name: tuple(prints) for name, prints in row["features"]}}
            for row in pq.read_table(path).to_pylist()
        ]
        if rows and "sentences" in rows[0]:
            return cls(videos=tuple(NarratedVideo(**row) for row in rows))
        return cls(clips=tuple(ClipFeatures(**row) for row in rows))


def training_data(
    path: Path, store: str, *, limits: Mapping[str, int], seed: int, narration: Mapping[str, Any] | None = None
) -> TrainingData:
    """The content of a file of `TrainingSet.write`, as `fit` reads it.

    Args:
        path: the file.
        store: where the features are.
        limits: `max_video_tokens`, `max_audio_frames` and `max_words`.
        seed: of the draws.
        narration: options of `NarratedDataset`, for a file that lists narrated videos.
    """
    found = TrainingSet.read(path)
    if found.videos:
        opened = opened_store(store)
        opened.refresh()
        options: dict[str, Any] = {**limits, **(narration or {})}
        return NarratedDataset(opened, found.videos, missing="empty", seed=seed, **options)
    return ClipDataset(stored_clips(store, found.clips), **dict(limits), training=True, seed=seed)


def stored_clips(
    store: FeatureStore | str, clips: Sequence[ClipFeatures], *, memory_bytes: int = MEMORY_BYTES
) -> FeatureDataset:
    """The features of clips, for training and embedding. What was stored since the store was opened is found.

    What was read is kept in memory up to a limit, since training comes back to every clip in every epoch. A collection
    that is larger is read from its shards each time, in an order that meets few shards at a time.
    """
    opened = opened_store(store) if isinstance(store, str) else store
    if any(name not in opened for clip in clips for name in clip.fingerprints()):
        opened.refresh()
    features = dict.fromkeys(name for clip in clips for name, streams in clip.features.items() if streams)
    return FeatureDataset(
        opened, clips, features=list(features), missing="optional", narrow="closest", memory_bytes=memory_bytes
    )


@lru_cache(maxsize=2)
def opened_store(root: str) -> FeatureStore:
    """This process's reader of a store, which batch after batch is read through."""
    return FeatureStore(root)
