"""Clips read from a feature store: any set of named features, cut to each clip's span.

What is read is settled once, before training starts, from the sidecars and the rows' times: for each clip and feature a
shard and its rows. These are plain arrays, 20 bytes for each feature of a clip (36 where long ones are cut anew), so
that a worker is given no list of Python objects and parses no sidecar, and a clip costs one read of its own rows.
Shards are opened by the process that reads them, after it has started.

Legend: N clips, T rows of a clip, D width.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError
from ...store import FeatureStore, ReaderHold
from .batch import FeatureBatch
from .clips import ClipFeatures
from .order import EpochOrder, Remainder, ShardBatchSampler, Split, process_of
from .plan import NarrowPolicy, Plan, Spans, Texts
from .rows import Allocate, Memory, Rows, Span, SpanDraw, VerifyPolicy

if TYPE_CHECKING:
    from ...fuse import Tokens

_log = logging.getLogger(__name__)

MissingPolicy = Literal["error", "skip", "empty"]


class FeatureSample(TypedDict):
    """One clip that was read.

    Attributes:
        index: of the clip in its data set.
        key: of the clip.
        features: by name, (T, D) as stored; T is 0 where the clip lacks the feature.
    """

    index: int
    key: str
    features: dict[str, NDArray[Any]]


class FeatureDataset:
    """A map-style data set over clips in a feature store.

    It can be pickled and given to processes started in any way; each opens its own files. What is stored is looked up
    once, when the data set is made. For as long as it lives, no compaction on this machine moves what it is about to
    read; a shard that is removed all the same raises IntegrityError when it is read.

    A clip's rows are those whose middle lies in its span, as `FeatureStore.read_span` gives them. A feature is missing
    where the clip names no fingerprint ("not_given"), the store does not hold it ("not_stored"), it has no rows (the
    status that it was stored with) or none of them lies in the span ("no_row_in_span").

    Args:
        store: the features, or the folder that they are in.
        clips: what to read, in the order that is given when it is not shuffled.
        features: names of the features of a sample. The first that a clip has decides which shard it is read near.
        missing: what a missing feature means, for all features or by name. "error" refuses the clips; "skip" leaves the
            clip out before training starts; "empty" gives no rows, which `collate_features` turns into an empty mask.
        narrow: what a span means that lies within a feature and yet holds the middle of none of its rows, because it is
            shorter than a row: "missing", or "nearest" for the row whose middle is nearest to the span's.
        verify: "always" compares rows each time that they are read: with what the shard's bytes were when they were
            hashed the first time that a process reads them, and later with the sum that they had then. "first" compares
            them that first time only, and does not see what a disk loses later.
        draw: cuts each clip anew in every epoch, for random windows of long videos: it is given (epoch, clip's number,
            the clip's seconds [start, end)) and gives the seconds to read of it, the same for all features. It must be
            a pure function, and picklable for workers (`UniformWindow` is one). A feature without a row in the drawn
            span has none in that sample, whatever the policy. Rows are then verified by the store each time.
        memory_bytes: values kept in memory by each process once they are read, until so many bytes are kept.

    Attributes:
        num_given: clips before any was left out.
        num_skipped: clips left out.
        missing_counts: for each feature the clips that lack it, by reason; clips that were left out are counted too.
        dims: width D of each feature of which a clip has rows.

    Raises:
        InputError: a clip lacks a feature whose policy is "error"; a feature's rows differ in width or type, or are not
            in the order of time; a policy or name that is not known.
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
        verify: VerifyPolicy = "always",
        draw: SpanDraw | None = None,
        memory_bytes: int = 0,
    ) -> None:
        policies = _policies(features, missing)
        _check_word("narrow", narrow, get_args(NarrowPolicy))
        _check_word("verify", verify, get_args(VerifyPolicy))
        clips = list(clips)
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self._hold = ReaderHold(self.store.place.folder)
        plans = {name: Plan(self.store, name, clips, narrow=narrow, is_drawn=draw is not None) for name in features}
        self.num_given = len(clips)
        self.missing_counts = {name: plan.reasons for name, plan in plans.items()}
        _refuse(plans, policies, clips)
        kept = np.ones(len(clips), bool)
        for name, plan in plans.items():
            if policies[name] == "skip":
                kept &= plan.shard >= 0
        self.num_skipped = int((~kept).sum())
        self._spans = {name: plan.spans(kept) for name, plan in plans.items()}
        self.dims = {name: spans.dim for name, spans in self._spans.items() if spans.dim}
        self._extents = _first_known([plan.extents[kept] for plan in plans.values()]) if draw else None
        self._memory_bytes, self._verify, self._draw = memory_bytes, verify, draw
        self.epoch = 0
        self._keys = Texts([clip.clip for clip, keep in zip(clips, kept, strict=True) if keep])
        self.digest = _digest(clips, kept, features, narrow)
        self._begin()
        _log.info("%s", self.summary())

    def _begin(self) -> None:
        """Nothing is kept in memory yet, and nothing verified."""
        memory = Memory(0 if self._draw else self._memory_bytes)  # a drawn span hardly ever comes again
        self._rows = {
            name: Rows(self.store, spans, memory, verify="always" if self._draw else self._verify)
            for name, spans in self._spans.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_hold")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold = ReaderHold(self.store.place.folder)
        self._begin()

    def summary(self) -> str:
        """What is read and what is missing, in one line."""
        lacking = [
            f"{name} is missing in {counts.total():,} ({_told(counts)})"
            for name, counts in self.missing_counts.items()
            if counts
        ]
        left_out = f", {self.num_skipped:,} left out" if self.num_skipped else ""
        return "; ".join([f"{len(self):,} clips of {self.num_given:,} are read{left_out}", *lacking])

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> FeatureSample:
        """One clip. Raises IndexError; IntegrityError when its shard is not what was written."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[FeatureSample]:
        """Several clips, in the order asked for, read in the order in which they lie in their shards."""
        index = self._checked(indices)
        indices = index.tolist()
        cuts = self._drawn(indices)
        columns = [rows.read(index, cuts) for rows in self._rows.values()]
        names, keys = list(self._rows), self._keys.at(indices)
        return [
            FeatureSample(index=index, key=key, features=dict(zip(names, values, strict=True)))
            for index, key, *values in zip(indices, keys, *columns, strict=True)
        ]

    def read_batch(self, indices: Sequence[int], *, allocate: Allocate = np.empty) -> FeatureBatch:
        """Several clips in one padded array for each feature, in the order asked for: rows are read into their places.

        Args:
            indices: of the clips.
            allocate: makes an array (B, T, D) of a type, with any content; contiguous in C order.

        Raises:
            IndexError: there is no such clip.
            IntegrityError: a shard is not what was written.
        """
        index = self._checked(indices)
        cuts = self._drawn(index.tolist())
        padded = {name: rows.read_padded(index, cuts, allocate=allocate) for name, rows in self._rows.items()}
        return FeatureBatch(
            index=index,
            values={name: values for name, (values, _) in padded.items()},
            num_rows={name: num_rows for name, (_, num_rows) in padded.items()},
        )

    def _checked(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Clips' numbers, counted from the front. Raises IndexError."""
        index = np.array(indices, np.int64)
        if index.min(initial=0) < 0:
            index[index < 0] += len(self)
        if index.min(initial=0) < 0 or index.max(initial=-1) >= len(self):
            raise IndexError(f"clips {list(indices)} were asked for, of {len(self)}")
        return index

    @property
    def draws(self) -> bool:
        """Whether samples differ from epoch to epoch."""
        return self._draw is not None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that spans are drawn for. Workers that are running are not told."""
        self.epoch = epoch

    def span(self, index: int) -> Span | None:
        """The seconds [start, end) that are drawn of a clip in this epoch; None where none are."""
        if self._draw is None or self._extents is None or np.isnan(self._extents[index]).any():
            return None
        start, end = self._extents[index].tolist()
        return self._draw(self.epoch, index, (start, end))

    def _drawn(self, indices: Sequence[int]) -> list[Span | None] | None:
        return [self.span(index) for index in indices] if self._draw else None

    def key(self, index: int) -> str:
        """What a person calls a clip."""
        return self.keys([index])[0]

    def keys(self, indices: Sequence[int]) -> list[str]:
        """What a person calls each of several clips. Raises IndexError."""
        return self._keys.at(self._checked(indices))

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which clips have rows of a feature, (N,)."""
        return self._known(name).shard >= 0

    def num_rows(self, name: str) -> NDArray[np.int64]:
        """Rows T of a feature in every clip, (N,)."""
        spans = self._known(name)
        return spans.last - spans.first

    def num_bytes(self) -> int:
        """The size of all rows that an epoch reads, where spans are not drawn."""
        widths = {name: spans.dim * np.dtype(spans.dtype).itemsize for name, spans in self._spans.items()}
        return sum(int(self.num_rows(name).sum()) * width for name, width in widths.items())

    def _known(self, name: str) -> Spans:
        if name not in self._spans:
            raise InputError(f"this data set has no feature {name!r}; it has {', '.join(self._spans)}")
        return self._spans[name]

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip is read near, as a number, (N,)."""
        groups, first_number = np.full(len(self), -1, np.int64), 0
        for spans in self._spans.values():
            groups = np.where((groups < 0) & (spans.shard >= 0), spans.shard + first_number, groups)
            first_number += len(spans.shards)
        return groups

    def batches(
        self,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        window_shards: int | None = 16,
        split: Split = "interleaved",
        remainder: Remainder = "pad",
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> ShardBatchSampler:
        """The batches of this process. For the options see `EpochOrder` and `ShardBatchSampler`.

        `rank` and `world_size` are those of torch.distributed where it runs and they are not given.
        """
        rank, world_size = process_of(rank, world_size)
        order = EpochOrder(
            groups=self.shard_groups(),
            identity=self.digest,
            seed=seed,
            shuffle=shuffle,
            window_shards=window_shards,
            rank=rank,
            world_size=world_size,
            split=split,
            remainder=remainder,
        )
        return ShardBatchSampler(order, batch_size=batch_size, drop_last=drop_last)


def collate_features(samples: Sequence[FeatureSample], *, dtype: str | None = "float32") -> dict[str, Tokens]:
    """A batch: values (B, T, D) padded with zeros to the longest clip, and masks (B, T), False where there is no row.

    A clip that lacks a feature has an empty mask; a feature that every clip lacks is left out.

    Args:
        samples: of a `FeatureDataset`.
        dtype: of the values; None keeps the one that they are stored in.
    """
    import torch

    from ...fuse import Tokens

    batch = {}
    for name in samples[0]["features"]:
        rows = [sample["features"][name] for sample in samples]
        if not any(map(len, rows)):
            continue
        values = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), dtype or rows[0].dtype)
        for target, each in zip(values, rows, strict=True):
            target[: len(each)] = each
        mask = np.arange(values.shape[1]) < np.array([len(each) for each in rows])[:, None]
        batch[name] = Tokens(torch.from_numpy(values), torch.from_numpy(mask))
    return batch


def _policies(
    features: Sequence[str], missing: MissingPolicy | Mapping[str, MissingPolicy]
) -> dict[str, MissingPolicy]:
    if isinstance(features, str) or not features or len(set(features)) < len(features):
        raise InputError(f"features {features!r}: give one or more names, none of them twice")
    policies = dict.fromkeys(features, missing) if isinstance(missing, str) else dict(missing)
    if set(policies) != set(features):
        raise InputError(f"missing names {sorted(policies)}; it needs one policy for each of {sorted(features)}")
    for name, policy in policies.items():
        _check_word(f"missing of {name}", policy, get_args(MissingPolicy))
    return policies


def _check_word(name: str, word: str, allowed: Sequence[str]) -> None:
    if word not in allowed:
        raise InputError(f"{name} {word!r}: allowed are {', '.join(allowed)}")


def _refuse(plans: Mapping[str, Plan], policies: Mapping[str, MissingPolicy], clips: Sequence[ClipFeatures]) -> None:
    for name, plan in plans.items():
        if plan.reasons and policies[name] == "error":
            first = clips[int(np.argmax(plan.shard < 0))].clip
            raise InputError(
                f"{plan.reasons.total():,} of {len(clips):,} clips lack {name} ({_told(plan.reasons)}), the first is "
                f"{first!r}; extract it, or set missing to 'skip' or 'empty'"
            )


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))


def _digest(clips: Sequence[ClipFeatures], kept: NDArray[np.bool_], features: Sequence[str], narrow: str) -> str:
    """Names the clips that are read and what is read of them, whatever shards they are in."""
    digest = hashlib.blake2b(repr((list(features), narrow)).encode(), digest_size=16)
    for clip, keep in zip(clips, kept.tolist(), strict=True):
        if keep:
            prints = [clip.features.get(name) for name in features]
            digest.update(repr((clip.clip, clip.start_seconds, clip.end_seconds, prints)).encode())
    return digest.hexdigest()


def _first_known(extents: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of each clip's extents (N, 2) in several features, the first that is known."""
    found = extents[0].copy()
    for other in extents[1:]:
        found = np.where(np.isnan(found), other, found)
    return found
