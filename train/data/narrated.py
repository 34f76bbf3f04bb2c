"""Pre-training on narrated videos: of every video some random clips, each with the words that are said around it.

Paper: Everything at Once (arXiv 2112.04446), section 4.1: from every video of HowTo100M 10 clips of 8 s, 224 videos to
a batch. Source: ninatu/everything_at_once@4daeab6, everything_at_once/dataset/howto_dataset.py. How a clip is found and
its sound shifted is in `narration.py`, which says where paper and code differ.

Video rows are those that overlap the closed span of the clip. On the published grid (row k lasts from k / rate to
(k + 1) / rate) that is the authors' slice int(start * rate) to int(end * rate), the last included; it needs no rate,
and stays right where rows are missing. Spectrogram frames are counted as the authors count them: row k of the feature
is frame k of the sound.

Deviations: a video without sound is as long as its first video feature. The authors' videos all have sound.

Legend: T rows of a video, W words, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, check_word
from ...store import FeatureStore, ShardGoneError, SharedLock
from .clips import ClipDataset, PreparedClip, collate
from .narration import AudioShift, NarratedClip, audio_frames_of, random_clip
from .plan import Plan, Spans, kept_clips, shard_groups

if TYPE_CHECKING:
    from ...fuse import Tokens

AUDIO = "audio"
_FRAMES_PER_SECOND = 100
MissingPolicy = Literal["error", "skip", "empty"]
Words = Callable[[Sequence[str]], NDArray[Any]]
"""Sentences, in the order in which their words are joined, to word vectors (W, D)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NarratedVideo:
    """One video: where its features are, and what is said in it.

    Attributes:
        key: its name: in a project, the video's identity.
        features: fingerprints of "video", in the order in which they are joined, and of "audio", a log-mel spectrogram.
        starts: first instant of every sentence, in seconds, ascending.
        ends: last instant of every sentence.
        sentences: their texts; empty for a video in which nothing is said.
        captions: fingerprints of the sentences' word vectors, where these are stored.
    """

    key: str
    features: Mapping[str, tuple[str, ...]]
    starts: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()
    sentences: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = f"{len(self.starts)} starts, {len(self.ends)} ends and {len(self.sentences)} sentences"
        if not len(self.starts) == len(self.ends) == len(self.sentences):
            raise InputError(f"{self.key!r} has {counts}: give one of each for every sentence")
        starts, ends = np.asarray(self.starts, np.float64), np.asarray(self.ends, np.float64)
        if not (np.isfinite(starts).all() and np.isfinite(ends).all() and (ends >= starts).all()):
            raise InputError(f"{self.key!r} has a sentence that ends before it starts, or at no instant at all")
        if self.captions and len(self.captions) != len(self.sentences):
            raise InputError(f"{self.key!r} has {counts}, and {len(self.captions)} captions: give as many, or none")
        unread = [name for name, prints in self.features.items() if len(prints) > (name == AUDIO) and name != "video"]
        if unread:
            raise InputError(f"{self.key!r} has more {', '.join(unread)} than is read: one of audio and any of video")
        if (np.diff(starts) < 0).any():
            raise InputError(f"the sentences of {self.key!r} are not in the order of their starts: sort them")


