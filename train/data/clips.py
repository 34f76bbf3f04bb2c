"""Clips as a model reads them: cut to the recipe's limits, normalised, a caption chosen, padded to a batch.

Source of the preparation: Everything at Once (see `_tokens.py`). torch is imported only where a batch is made, so that
this module can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, digest_of
from .tokens import join_streams

if TYPE_CHECKING:
    from ...fuse import Tokens


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
    """

    clip: str
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    start_seconds: float = -math.inf
    end_seconds: float = math.inf

    def has(self, modality: str) -> bool:
        """Whether the clip has a modality; "text" is a caption."""
        return bool(self.captions if modality == "text" else self.features.get(modality))

    def identities(self) -> dict[str, str]:
        """What identifies each modality that is embedded: its fingerprint, or the digest of joined ones in order."""
        found = {name: _joined(streams) for name, streams in self.features.items() if streams}
        return found | ({"text": self.captions[0]} if self.captions else {})

    def fingerprints(self) -> list[str]:
        """Everything that is read of the clip."""
        return [*(one for streams in self.features.values() for one in streams), *self.captions]


def _joined(fingerprints: Sequence[str]) -> str:
    return fingerprints[0] if len(fingerprints) == 1 else digest_of(["joined", *fingerprints])


class ClipSample(TypedDict):
    """The features of one clip.

    Attributes:
        video: (N, D) feature rows as stored, a list of such streams that are to be joined (`join_streams`), or None.
        audio: (T, mel bands) log-mel frames, or None.
        text: for every caption its word vectors (W, D), of one word or more; an empty list for a clip without captions.
        more: rows (N, D) of further modalities by name, such as the word vectors of what is said; may be left out.
    """

    video: NDArray[Any] | Sequence[NDArray[Any]] | None
    audio: NDArray[Any] | None
    text: Sequence[NDArray[Any]]
    more: NotRequired[Mapping[str, NDArray[Any]]]


class ClipSamples(Protocol):
    """Where clips come from: anything with a length and items.

    Samples that are best read together have `__getitems__`, and those that lie in shards `shard_groups` (see there).
    """

    def __len__(self) -> int:
        """The number of clips."""
        ...

    def __getitem__(self, index: int, /) -> ClipSample:
        """The features of clip `index`."""
        ...


PreparedClip = dict[str, "NDArray[np.float32] | None"]
"""One clip ready to be put into a batch: rows (N, D), float32, by modality; None or no rows where it lacks one."""


class TrainingData(Protocol):
    """What `fit` trains on: items that a batch is made of, which may differ from epoch to epoch.

    One whose items are not single prepared clips has a method `collate`, which makes a batch of a list of them. One
    that is read from shards has `shard_groups`, so that what lies together is read together.
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
        samples: the clips.
        max_video_tokens: feature rows of a clip that are kept.
        max_audio_frames: spectrogram frames that are kept.
        max_words: words of a caption that are kept, and rows of a further modality.
        training: whether captions are drawn.
        seed: of the draw.
    """

    def __init__(
        self,
        samples: ClipSamples,
        *,
        max_video_tokens: int = 12,
        max_audio_frames: int = 768,
        max_words: int = 20,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        self.samples = samples
        self.max_video_tokens = max_video_tokens
        self.max_audio_frames = max_audio_frames
        self.max_words = max_words
        self.training = training
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose captions are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> PreparedClip:
        return self._prepared(index, self.samples[index])

    def __getitems__(self, indices: Sequence[int]) -> list[PreparedClip]:
        """Several clips, read together where the samples can be."""
        together = getattr(self.samples, "__getitems__", None)
        samples = together(indices) if together else [self.samples[index] for index in indices]
        return [self._prepared(index, sample) for index, sample in zip(indices, samples, strict=True)]

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip is read from, as a number, (N,); zeros where it does not matter."""
        known = getattr(self.samples, "shard_groups", None)
        groups: NDArray[np.int64] = known() if known else np.zeros(len(self), np.int64)
        return groups

    def key(self, index: int) -> str:
        """What a person calls a clip."""
        known = getattr(self.samples, "key", None)
        return str(known(index)) if known else f"clip {index}"

    def _prepared(self, index: int, sample: ClipSample) -> PreparedClip:
        captions = sample["text"]
        chosen = captions[self._caption(index, num_captions=len(captions))] if len(captions) else None
        if chosen is not None and chosen.ndim == 2 and not len(chosen):
            raise InputError(f"text of {self.key(index)} is empty: give the vectors of a known word, or no caption")
        return self.prepare(text=chosen, video=sample["video"], audio=sample["audio"], more=sample.get("more", {}))

    def _caption(self, index: int, *, num_captions: int) -> int:
        if not self.training or num_captions == 1:
            return 0
        return int(np.random.default_rng((self.seed, self.epoch, index)).integers(num_captions))

    def prepare(
        self,
        *,
        text: NDArray[Any] | None,
        video: NDArray[Any] | Sequence[NDArray[Any]] | None,
        audio: NDArray[Any] | None,
        more: Mapping[str, NDArray[Any]] | None = None,
    ) -> PreparedClip:
        """Cut one clip's features to the limits; L2-normalise its video rows, those of several streams each for itself.

        Several streams are brought to the length of the last before they are cut.

        Raises InputError for what is no table of rows.
        """
        streams = [video] if isinstance(video, np.ndarray) else video
        _check_rows({"text": text, "audio": audio, **(more or {})})
        for stream in streams or ():
            _check_rows({"video": stream})
        return {
            "text": None if text is None else text[: self.max_words].astype(np.float32),
            "video": None if streams is None else join_streams(streams, max_tokens=self.max_video_tokens),
            "audio": None if audio is None else audio[: self.max_audio_frames].astype(np.float32),
            **{name: rows[: self.max_words].astype(np.float32) for name, rows in (more or {}).items()},
        }


def _check_rows(rows: Mapping[str, NDArray[Any] | None]) -> None:
    for name, one in rows.items():
        if one is not None and one.ndim != 2:
            raise InputError(f"{name} has shape {one.shape}: a clip's rows are (rows, width)")


def collate(clips: Sequence[PreparedClip]) -> dict[str, Tokens]:
    """A batch: every modality that some clip has, padded with zeros to the longest, with masks.

    Raises InputError when the clips' features are of different widths.
    """
    batch = {}
    for name in dict.fromkeys(name for clip in clips for name in clip):
        rows = [clip.get(name) for clip in clips]
        if any(each is not None and len(each) for each in rows):
            batch[name] = _padded(name, rows)
    return batch


def _padded(name: str, rows: Sequence[NDArray[np.float32] | None]) -> Tokens:
    import torch

    from ...fuse import Tokens

    present = [each for each in rows if each is not None and len(each)]
    widths = {each.shape[1] for each in present}
    if len(widths) > 1:
        raise InputError(f"the clips of a batch have {name} features of different widths: {sorted(widths)}")
    values = np.zeros((len(rows), max(len(each) for each in present), widths.pop()), np.float32)
    mask = np.zeros(values.shape[:2], bool)
    for i, each in enumerate(rows):
        if each is not None:
            values[i, : len(each)] = each
            mask[i, : len(each)] = True
    return Tokens(torch.from_numpy(values), torch.from_numpy(mask))
