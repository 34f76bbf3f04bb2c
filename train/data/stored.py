"""Inputs of training and embedding: lists of clips or narrated videos, their files, and their features in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._vocabulary import InputError, digest_of
from ...store import FeatureStore
from .clips import ClipDataset, ClipFeatures, ClipSample, QuestionFeatures, TrainingData, collate
from .features import FeatureDataset
from .frames import FrameOptions
from .narrated import NarratedDataset, NarratedVideo
from .pixels import PairedDataset, PixelDataset, QuestionDataset, middle_options, pixel_batch

if TYPE_CHECKING:
    from ...fuse import Tokens

MEMORY_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The training data: clips, narrated videos where the recipe draws clips of them, or questions."""

    clips: tuple[ClipFeatures, ...] = ()
    videos: tuple[NarratedVideo, ...] = ()
    questions: tuple[QuestionFeatures, ...] = ()

    def __len__(self) -> int:
        return len(self.clips) + len(self.videos) + len(self.questions)

    @property
    def unit(self) -> str:
        """The name of one item, in messages."""
        return "narrated video" if self.videos else "question" if self.questions else "clip"

    @property
    def is_silent(self) -> bool:
        """Whether these are narrated videos in none of which anything is said."""
        return bool(self.videos) and not any(one.sentences for one in self.videos)

    @property
    def digest(self) -> str:
        """The identity of the training set: a digest of its clips and their features."""
        if self.videos:
            return digest_of([asdict(one) for one in self.videos])
        if self.questions:
            spans = [[str(one.start_seconds), str(one.end_seconds)] for one in self.questions]
            return digest_of([[one.clip, one.fingerprints(), one.answer] for one in self.questions] + spans)
        return digest_of([[one.clip, one.identities(), one.captions] for one in self.clips])

    def write(self, path: Path) -> None:
        """Write the list as a Parquet file, the record of what a model was trained on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        strings, seconds = pa.list_(pa.string()), pa.list_(pa.float64())
        fields: dict[str, Any] = {"features": pa.map_(pa.string(), strings)}
        fields |= {"texts": strings, "answer": pa.int64()} if self.questions else {"captions": strings}
        if self.videos:
            fields |= {"key": pa.string(), "starts": seconds, "ends": seconds, "sentences": strings}
        else:
            fields |= {"clip": pa.string(), "start_seconds": pa.float64(), "end_seconds": pa.float64()}
            fields |= {"is_picture": pa.bool_()} if any(one.is_picture for one in self.clips) else {}
        listed = self.videos or self.questions or self.clips
        rows = [{**asdict(one), "features": list(one.features.items())} for one in listed]
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
        if rows and "texts" in rows[0]:
            return cls(questions=tuple(QuestionFeatures(**row) for row in rows))
        return cls(clips=tuple(ClipFeatures(**row) for row in rows))


def training_data(
    path: Path,
    store: str,
    *,
    limits: Mapping[str, Any],
    seed: int,
    narration: Mapping[str, Any] | None = None,
    frames: FrameOptions | None = None,
    pairs: bool = False,
) -> TrainingData:
    """The content of a file of `TrainingSet.write`, as `fit` reads it.

    Args:
        path: the file.
        store: where the features are.
        limits: `max_video_tokens`, `max_audio_frames` and `max_words`; of pixels `max_words` alone.
        seed: of the draws.
        narration: options of `NarratedDataset`, for a file that lists narrated videos.
        frames: for models that learn from pixels: how a clip becomes pictures.
        pairs: whether every step takes a batch of videos and one of still pictures.

    Raises:
        InputError: with `pairs`, there are no videos, or no pictures.
    """
    found = TrainingSet.read(path)
    if frames is not None:
        opened = _with(store, found.questions or found.clips)
        reading = {"max_words": limits["max_words"], "seed": seed}
        if found.questions:
            return QuestionDataset(opened, found.questions, options=frames, **reading)
        if not pairs:
            return PixelDataset(opened, found.clips, options=frames, **reading)
        videos = [clip for clip in found.clips if not clip.is_picture]
        pictures = [clip for clip in found.clips if clip.is_picture]
        if not videos or not pictures:
            raise InputError(
                f"co-training takes videos and still pictures with captions, and the training split has {len(videos)}"
                f" clips of videos and {len(pictures)} pictures: name pictures in the manifest, or set frames.pictures"
                " of the recipe to 'as_videos'"
            )
        single = frames.replaced(num_frames=1, curriculum=())
        parts = [PixelDataset(opened, videos, options=frames, **reading)]
        return PairedDataset([*parts, PixelDataset(opened, pictures, options=single, **reading)])
    if found.videos:
        opened = opened_store(store)
        opened.refresh()
        options: dict[str, Any] = {**limits, **(narration or {})}
        return NarratedDataset(opened, found.videos, missing="empty", seed=seed, **options)
    return ClipDataset(stored_clips(store, found.clips), **dict(limits), training=True, seed=seed)


def clip_data(
    store: FeatureStore | str, clips: Sequence[ClipFeatures], limits: Mapping[str, Any]
) -> ClipDataset | PixelDataset:
    """Clips as a model reads them to embed them: rows of features, or pictures where the limits are those of frames."""
    if "num_frames" in limits:
        options = middle_options(limits)
        return PixelDataset(_with(store, clips), clips, options=options, max_words=limits["max_words"])
    return ClipDataset(stored_clips(store, clips), **limits, training=False)


def question_data(store: str, questions: Sequence[QuestionFeatures], limits: Mapping[str, Any]) -> QuestionDataset:
    """Questions as a model of pixels reads them to answer them: the frames' middles, the whole square."""
    options = middle_options(limits)
    return QuestionDataset(_with(store, questions), questions, options=options, max_words=limits["max_words"])


def sample_batch(samples: Sequence[ClipSample], limits: Mapping[str, Any], *, spec: str = "") -> dict[str, Tokens]:
    """A batch of samples in memory, such as questions.

    Args:
        samples: see `ClipSample`, with one caption each. Pictures of pixels are the feature itself, a `FeatureArray`.
        limits: see `clip_data`.
        spec: of the feature `pixels`, canonical JSON, where a sample has pictures.
    """
    if "num_frames" in limits:
        return pixel_batch(samples, limits, spec=spec)
    dataset = ClipDataset(samples, **limits, training=False)
    return collate([dataset[index] for index in range(len(samples))])


def stored_clips(
    store: FeatureStore | str, clips: Sequence[ClipFeatures], *, memory_bytes: int = MEMORY_BYTES
) -> FeatureDataset:
    """The features of clips, for training and embedding. What was stored since the store was opened is found.

    What was read is kept in memory up to a limit, since training comes back to every clip in every epoch. A collection
    that is larger is read from its shards each time, in an order that meets few shards at a time.
    """
    opened = _with(store, clips)
    features = dict.fromkeys(name for clip in clips for name, streams in clip.features.items() if streams)
    return FeatureDataset(
        opened, clips, features=list(features), missing="optional", narrow="closest", memory_bytes=memory_bytes
    )


def _with(store: FeatureStore | str, clips: Sequence[ClipFeatures | QuestionFeatures]) -> FeatureStore:
    """A store as it is now, where it was opened before all of the clips' features were there."""
    opened = opened_store(store) if isinstance(store, str) else store
    if any(name not in opened for clip in clips for name in clip.fingerprints()):
        opened.refresh()
    return opened


@lru_cache(maxsize=2)
def opened_store(root: str) -> FeatureStore:
    """This process's reader of a store, which batch after batch is read through."""
    return FeatureStore(root)
