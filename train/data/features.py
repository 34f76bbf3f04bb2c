"""Clips read from a feature store: any set of named features, cut to each clip's span, and the clips' captions.

What is read is settled once, before training starts, from the sidecars and the rows' times: for each clip and feature a
sample and its rows (`plan.Spans`). These are plain arrays, so that a worker is given no list of Python objects and
parses no sidecar, and a clip costs one read of its own rows. Shards are opened by the process that reads them, after it
has started.

Legend: N clips, B of them in a batch, T rows of a clip, D width.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, check_word
from ...store import FeatureStore, ShardGoneError, SharedLock
from .order import EpochOrder, ShardBatchSampler, process_of
from .plan import MissingPolicy, NarrowPolicy, Plan, Spans, Texts, format_counts, kept_clips, shard_groups
from .rows import Budget, Padded, Rows, Span, SpanDraw

if TYPE_CHECKING:
    from ...fuse import Tokens
    from .clips import ClipFeatures

_log = logging.getLogger(__name__)

TEXT = "text"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBatch:
    """Clips that were read at once.

    Attributes:
        index: of the clips in their data set, (B,).
        features: by name the streams that are joined, mostly one; "text" is a caption of each clip.
    """

    index: NDArray[np.int64]
    features: dict[str, tuple[Padded, ...]]

    def __len__(self) -> int:
        return len(self.index)

    def tokens(self) -> dict[str, Tokens]:
        """Values (B, T, D) and mask (B, T) of each feature that any clip has, of the type that they are stored in.

        Nothing is copied. Raises InputError for streams that are to be joined: `ClipDataset` joins them.
        """
        from ...fuse import Tokens

        joined = [name for name, streams in self.features.items() if len(streams) > 1]
        if joined:
            raise InputError(f"{', '.join(joined)} has several streams: read it through ClipDataset, which joins them")
        streams = {name: stream for name, (stream,) in self.features.items() if stream.values.shape[1]}
        return {name: Tokens.of(stream.values, stream.mask) for name, stream in streams.items()}


class FeatureDataset:
    """A map-style data set over clips in a feature store, whose batches are read at once.

    It can be pickled and given to processes started in any way; each opens its own files. What is stored is looked up
    once, when the data set is made. For as long as it lives, no compaction on this machine moves what it is about to
    read; after one on another machine the samples are looked up again.

    A clip's rows are those whose middle lies in its span, as `FeatureStore.read_span` gives them. A feature is missing
    where the clip names no fingerprint ("not_given"), the store does not hold it ("not_stored"), it has no rows (the
    status that it was stored with) or none of them lies in the span ("no_row_in_span").

    Args:
        store: the features, or the folder that they are in.
        clips: what to read, in the order that is given when it is not shuffled. Their captions must be stored.
        features: names of the features of a sample. The first that a clip has decides which shard it is read near.
        missing: what a missing feature means, for all features or by name. "error" refuses the clips; "skip" leaves the
            clip out before training starts; "empty" gives no rows; "optional" too, but only to a clip that names no
            fingerprint or one that was stored without rows: one that is not stored is refused.
        narrow: what a span means that lies within a feature and yet holds the middle of none of its rows, because it is
            shorter than a row: "missing"; "nearest" for the row whose middle is nearest to the span's; "closest" for
            that row wherever the span lies, as next to the rows of a damaged video.
        draw: cuts each clip anew in every epoch, for random windows of long videos: it is given (epoch, clip's number,
            the clip's seconds [start, end)) and gives the seconds to read of it, the same for all features. It must be
            a pure function, and picklable for workers (`UniformWindow` is one). A feature without a row in the drawn
            span has none in that sample, whatever the policy.
        memory_bytes: values kept in memory by each process once they are read, until so many bytes are kept; of a
            `FeatureLoader`'s workers only by persistent ones.

    Attributes:
        num_given: clips before any was left out.
        num_skipped: clips left out.
        missing_counts: for each feature the clips that lack it, by reason; clips that were left out are counted too.

    Raises:
        InputError: a clip lacks a feature or a caption that it must have; a feature's rows differ in width or type, or
            are not in the order of time; a policy or name that is not known.
        IntegrityError: a shard is not what was written.
        LockedError: the store is being compacted.
    """

    def __init__(
        self,
        store: FeatureStore | Path,
        clips: Iterable[ClipFeatures],
        *,
        features: Sequence[str],
        missing: MissingPolicy | Mapping[str, MissingPolicy] = "error",
        narrow: NarrowPolicy = "missing",
        draw: SpanDraw | None = None,
        memory_bytes: int = 0,
    ) -> None:
        clips = list(clips)
        policies = _policies(features, missing)
        if TEXT in features and any(clip.captions for clip in clips):
            raise InputError("a feature is named 'text', and the clips have captions, which are: give it another name")
        check_word("narrow", narrow, NarrowPolicy)
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self._hold = SharedLock(self.store.place.folder)
        options: Any = {"narrow": narrow, "is_drawn": draw is not None}
        try:
            plans, captions = _plans(self.store, clips, features, **options)
        except ShardGoneError:  # merged with others since the store was opened
            self.store.refresh()
            plans, captions = _plans(self.store, clips, features, **options)
        self.num_given = len(clips)
        self.missing_counts: dict[str, Counter[str]] = {
            name: sum((plan.reasons for plan in streams), Counter()) for name, streams in plans.items()
        }
        kept = kept_clips(plans, policies, [clip.clip for clip in clips])
        unknown = [plan.unknown for name, streams in plans.items() if policies[name] == "optional" for plan in streams]
        for fingerprint in filter(None, [*unknown, captions.unknown]):
            raise InputError(f"no feature {fingerprint} in {self.store.root}; run extract, or refresh this reader")
        self.num_skipped = int((~kept).sum())
        self._spans = {name: tuple(plan.spans(kept) for plan in streams) for name, streams in plans.items()}
        self._damaged = {
            name: np.any([plan.damaged()[kept] for plan in streams], axis=0)
            for name, streams in plans.items()
            if len(streams) > 1
        }
        self._num_captions = np.array([len(clip.captions) for clip in clips], np.int64)[kept]
        self._captions = captions.spans(np.append(np.repeat(kept, [len(clip.captions) for clip in clips]), True))
        self._extents = _first_known([streams[0].extents[kept] for streams in plans.values()]) if draw else None
        self._memory_bytes, self._draw = (0 if draw else memory_bytes), draw  # a drawn span hardly ever comes again
        self.epoch = 0
        self._keys = Texts([clip.clip for clip, keep in zip(clips, kept, strict=True) if keep])
        self.digest = _digest(clips, kept, features, narrow)
        self._begin()
        _log.info("%s", self.summary())

    def _begin(self) -> None:
        """Nothing is kept in memory yet."""
        self.budget = budget = Budget(self._memory_bytes) if self._memory_bytes else None
        self._rows = {
            name: tuple(Rows(self.store, spans, budget) for spans in streams) for name, streams in self._spans.items()
        }
        self._caption_rows = Rows(self.store, self._captions, budget)
        self._first_caption = np.cumsum(self._num_captions) - self._num_captions

    def __getstate__(self) -> dict[str, Any]:
        made = ("budget", "_rows", "_caption_rows", "_first_caption", "_hold")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold = SharedLock(self.store.place.folder)
        self._begin()

    def summary(self) -> str:
        """Counts of features read and missing, in one line."""
        lacking = [
            f"{name} is missing in {counts.total():,} ({format_counts(counts)})"
            for name, counts in self.missing_counts.items()
            if counts
        ]
        left_out = f", {self.num_skipped:,} left out" if self.num_skipped else ""
        return "; ".join([f"{len(self):,} clips of {self.num_given:,} are read{left_out}", *lacking])

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip, see `ClipSample`: rows (T, D) by feature, T 0 where it lacks one, and all of its captions.

        Raises IndexError; IntegrityError when its shard is not what was written.
        """
        read = self.read([index]).features
        sample: dict[str, Any] = {
            name: streams[0].rows(0) if len(streams) == 1 else [stream.rows(0) for stream in streams]
            for name, streams in read.items()
        }
        if self._num_captions.any():
            first, count = self._first_caption[index], self.num_captions(index)
            texts = self._caption_rows.read(np.arange(first, first + count))
            sample[TEXT] = [texts.rows(number) for number in range(count)]
        return sample

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        return self.read(indices)

    @staticmethod
    def collate(batch: FeatureBatch) -> dict[str, Tokens]:
        return batch.tokens()

    def read(self, indices: Sequence[int], *, captions: Sequence[int] | None = None) -> FeatureBatch:
        """Several clips, in the order asked for, read in the order in which they lie in their shards.

        Args:
            indices: of the clips.
            captions: of each clip the number of the caption that is read; None reads no captions.

        Raises:
            IndexError: there is no such clip.
            IntegrityError: a shard is not what was written.
        """
        index = np.array(indices, np.int64)
        index[index < 0] += len(self)
        if index.min(initial=0) < 0 or index.max(initial=-1) >= len(self):
            raise IndexError(f"clips {list(indices)} were asked for, of {len(self)}")
        cuts = [self.span(one) for one in index.tolist()] if self._draw else None
        found: dict[str, tuple[Padded, ...]] = {}
        try:
            for name, streams in self._rows.items():
                for rows in streams:
                    found[name] = (*found.get(name, ()), rows.read(index, cuts))
            if captions is not None:
                none = len(self._captions.sample) - 1
                numbers = np.where(self._num_captions[index], self._first_caption[index] + np.asarray(captions), none)
                found[TEXT] = (self._caption_rows.read(numbers),)
            for name, is_damaged in self._damaged.items():
                for place in np.flatnonzero(is_damaged[index]).tolist():
                    found[name] = self._align(name, found[name], place, int(index[place]))
        except ShardGoneError:
            if not self._relocate():
                raise
            return self.read(indices, captions=captions)
        return FeatureBatch(index, found)

    def _relocate(self) -> bool:
        """Look up every sample again, whose shards may have been merged. Whether anything has moved."""
        self.store.refresh()
        every = (self._captions, *chain.from_iterable(self._spans.values()))
        moved = [spans.relocate(self.store) for spans in every]
        return any(moved)

    def _align(self, name: str, streams: tuple[Padded, ...], place: int, clip: int) -> tuple[Padded, ...]:
        """Streams with holes are joined by time: each row of the last gets the rows of the others that are nearest."""
        if not all(stream.num_rows[place] for stream in streams):
            return streams
        *others, instants = (rows.middles(clip) for rows in self._rows[name])
        nearest = [np.abs(middles[None, :] - instants[:, None]).argmin(axis=1) for middles in others]
        aligned = [
            stream._replace(nearest={**stream.nearest, place: rows})
            for stream, rows in zip(streams[:-1], nearest, strict=True)
        ]
        return (*aligned, streams[-1])

    def num_captions(self, index: int) -> int:
        """How many captions a clip has."""
        return int(self._num_captions[index])

    @property
    def draws(self) -> bool:
        """Whether samples differ from epoch to epoch."""
        return self._draw is not None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that spans are drawn for. It does not reach workers that are running."""
        self.epoch = epoch

    def span(self, index: int) -> Span | None:
        """The seconds [start, end) that are drawn of a clip in this epoch; None where none are."""
        if self._draw is None or self._extents is None or np.isnan(self._extents[index]).any():
            return None
        start, end = self._extents[index].tolist()
        return self._draw(self.epoch, index, (start, end))

    def key(self, index: int) -> str:
        return self._keys.at([range(len(self))[index]])[0]

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which clips have rows of a feature, of each of its streams, (N,)."""
        present: NDArray[np.bool_] = np.all([spans.present for spans in self._known(name)], axis=0)
        return present

    def num_rows(self, name: str) -> NDArray[np.int64]:
        """Rows T of a feature in every clip, (N,); of the last stream, to which others are joined."""
        return self._known(name)[-1].num_rows

    @property
    def num_streams(self) -> dict[str, int]:
        """How many streams each feature has."""
        return {name: len(streams) for name, streams in self._spans.items()}

    def num_bytes(self) -> int:
        """The size of all rows that an epoch may read, where spans are not drawn."""
        every = [self._captions, *chain.from_iterable(self._spans.values())]
        return sum(int(spans.num_rows.sum()) * spans.dim * np.dtype(spans.dtype).itemsize for spans in every)

    def _known(self, name: str) -> tuple[Spans, ...]:
        if name not in self._spans:
            raise InputError(f"this data set has no feature {name!r}; it has {', '.join(self._spans)}")
        return self._spans[name]

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip is read near, as a number, (N,); all the same where memory holds everything."""
        if self._memory_bytes and self.num_bytes() <= self._memory_bytes:
            return np.zeros(len(self), np.int64)
        return shard_groups(list(chain.from_iterable(self._spans.values())))

    def batches(
        self,
        *,
        batch_size: int,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> ShardBatchSampler:
        """The batches of this process. For the options see `EpochOrder` and `ShardBatchSampler`.

        `rank` and `world_size` are those of torch.distributed where it runs and they are not given.
        """
        rank, world_size = process_of(rank, world_size)
        order = EpochOrder(
            groups=self.shard_groups(),
            identity=self.digest,
            rank=rank,
            world_size=world_size,
            **options,
        )
        return ShardBatchSampler(order, batch_size=batch_size, drop_last=drop_last)


def _plans(
    store: FeatureStore, clips: Sequence[ClipFeatures], features: Sequence[str], *, narrow: NarrowPolicy, is_drawn: bool
) -> tuple[dict[str, list[Plan]], Plan]:
    """Of each feature its streams, mostly one; and of all captions, end to end, with one that is missing at the end."""
    spans = np.array([(clip.start_seconds, clip.end_seconds) for clip in clips], np.float64).reshape(-1, 2)
    plans = {}
    for name in features:
        streams = list(zip_longest(*(clip.features.get(name, ()) for clip in clips))) or [(None,) * len(clips)]
        if is_drawn and len(streams) > 1:
            raise InputError(f"{name} has several streams that are joined: windows are drawn of single ones")
        plans[name] = [Plan(store, name, prints, spans, narrow=narrow, is_drawn=is_drawn) for prints in streams]
    captions = [one for clip in clips for one in clip.captions]
    return plans, Plan(store, "the captions", [*captions, None])


def _policies(
    features: Sequence[str], missing: MissingPolicy | Mapping[str, MissingPolicy]
) -> dict[str, MissingPolicy]:
    if isinstance(features, str) or len(set(features)) < len(features):
        raise InputError(f"features {features!r}: give a list of names, each once")
    policies = dict.fromkeys(features, missing) if isinstance(missing, str) else dict(missing)
    if set(policies) != set(features):
        raise InputError(f"missing names {sorted(policies)}; it needs one policy for each of {sorted(features)}")
    for name, policy in policies.items():
        check_word(f"missing of {name}", policy, MissingPolicy)
    return policies


def _digest(clips: Sequence[ClipFeatures], kept: NDArray[np.bool_], features: Sequence[str], narrow: str) -> str:
    """Names the clips that are read and what is read of them, whatever shards they are in."""
    digest = hashlib.blake2b(repr((list(features), narrow)).encode(), digest_size=16)
    for clip, keep in zip(clips, kept.tolist(), strict=True):
        if keep:
            prints = [clip.features.get(name, ()) for name in features]
            digest.update(repr((clip.clip, clip.start_seconds, clip.end_seconds, prints, clip.captions)).encode())
    return digest.hexdigest()


def _first_known(extents: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of each clip's extents (N, 2) in several features, the first that is known."""
    found = extents[0].copy()
    for other in extents[1:]:
        found = np.where(np.isnan(found), other, found)
    return found
