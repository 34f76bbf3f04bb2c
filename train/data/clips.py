"""Clips as a model reads them: cut to the recipe's limits, normalised, a caption chosen, padded to a batch.

Source of the preparation: Everything at Once (see `tokens.py`). torch is imported only where clips are prepared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, digest_of
from .features import FeatureDataset
from .tokens import as_float32, join_padded, join_streams

if TYPE_CHECKING:
    from ...fuse import Tokens
    from .rows import Padded


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFeatures:
    """The stored features of one clip: what jobs, lists of clips and readers take.

    Attributes:
        clip: its name: in a project, the clip's id.
        features: fingerprints by feature; in a project, by modality. Several fingerprints are streams that are joined
            row by row, in this order. A feature that the clip lacks has none, or is left out.
        captions: fingerprints of its captions' word vectors; the first is the one that is embedded.
        start_seconds: first instant of the span.
        end_seconds: first instant after it. Features without times (text) are read whole.
        is_picture: whether it is a still picture.
    """

    clip: str
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    start_seconds: float = -math.inf
    end_seconds: float = math.inf
    is_picture: bool = False

    def has(self, modality: str) -> bool:
        """Whether the clip has a modality; "text" is a caption."""
        return bool(self.captions if modality == "text" else self.features.get(modality))

    def identities(self) -> dict[str, str]:
        """The identity of each modality that is embedded: its fingerprint, or the digest of joined ones in order."""
        found = {name: _joined(streams) for name, streams in self.features.items() if streams}
        return found | ({"text": self.captions[0]} if self.captions else {})

    def fingerprints(self) -> list[str]:
        """Everything that is read of the clip."""
        return [*(one for streams in self.features.values() for one in streams), *self.captions]


def _joined(fingerprints: Sequence[str]) -> str:
    return fingerprints[0] if len(fingerprints) == 1 else digest_of(["joined", *fingerprints])


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFeatures:
    """A question about a clip, with the stored features that a model reads.

    Attributes:
        clip: the name of the question.
        features: fingerprints of the clip, see `ClipFeatures`.
        texts: fingerprints of what is read: the question, or each of its options.
        answer: the number of the right answer, or option; -1 where it is unknown.
        start_seconds: first instant of the clip.
        end_seconds: first instant after it.
    """

    clip: str
    features: Mapping[str, tuple[str, ...]]
    texts: tuple[str, ...]
    answer: int
    start_seconds: float = -math.inf
    end_seconds: float = math.inf

    def fingerprints(self) -> list[str]:
        """Everything that is read of the question."""
        return [*(one for streams in self.features.values() for one in streams), *self.texts]

    @property
    def of_clip(self) -> ClipFeatures:
        """The clip alone."""
        start, end = self.start_seconds, self.end_seconds
        return ClipFeatures(clip=self.clip, features=self.features, start_seconds=start, end_seconds=end)


ClipSample = Mapping[str, Any]
"""The features of one clip as stored, by modality; None or no rows, or no entry, where it lacks one.

"video" is rows (N, D), or a list of such streams that are to be joined (`join_streams`); "audio" log-mel frames (T, mel
bands); "text" word vectors (W, D) for every caption, of one word or more; any other modality rows (N, D), such as the
word vectors of what is said.
"""

PreparedClip = dict[str, NDArray[np.float32] | None]
"""One clip ready to be put into a batch: rows (N, D), float32, by modality; None or no rows where it lacks one."""


class TrainingData(Protocol):
    """The training data of `fit`: items that a batch is made of, which may differ from epoch to epoch.

    `FeatureLoader` reads it: by `__getitems__` a batch at once, where it has that; by `collate`, where its items are
    not single prepared clips; in the order of `shard_groups`, where it is read from shards. `key` names an item. Data
    that brings a `loader` of its own is read by that, and of data in `parts` every step takes a batch of each.
    """

    def __len__(self) -> int:
        """The number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Item `index` of the current epoch."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose items follow from it and a seed alone."""
        ...


