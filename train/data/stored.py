"""What is trained on and embedded: lists of clips or narrated videos, their files, and their features in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, Status, digest_of
from ...store import FeatureStore, ShardGoneError
from .clips import ClipDataset, ClipFeatures, ClipSample, TrainingData
from .features import FeatureDataset
from .narrated import NarratedDataset, NarratedVideo

MEMORY_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What is trained on: clips, or narrated videos where the recipe draws clips of them."""

    clips: tuple[ClipFeatures, ...] = ()
    videos: tuple[NarratedVideo, ...] = ()

    def __len__(self) -> int:
        return len(self.clips) + len(self.videos)

    @property
    def unit(self) -> str:
        """What is counted."""
        return "narrated video" if self.videos else "clip"

    @property
    def is_silent(self) -> bool:
        """Whether these are narrated videos in none of which anything is said."""
        return bool(self.videos) and not any(one.sentences for one in self.videos)

    @property
    def digest(self) -> str:
        """What identifies a training set: its clips and their features."""
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
    """What a file of `TrainingSet.write` lists, as `fit` reads it.

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
    return ClipDataset(StoredExamples(store, found.clips), **dict(limits), training=True, seed=seed)


@lru_cache(maxsize=2)
def opened_store(root: str) -> FeatureStore:
    """This process's reader of a store, which batch after batch is read through."""
    return FeatureStore(root)


_AUDIO, _TEXT = "audio", "text"
_Read = TypeVar("_Read")


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
        self, store: FeatureStore | Path | str, examples: Sequence[ClipFeatures], *, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.store = store if isinstance(store, FeatureStore) else opened_store(str(store))
        self.examples = list(examples)
        self._is_planned = False
        self._memory_bytes = memory_bytes
        sentences = dict.fromkeys(name for one in self.examples for name in _sentences(one))
        self._numbers = {name: number for number, name in enumerate(sentences)}
        self._refresh()
        self._with_shards(lambda: None)

    def _plan(self) -> None:
        self._media = self._reader([_clip(one, _media(one)) for one in self.examples])
        self._sentences = self._reader([ClipFeatures(clip=name, features={_TEXT: (name,)}) for name in self._numbers])
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
        if any(name not in self.store for one in self.examples for name in one.fingerprints()):
            self.store.refresh()

    def _reader(self, clips: Sequence[ClipFeatures]) -> FeatureDataset | None:
        names = list(dict.fromkeys(name for clip in clips for name in clip.features))
        if not names:
            return None
        return FeatureDataset(
            self.store, clips, features=names, missing="empty", narrow="nearest", memory_bytes=self._memory_bytes
        )

    @classmethod
    def load(cls, store: Path | str, path: Path) -> StoredExamples:
        """The clips that a Parquet file lists."""
        return cls(store, TrainingSet.read(path).clips)

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

    def _sample(self, example: ClipFeatures, rows: Mapping[str, NDArray[Any]]) -> ClipSample:
        sample = ClipSample(
            video=self._streams(example, rows) or None,
            audio=None
            if not example.features.get(_AUDIO)
            else self._heard(example.features[_AUDIO][0], example, rows[_AUDIO]),
            text=_Sentences(self, example.captions),
        )
        if further := _further(example):
            sample["more"] = {name: self.sentence(one) for name, one in further.items()}
        return sample

    def sentence(self, fingerprint: str) -> NDArray[Any]:
        """The rows (W, D) of a text."""
        rows = self._with_shards(lambda: self._words(self._numbers[fingerprint]))
        return rows if len(rows) else self.store.read(fingerprint).values  # which says when it is not there

    def _words(self, number: int) -> NDArray[Any]:
        assert self._sentences is not None
        return self._sentences[number]["features"][_TEXT]

    def _streams(self, example: ClipFeatures, rows: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The clip's video features (N, D) each, to be joined row by row in proportion to their numbers.

        That is right for as long as the rows of each follow one another. Where something is damaged, each row of the
        last one gets the rows of the others that are nearest in time.
        """
        video = example.features.get("video", ())
        if len(video) < 2 or all(self._is_whole(one) for one in video):
            named = enumerate(video)
            return [self._heard(name, example, rows[_stream(number)]) for number, name in named]
        *others, last = (self._feature(one, example) for one in video)
        instants = last.times.mean(axis=1)
        return [*(_nearest(one, instants) for one in others), last.values]

    def _is_whole(self, fingerprint: str) -> bool:
        entry = self.store.entry(fingerprint)
        return entry is None or entry.status is Status.OK

    def _heard(self, fingerprint: str, example: ClipFeatures, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of a span, which of a damaged feature may lie beside it."""
        return rows if len(rows) else self._feature(fingerprint, example).values

    def _feature(self, fingerprint: str, example: ClipFeatures) -> FeatureArray:
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


def _clip(example: ClipFeatures, fingerprints: Mapping[str, str]) -> ClipFeatures:
    features = {name: (one,) for name, one in fingerprints.items()}
    return replace(example, features=features, captions=())


def _media(clip: ClipFeatures) -> dict[str, str]:
    found = {_stream(number): name for number, name in enumerate(clip.features.get("video", ()))}
    audio = clip.features.get(_AUDIO)
    return {**found, _AUDIO: audio[0]} if audio else found


def _further(clip: ClipFeatures) -> dict[str, str]:
    return {name: prints[0] for name, prints in clip.features.items() if name not in ("video", _AUDIO) and prints}


def _sentences(clip: ClipFeatures) -> list[str]:
    return [*clip.captions, *_further(clip).values()]


def _nearest(feature: FeatureArray, instants: NDArray[np.float64]) -> NDArray[Any]:
    """For each instant the row (D,) whose middle is nearest."""
    distances = np.abs(feature.times.mean(axis=1)[None, :] - instants[:, None])
    rows: NDArray[Any] = feature.values[distances.argmin(axis=1)]
    return rows
