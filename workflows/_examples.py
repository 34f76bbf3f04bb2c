"""Clips read from the feature store: what training and embedding iterate over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import FeatureArray, Status
from ..store import FeatureStore
from ..train import ClipSample

MEMORY_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One clip: its span, and the fingerprints of the features that it has. Several of `video` are joined."""

    clip: str
    start_seconds: float
    end_seconds: float
    video: tuple[str, ...] = ()
    audio: str | None = None
    texts: tuple[str, ...] = ()


class _Texts(Sequence[NDArray[np.float32]]):
    """The captions of a clip as word vectors (W, D), each read when it is asked for."""

    def __init__(self, fingerprints: Sequence[str], read: Callable[[str], NDArray[np.float32]]) -> None:
        self._fingerprints, self._read = fingerprints, read

    def __len__(self) -> int:
        return len(self._fingerprints)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._fingerprints[index])


class StoredExamples:
    """Clips by position, read from the store.

    What was read is kept in memory up to a limit, since training comes back to every clip in every epoch. A collection
    that is larger is read from its shards each time.
    """

    def __init__(self, store: Path | str, examples: Sequence[Example], *, memory_bytes: int = MEMORY_BYTES) -> None:
        self.store = FeatureStore(store)
        self.examples = list(examples)
        self._kept: dict[tuple[str, float, float], NDArray[np.float32]] = {}
        self._bytes_left = memory_bytes

    @classmethod
    def load(cls, store: Path | str, path: Path) -> StoredExamples:
        """The clips that a Parquet file lists."""
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
        lists = ("video", "texts")
        return cls(store, [Example(**{**row, **{name: tuple(row[name]) for name in lists}}) for row in rows])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ClipSample:
        example = self.examples[index]
        return ClipSample(
            video=self._streams(example) or None,
            audio=None if example.audio is None else self._span(example.audio, example),
            text=_Texts(example.texts, self._all),
        )

    def _streams(self, example: Example) -> list[NDArray[np.float32]]:
        """The clip's video features (N, D) each, to be joined row by row in proportion to their numbers.

        That is right for as long as the rows of each follow one another. Where something is damaged, each row of the
        last one gets the rows of the others that are nearest in time.
        """
        if len(example.video) < 2 or all(self._is_whole(one) for one in example.video):
            return [self._span(one, example) for one in example.video]
        *others, last = (self._feature(one, example) for one in example.video)
        instants = last.times.mean(axis=1)
        return [*(_nearest(one, instants) for one in others), last.values.astype(np.float32)]

    def _is_whole(self, fingerprint: str) -> bool:
        entry = self.store.entry(fingerprint)
        return entry is None or entry.status is Status.OK

    def _span(self, fingerprint: str, example: Example) -> NDArray[np.float32]:
        key = (fingerprint, example.start_seconds, example.end_seconds)
        return self._once(key, lambda: self._feature(fingerprint, example).values.astype(np.float32))

    def _once(self, key: tuple[str, float, float], read: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        values = self._kept.get(key)
        if values is None:
            values = read()
            if values.nbytes <= self._bytes_left:
                self._bytes_left -= values.nbytes
                self._kept[key] = values
        return values

    def _feature(self, fingerprint: str, example: Example) -> FeatureArray:
        feature = self.store.read_span(fingerprint, example.start_seconds, example.end_seconds)
        if len(feature.values):
            return feature
        # A span shorter than a row of the feature: the row nearest to its middle.
        feature = self.store.read(fingerprint)
        middle = (example.start_seconds + example.end_seconds) / 2
        nearest = int(np.argmin(np.abs(feature.times.mean(axis=1) - middle)))
        rows = slice(nearest, nearest + 1)
        return FeatureArray(feature.values[rows], feature.times[rows], feature.status, feature.message)

    def _all(self, fingerprint: str) -> NDArray[np.float32]:
        return self._once((fingerprint, 0.0, 0.0), lambda: self.store.read(fingerprint).values.astype(np.float32))


def _nearest(feature: FeatureArray, instants: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each instant the row (D,) whose middle is nearest."""
    distances = np.abs(feature.times.mean(axis=1)[None, :] - instants[:, None])
    rows: NDArray[np.float32] = feature.values[distances.argmin(axis=1)].astype(np.float32)
    return rows


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write clips as a Parquet file, the record of what a model was trained on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("clip", pa.string()),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("video", pa.list_(pa.string())),
            pa.field("audio", pa.string()),
            pa.field("texts", pa.list_(pa.string())),
        ]
    )
    pq.write_table(pa.Table.from_pylist([asdict(example) for example in examples], schema=schema), path)