class ClipDataset:
    """A map-style dataset over clips.

    In training every epoch draws one caption of each clip, by a generator seeded with (seed, epoch, index): the same
    epoch gives the same captions in whatever order, process or run. Otherwise the first caption is taken. A caption
    that has no row raises InputError when it is read.

    Args:
        samples: the clips: those of a store, of which batches are read at once, or anything with a length and items.
        max_video_tokens: feature rows of a clip that are kept.
        max_audio_frames: spectrogram frames that are kept.
        max_words: words of a caption that are kept, and rows of a further modality.
        training: whether captions are drawn.
        seed: of the draw.

    Raises InputError for stored clips with a feature named "text", or with several streams of another than video.
    """

    def __init__(
        self,
        samples: FeatureDataset | Sequence[ClipSample],
        *,
        max_video_tokens: int = 12,
        max_audio_frames: int = 768,
        max_words: int = 20,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        for name, count in samples.num_streams.items() if isinstance(samples, FeatureDataset) else ():
            if name == "text" or (count > 1 and name != "video"):
                problem = (
                    "is the name of captions"
                    if name == "text"
                    else f"has {count} streams, and only those of video are joined"
                )
                raise InputError(f"feature {name!r} {problem}: give it another name, or name one stream")
        self.samples = samples
        self.max_video_tokens = max_video_tokens
        self.max_audio_frames = max_audio_frames
        self.max_words = max_words
        self.training = training
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose captions are drawn, and the spans of stored clips that draw them."""
        self.epoch = epoch
        if isinstance(self.samples, FeatureDataset):
            self.samples.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> PreparedClip:
        sample = self.samples[index]
        captions = sample.get("text") or ()
        chosen = captions[self._caption(index, num_captions=len(captions))] if len(captions) else None
        if chosen is not None and chosen.ndim == 2 and not len(chosen):
            raise self._empty_text(index)
        return self.prepare(**{**sample, "text": chosen})

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tokens]:
        """A batch of several clips, read together: `collate` of each of them, to the same bits."""
        if not isinstance(self.samples, FeatureDataset):
            return collate([self[index] for index in indices])
        from ...fuse import Tokens

        counts = [self.samples.num_captions(index) for index in indices]
        chosen = [
            self._caption(index, num_captions=count) if count else 0
            for index, count in zip(indices, counts, strict=True)
        ]
        read = self.samples.read(indices, captions=chosen).features
        for index, count, num_rows in zip(indices, counts, read["text"][0].num_rows.tolist(), strict=True):
            if count and not num_rows:
                raise self._empty_text(index)
        batch = {}
        for name in dict.fromkeys(("text", "video", "audio", *read)):
            if name in read and any(stream.num_rows.any() for stream in read[name]):
                rows, num_rows = self._cut(name, read[name])
                if num_rows.any():
                    batch[name] = Tokens.of(rows, np.arange(rows.shape[1]) < num_rows[:, None])
        return batch

    def batches(self, indices: Sequence[int]) -> Iterator[dict[str, Tokens]]:
        """Batches of several clips in turn: one, since rows are small."""
        yield self.__getitems__(indices)

    def _cut(self, name: str, streams: Sequence[Padded]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`prepare` for one modality of a batch: rows (B, N, D), and how many each clip has."""
        if name == "video":
            return join_padded(streams, max_tokens=self.max_video_tokens)
        num_rows = np.minimum(streams[0].num_rows, self._limit(name))
        return as_float32(streams[0].values[:, : num_rows.max(initial=0)]), num_rows

    @staticmethod
    def collate(clips: Sequence[PreparedClip] | dict[str, Tokens]) -> dict[str, Tokens]:
        """Collate a loader's items; a batch is returned as it is."""
        return clips if isinstance(clips, dict) else collate(clips)

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip is read from, as a number, (N,); zeros where it does not matter."""
        if isinstance(self.samples, FeatureDataset):
            return self.samples.shard_groups()
        return np.zeros(len(self), np.int64)

    def key(self, index: int) -> str:
        """The name of a clip."""
        known = getattr(self.samples, "key", None)
        return str(known(index)) if known else f"clip {index}"

    def _empty_text(self, index: int) -> InputError:
        return InputError(f"text of {self.key(index)} is empty: give the vectors of a known word, or no caption")

    def _caption(self, index: int, *, num_captions: int) -> int:
        if not self.training or num_captions == 1:
            return 0
        return int(np.random.default_rng((self.seed, self.epoch, index)).integers(num_captions))

    def _limit(self, name: str) -> int:
        return {"video": self.max_video_tokens, "audio": self.max_audio_frames}.get(name, self.max_words)

    def prepare(
        self,
        *,
        text: NDArray[Any] | None = None,
        video: NDArray[Any] | Sequence[NDArray[Any]] | None = None,
        **others: NDArray[Any] | None,
    ) -> PreparedClip:
        """Cut one clip's features to the limits; L2-normalise its video rows, those of several streams each for itself.

        Several streams are brought to the length of the last before they are cut.

        Raises InputError for an array of other than two dimensions.
        """
        streams = [video] if isinstance(video, np.ndarray) else video
        others = {"text": text, "audio": None, **others}
        for name, rows in (*others.items(), *(("video", stream) for stream in streams or ())):
            if rows is not None and rows.ndim != 2:
                raise InputError(f"{name} has shape {rows.shape}: a clip's rows are (rows, width)")
        cut = {name: None if rows is None else as_float32(rows[: self._limit(name)]) for name, rows in others.items()}
        joined = None if streams is None else join_streams(streams, max_tokens=self.max_video_tokens)
        return {"text": cut.pop("text"), "video": joined, **cut}


def collate(clips: Sequence[PreparedClip]) -> dict[str, Tokens]:
    """A batch: every modality that some clip has, padded with zeros to the longest, with masks.

    Raises InputError when the clips' features are of different widths.
    """
    from ...fuse import Tokens

    batch = {}
    for name in dict.fromkeys(name for clip in clips for name in clip):
        rows = [clip.get(name) for clip in clips]
        present = [each for each in rows if each is not None and len(each)]
        if not present:
            continue
        widths = {each.shape[1] for each in present}
        if len(widths) > 1:
            raise InputError(f"the clips of a batch have {name} features of different widths: {sorted(widths)}")
        values = np.zeros((len(rows), max(len(each) for each in present), widths.pop()), np.float32)
        mask = np.zeros(values.shape[:2], bool)
        for i, each in enumerate(rows):
            if each is not None:
                values[i, : len(each)] = each
                mask[i, : len(each)] = True
        batch[name] = Tokens.of(values, mask)
    return batch