class NarratedDataset:
    """A map-style data set over narrated videos; an item is a list of clips of one video.

    Every epoch draws other clips, by a generator seeded with (seed, epoch, video, clip): the same epoch gives the same
    clips in whatever order, process or run. `fit` trains on it: its `batch_size` then counts videos, and a batch holds
    `clips_per_video` times as many clips. It can be pickled when `words` can.

    Args:
        store: the features, or the folder that they are in.
        videos: what to read.
        words: encodes sentences, see `Words`, such as a word2vec backbone on the joined text. None joins their stored
            word vectors (`NarratedVideo.captions`), which is the same; it is not for encoders that read a text as a
            whole, such as CLIP's.
        clips_per_video: clips of each video in an epoch.
        min_seconds: length of a random span; a clip of whole sentences lasts at least so long, where there are enough.
        audio_shift: where the sound of a clip with words begins: "later" by half of `min_seconds`, as published; "none"
            with the clip; "random" later or earlier, as the paper says.
        max_video_tokens: feature rows of a clip that are kept.
        max_audio_frames: spectrogram frames of a clip that are kept.
        max_words: words of a clip that are kept.
        missing: what it means when a feature is not stored or has no rows: "error" refuses the videos, "skip" leaves
            the video out before training starts, "empty" gives clips without that modality.
        seed: of the draws.

    Attributes:
        num_given: videos before any was left out.
        num_skipped: videos left out.
        missing_counts: for each feature the videos that lack it, by reason.

    Raises:
        InputError: a video lacks a feature and the policy is "error"; videos of different numbers of features; features
            that differ in width or type; options that cannot be.
        LockedError: the store is being compacted or repaired.
    """

    def __init__(
        self,
        store: FeatureStore | Path,
        videos: Iterable[NarratedVideo],
        *,
        words: Words | None = None,
        clips_per_video: int = 10,
        min_seconds: float = 8.0,
        audio_shift: AudioShift = "later",
        max_video_tokens: int = 12,
        max_audio_frames: int = 768,
        max_words: int = 20,
        missing: MissingPolicy = "error",
        seed: int = 0,
    ) -> None:
        check_word("audio_shift", audio_shift, AudioShift)
        check_word("missing", missing, MissingPolicy)
        if clips_per_video < 1 or not 0 < min_seconds < np.inf:
            raise InputError(f"clips_per_video {clips_per_video} and min_seconds {min_seconds} must be above 0")
        given = list(videos)
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self._hold = SharedLock(self.store.place.folder)  # nothing is merged while it is read
        if words is None and any(len(video.captions) < len(video.sentences) for video in given):
            raise InputError("some sentences have no stored word vectors: give their captions, or words to encode them")
        self.words, self.clips_per_video, self.min_seconds = words, clips_per_video, min_seconds
        self.audio_shift, self.seed, self.epoch = audio_shift, seed, 0
        self.limits = ClipDataset(
            (), max_video_tokens=max_video_tokens, max_audio_frames=max_audio_frames, max_words=max_words
        )
        counts = {len(video.features.get("video", ())) for video in given}
        if len(counts) > 1:
            raise InputError(f"the videos name {sorted(counts)} video features: each must name the same ones")
        self.streams = tuple(f"video {number}" for number in range(1, max(counts, default=0) + 1))
        prints: dict[str, list[str | None]] = {
            name: [video.features["video"][number] for video in given] for number, name in enumerate(self.streams)
        }
        prints[AUDIO] = [next(iter(video.features.get(AUDIO, ())), None) for video in given]
        try:
            plans = {name: Plan(self.store, name, one) for name, one in prints.items()}
        except ShardGoneError:  # merged with others since the store was opened
            self.store.refresh()
            plans = {name: Plan(self.store, name, one) for name, one in prints.items()}
        self.missing_counts = {name: plan.reasons for name, plan in plans.items()}
        names = [video.key for video in given]
        kept = kept_clips(
            {name: [plan] for name, plan in plans.items()}, dict.fromkeys(plans, missing), names, what="videos"
        )
        self.num_given, self.num_skipped = len(given), int((~kept).sum())
        self._videos = [video for video, keep in zip(given, kept.tolist(), strict=True) if keep]
        self._spans = {name: plan.spans(kept) for name, plan in plans.items()}
        self._num_frames = _frame_counts(self._spans[AUDIO], plans, kept)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_hold"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold = SharedLock(self.store.place.folder)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that clips are drawn for. It does not reach workers that are running."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._videos)

    def key(self, index: int) -> str:
        return self._videos[index].key

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each video is read near, as a number, (N,): of the first of its features that it has."""
        return shard_groups(list(self._spans.values()))

    def __getitem__(self, index: int) -> list[PreparedClip]:
        """The clips of one video in this epoch. Raises IndexError; IntegrityError when a shard is damaged."""
        index = range(len(self))[index]
        try:
            return self._read(index)
        except ShardGoneError:  # merged on another machine, which locks do not reach
            self.store.refresh()
            moved = [spans.relocate(self.store) for spans in self._spans.values()]
            if not any(moved):
                raise
            return self._read(index)

    def _read(self, index: int) -> list[PreparedClip]:
        times = {
            name: self.store.read_times(*self._spans[name].place(index))
            if self._spans[name].present[index]
            else np.zeros((0, 2))
            for name in self.streams
        }
        prepared = []
        for clip, frames in self._drawn(index):
            rows = [self._rows(name, index, _overlapping(times[name], clip)) for name in self.streams]
            text = self._text(index, clip.sentences) if clip.sentences else None
            audio = self._rows(AUDIO, index, frames)
            prepared.append(self.limits.prepare(text=text, video=rows or None, audio=audio))
        return prepared

    def clips(self, index: int) -> list[NarratedClip]:
        """The spans and sentences that are drawn of a video in this epoch."""
        return [clip for clip, _ in self._drawn(range(len(self))[index])]

    def _drawn(self, index: int) -> list[tuple[NarratedClip, slice]]:
        """Of every clip its span and sentences, and its spectrogram frames."""
        video, drawn = self._videos[index], []
        for number in range(self.clips_per_video):
            generator = np.random.default_rng((self.seed, self.epoch, index, number))
            clip = random_clip(
                video.starts,
                video.ends,
                num_frames=int(self._num_frames[index]),
                min_seconds=self.min_seconds,
                draw=generator.random(),
            )
            frames = audio_frames_of(
                clip,
                min_seconds=self.min_seconds,
                max_frames=self.limits.max_audio_frames,
                shift=self.audio_shift,
                generator=generator,
            )
            drawn.append((clip, frames))
        return drawn

    def _text(self, index: int, sentences: Sequence[int]) -> NDArray[Any]:
        video = self._videos[index]
        if self.words is not None:
            return self.words([video.sentences[number] for number in sentences])
        return np.concatenate([self.store.read(video.captions[number]).values for number in sentences])

    def _rows(self, name: str, index: int, rows: slice) -> NDArray[Any]:
        """Some rows of a whole video's feature, those that there are."""
        spans = self._spans[name]
        num_rows = int(spans.num_rows[index])
        if rows.start >= min(rows.stop, num_rows):
            return np.zeros((0, spans.dim), spans.dtype)
        shard, first, _ = spans.place(index)
        return self.store.read_rows(shard, first + rows.start, first + min(rows.stop, num_rows))

    @staticmethod
    def collate(items: Sequence[Sequence[PreparedClip]]) -> dict[str, Tokens]:
        """A batch of all clips of some videos, video after video."""
        return collate(list(chain.from_iterable(items)))


def _overlapping(times: NDArray[np.float64], clip: NarratedClip) -> slice:
    """The rows (T, 2) that overlap a closed span."""
    first = int(np.searchsorted(times[:, 1], clip.start_seconds, side="right"))
    return slice(first, int(np.searchsorted(times[:, 0], clip.end_seconds, side="right")))


def _frame_counts(audio: Spans, plans: dict[str, Plan], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Spectrogram frames of every video; of one without sound as many as its first video feature lasts."""
    counts = audio.num_rows
    for plan in plans.values():
        seconds = np.nan_to_num(plan.extents[kept][:, 1])
        counts = np.where(counts == 0, (seconds * _FRAMES_PER_SECOND).astype(np.int64), counts)
    return counts
