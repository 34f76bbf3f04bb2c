"""Clips read from the feature store: what training and embedding iterate over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, Status, digest_of
from ...store import FeatureStore, ShardGoneError
from ...train import ClipSample, FeatureClip, FeatureDataset

MEMORY_BYTES = 2_000_000_000
_AUDIO, _TEXT = "audio", "text"
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One clip: its span, and the fingerprints of the features that it has.

    Attributes:
        clip: id of the clip.
        start_seconds: first instant of the span.
        end_seconds: first instant after it.
        video: features of video, which are joined in this order.
        audio: the feature of audio.
        texts: one for each caption.
        more: features of further modalities, by name. They are texts of the clip, and read whole.
    """

    clip: str
    start_seconds: float
    end_seconds: float
    video: tuple[str, ...] = ()
    audio: str | None = None
    texts: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)

    def media(self) -> dict[str, str]:
        """The features that are cut to the span, by the names that this module reads them under."""
        found = {_stream(number): name for number, name in enumerate(self.video)}
        return found if self.audio is None else {**found, _AUDIO: self.audio}

    def sentences(self) -> list[str]:
        """The features that are read whole: captions, then further modalities."""
        return [*self.texts, *self.more.values()]


def _stream(number: int) -> str:
    return f"video-{number}"


class StoredExamples:
    """Clips by position, read from the store through the training reader (`train.FeatureDataset`).

    What was read is kept in memory up to a limit, since training comes back to every clip in every epoch. A collection
    that is larger is read from its shards each time, in an order that meets few shards at a time (`shard_groups`).

    Args:
        store: the features, or where they are.
        examples: the clips.
        memory_bytes: values of media kept in memory, and as many of texts.
    """

    def __init__(
        self, store: FeatureStore | Path | str, examples: Sequence[Example], *, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.store = store if isinstance(store, FeatureStore) else opened_store(str(store))
        self.examples = list(examples)
        self._is_planned = False
        self._memory_bytes = memory_bytes
        sentences = dict.fromkeys(name for one in self.examples for name in one.sentences())
        self._numbers = {name: number for number, name in enumerate(sentences)}
        self._refresh()
        self._with_shards(lambda: None)

    def _plan(self) -> None:
        self._media = self._reader([_clip(one, one.media()) for one in self.examples])
        self._sentences = self._reader([FeatureClip(key=name, fingerprints={_TEXT: name}) for name in self._numbers])
        self._is_planned = True

    def _with_shards(self, read: Callable[[], _Read]) -> _Read:
        """What is read; also when shards have gone because they were merged with others meanwhile."""
        try:
            if not self._is_planned:
                self._plan()
            return read()
        except ShardGoneError:
            self.store.refresh()
            self._plan()
            return read()

    def _refresh(self) -> None:
        """See what was stored since the store was opened, where that is asked for."""
        if any(name not in self.store for one in self.examples for name in (*one.media().values(), *one.sentences())):
            self.store.refresh()

    def _reader(self, clips: Sequence[FeatureClip]) -> FeatureDataset | None:
        names = list(dict.fromkeys(name for clip in clips for name in clip.fingerprints))
        if not names:
            return None
        return FeatureDataset(
            self.store, clips, features=names, missing="empty", narrow="nearest", memory_bytes=self._memory_bytes
        )

    @classmethod
    def load(cls, store: Path | str, path: Path) -> StoredExamples:
        """The clips that a Parquet file lists."""
        return cls(store, read_examples(path))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ClipSample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[ClipSample]:
        """Several clips, read in the order in which they lie in their shards."""
        rows = self._with_shards(lambda: self._rows(indices))
        return [self._sample(self.examples[index], one) for index, one in zip(indices, rows, strict=True)]

    def _rows(self, indices: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
        if self._media is None:
            return [{} for _ in indices]
        return [read["features"] for read in self._media.__getitems__(indices)]

    def key(self, index: int) -> str:
        """The id of a clip."""
        return self.examples[index].clip

    def num_bytes(self) -> int:
        """The size of everything that is read in an epoch."""
        return sum(reader.num_bytes() for reader in (self._media, self._sentences) if reader)

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip is read near, (N,); all the same where memory holds everything."""
        if self._media is None or self.num_bytes() <= self._memory_bytes:
            return np.zeros(len(self), np.int64)
        return self._media.shard_groups()

    def _sample(self, example: Example, rows: Mapping[str, NDArray[Any]]) -> ClipSample:
        sample = ClipSample(
            video=self._streams(example, rows) or None,
            audio=None if example.audio is None else self._heard(example.audio, example, rows[_AUDIO]),
            text=_Sentences(self, example.texts),
        )
        if example.more:
            sample["more"] = {name: self.sentence(one) for name, one in example.more.items()}
        return sample

    def sentence(self, fingerprint: str) -> NDArray[Any]:
        """The rows (W, D) of a text."""
        rows = self._with_shards(lambda: self._words(self._numbers[fingerprint]))
        return rows if len(rows) else self.store.read(fingerprint).values  # which says when it is not there

    def _words(self, number: int) -> NDArray[Any]:
        assert self._sentences is not None
        return self._sentences[number]["features"][_TEXT]

    def _streams(self, example: Example, rows: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The clip's video features (N, D) each, to be joined row by row in proportion to their numbers.

        That is right for as long as the rows of each follow one another. Where something is damaged, each row of the
        last one gets the rows of the others that are nearest in time.
        """
        if len(example.video) < 2 or all(self._is_whole(one) for one in example.video):
            named = enumerate(example.video)
            return [self._heard(name, example, rows[_stream(number)]) for number, name in named]
        *others, last = (self._feature(one, example) for one in example.video)
        instants = last.times.mean(axis=1)
        return [*(_nearest(one, instants) for one in others), last.values]

    def _is_whole(self, fingerprint: str) -> bool:
        entry = self.store.entry(fingerprint)
        return entry is None or entry.status is Status.OK

    def _heard(self, fingerprint: str, example: Example, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of a span, which of a damaged feature may lie beside it."""
        return rows if len(rows) else self._feature(fingerprint, example).values

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


class _Sentences(Sequence[NDArray[Any]]):
    """The captions of a clip as word vectors (W, D), each read when it is asked for."""

    def __init__(self, examples: StoredExamples, fingerprints: Sequence[str]) -> None:
        self._examples, self._fingerprints = examples, fingerprints

    def __len__(self) -> int:
        return len(self._fingerprints)

    def __getitem__(self, index: Any) -> Any:
        return self._examples.sentence(self._fingerprints[index])


def _clip(example: Example, fingerprints: Mapping[str, str]) -> FeatureClip:
    return FeatureClip(
        key=example.clip,
        fingerprints=fingerprints,
        start_seconds=example.start_seconds,
        end_seconds=example.end_seconds,
    )


@lru_cache(maxsize=2)
def opened_store(root: str) -> FeatureStore:
    """This process's reader of a store, which batch after batch is read through."""
    return FeatureStore(root)


def joined_name(fingerprints: Sequence[str]) -> str | None:
    """What identifies features that are joined: that of the only one, or the digest of several in their order."""
    if len(fingerprints) > 1:
        return digest_of(["joined", *fingerprints])
    return fingerprints[0] if fingerprints else None


def _nearest(feature: FeatureArray, instants: NDArray[np.float64]) -> NDArray[Any]:
    """For each instant the row (D,) whose middle is nearest."""
    distances = np.abs(feature.times.mean(axis=1)[None, :] - instants[:, None])
    rows: NDArray[Any] = feature.values[distances.argmin(axis=1)]
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
            pa.field("more", pa.map_(pa.string(), pa.string())),
        ]
    )
    rows = [{**asdict(example), "more": list(example.more.items())} for example in examples]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def read_examples(path: Path) -> list[Example]:
    """The clips that a Parquet file lists."""
    import pyarrow.parquet as pq

    return list(_examples(pq.read_table(path).to_pylist()))


def _examples(rows: Iterable[Mapping[str, Any]]) -> Iterator[Example]:
    for row in rows:
        lists = {name: tuple(row[name]) for name in ("video", "texts")}
        yield Example(**{**row, **lists, "more": dict(row.get("more") or ())})
