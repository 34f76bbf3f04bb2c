"""Where the rows of clips are: settled once for all clips, from the sidecars and the rows' times.

Legend: N clips, M stored samples that they are read from, T rows of a clip, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, IntegrityError, Status
from ...store import Entry, FeatureStore

NarrowPolicy = Literal["missing", "nearest", "closest"]
MissingPolicy = Literal["error", "skip", "empty", "optional"]
NOT_GIVEN, NOT_STORED, NO_ROW_IN_SPAN = "not_given", "not_stored", "no_row_in_span"


class Texts:
    """Many short texts end to end, so that a process started later need not be given each as an object."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        self._bytes = b"".join(encoded)
        self._offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def at(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The texts with these numbers."""
        places = np.asarray(indices, np.int64)
        pairs = zip(self._offsets[places].tolist(), self._offsets[places + 1].tolist(), strict=True)
        return [self._bytes[first:last].decode(errors="surrogatepass") for first, last in pairs]


@dataclass(slots=True)
class Spans:
    """Rows of stored samples for every clip. Plain arrays: a process that reads is given 12 bytes for a clip.

    Attributes:
        fingerprints: of the samples, (M,).
        shards: the files that they are in.
        shard: of each sample, (M,).
        row: of its shard at which each sample begins, (M,).
        sample: of each clip, (N,); -1 where the feature is missing.
        first: of each clip's rows, counted from its sample's first, (N,).
        last: the row after the last, (N,).
        dim: D.
        dtype: of the values.
    """

    fingerprints: Texts
    shards: list[Path]
    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    sample: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    dim: int
    dtype: str

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which clips have rows, (N,)."""
        return self.sample >= 0

    @property
    def num_rows(self) -> NDArray[np.int64]:
        """T of every clip, (N,)."""
        return (self.last - self.first).astype(np.int64)

    def shard_of_clips(self) -> NDArray[np.int64]:
        """The number of each clip's shard, (N,); -1 where the feature is missing."""
        shards = np.append(self.shard, -1).astype(np.int64)
        return shards[self.sample]

    def place(self, index: int) -> tuple[Path, int, int]:
        """A clip's shard, and its rows [first, last) there. The clip has some."""
        sample = self.sample[index]
        row = int(self.row[sample])
        return self.shards[self.shard[sample]], row + int(self.first[index]), row + int(self.last[index])

    def relocate(self, store: FeatureStore) -> bool:
        """Look up every sample again, after shards were merged. Whether any has moved.

        Raises IntegrityError where one is gone.
        """
        shards: dict[Path, int] = {}
        before = self.shards
        for number, fingerprint in enumerate(self.fingerprints.at(range(len(self.row)))):
            entry = store.entry(fingerprint)
            if entry is None:
                raise IntegrityError(f"feature {fingerprint} is no longer in {store.root}: run `frameloom sync`")
            self.shard[number] = shards.setdefault(entry.shard.path, len(shards))
            self.row[number] = entry.first_row
        self.shards = list(shards)
        return self.shards != before


class Plan:
    """Where the rows of one feature are, for every clip, and why some clips have none.

    Args:
        store: the features.
        name: of the feature, for messages.
        fingerprints: of the feature of each clip, (N,); None where it has none.
        spans: of the clips, in seconds [start, end), (N, 2); None for whole samples.
        narrow: see `FeatureDataset`.
        is_drawn: whether spans are cut anew later, for which a sample's rows must be in the order of time.
    """

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        fingerprints: Sequence[str | None],
        spans: NDArray[np.float64] | None = None,
        *,
        narrow: NarrowPolicy = "missing",
        is_drawn: bool = False,
    ) -> None:
        self.name, self.narrow = name, narrow
        self.span = np.tile([-np.inf, np.inf], (len(fingerprints), 1)) if spans is None else spans
        self.unknown = ""  # the first fingerprint that is not stored
        self.reasons: Counter[str] = Counter()
        self.entries: list[Entry] = []
        self.sample = np.full(len(fingerprints), -1, np.int32)
        self.first, self.last = np.zeros((2, len(fingerprints)), np.int32)
        self.extents = np.full((len(fingerprints), 2), np.nan)
        numbers: dict[str, int] = {}
        cut: dict[Path, dict[int, list[int]]] = {}  # by shard and sample, the clips
        has_span = is_drawn | np.isfinite(self.span).any(axis=1)
        for index, fingerprint in enumerate(fingerprints):
            entry = store.entry(fingerprint) if fingerprint is not None else None
            if entry is None or not entry.num_rows:
                status = NOT_STORED if entry is None else entry.status.value
                self.reasons[NOT_GIVEN if fingerprint is None else status] += 1
                self.unknown = self.unknown or (fingerprint or "" if entry is None else "")
                continue
            number = numbers.setdefault(entry.fingerprint, len(numbers))
            if number == len(self.entries):
                self.entries.append(entry)
                known = self.entries[0].shard
                if (entry.shard.dim, entry.shard.dtype) != (known.dim, known.dtype):
                    raise InputError(
                        f"{name} is {known.dtype} (T, {known.dim}) and, of {entry.key!r}, {entry.shard.dtype} "
                        f"(T, {entry.shard.dim}): name features that were computed in one way"
                    )
            self.sample[index], self.last[index] = number, entry.num_rows
            if entry.start_seconds is not None and entry.end_seconds is not None:  # text has no times
                start, end = self.span[index]
                self.extents[index] = max(start, entry.start_seconds), min(end, entry.end_seconds)
                if has_span[index]:
                    cut.setdefault(entry.shard.path, {}).setdefault(number, []).append(index)
        for path, samples in cut.items():
            self._cut_shard(store, path, samples)

    def _cut_shard(self, store: FeatureStore, path: Path, samples: dict[int, list[int]]) -> None:
        """Narrow whole videos to their clips' spans. One read gives the times of all of them."""
        entries = [self.entries[number] for number in samples]
        begin = min(entry.first_row for entry in entries)
        end = max(entry.first_row + entry.num_rows for entry in entries)
        middles = middles_of(store.read_times(path, begin, end))
        for entry, indices in zip(entries, samples.values(), strict=True):
            own = middles[entry.first_row - begin :][: entry.num_rows]
            if (np.diff(own) < 0).any():
                raise InputError(f"the rows of {self.name} of {entry.key!r} are not in the order of time")
            starts, ends = self.span[indices].T
            first, last = np.searchsorted(own, starts), np.searchsorted(own, ends)
            if self.narrow != "missing":
                # "nearest" gives a row to a span within what the rows were sampled from: one beyond the video's end
                # holds nothing of it.
                inside = (starts < (entry.end_seconds or 0.0)) & (ends > (entry.start_seconds or 0.0)) & (starts < ends)
                for i in np.flatnonzero((first >= last) & (inside | (self.narrow == "closest"))):
                    first[i] = np.argmin(np.abs(own - (starts[i] + ends[i]) / 2))
                    last[i] = first[i] + 1
            is_empty = first >= last
            self.first[indices], self.last[indices] = np.where(is_empty, 0, first), np.where(is_empty, 0, last)
            self.sample[np.array(indices)[is_empty]] = -1
            if is_empty.any():
                self.reasons[NO_ROW_IN_SPAN] += int(is_empty.sum())

    def damaged(self) -> NDArray[np.bool_]:
        """Which clips' samples are not whole, so that their rows need not follow one another, (N,)."""
        is_damaged = np.array([*(entry.status is not Status.OK for entry in self.entries), False])
        found: NDArray[np.bool_] = is_damaged[self.sample]
        return found

    def spans(self, kept: NDArray[np.bool_]) -> Spans:
        """The plan of the clips that are kept."""
        shards: dict[Path, int] = {}
        shard = [shards.setdefault(entry.shard.path, len(shards)) for entry in self.entries]
        return Spans(
            Texts([entry.fingerprint for entry in self.entries]),
            list(shards),
            np.array(shard, np.int32),
            np.array([entry.first_row for entry in self.entries], np.int64),
            self.sample[kept],
            self.first[kept],
            self.last[kept],
            dim=self.entries[0].shard.dim if self.entries else 0,
            dtype=self.entries[0].shard.dtype if self.entries else "float16",
        )


def middles_of(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of each row's interval (T, 2), in seconds, (T,)."""
    middles: NDArray[np.float64] = (times[:, 0] + times[:, 1]) / 2
    return middles


def kept_clips(
    plans: Mapping[str, Sequence[Plan]],
    policies: Mapping[str, MissingPolicy],
    names: Sequence[str],
    *,
    what: str = "clips",
) -> NDArray[np.bool_]:
    """Which of the clips with these names are read, (N,). A clip lacks a feature where it lacks one of its streams.

    Raises InputError for one that lacks what it must have.
    """
    kept = np.ones(len(names), bool)
    for name, streams in plans.items():
        lacks = np.any([plan.sample < 0 for plan in streams], axis=0)
        if policies[name] == "error" and lacks.any():
            reasons = format_counts(sum((plan.reasons for plan in streams), Counter[str]()))
            raise InputError(
                f"{int(lacks.sum()):,} of {len(names):,} {what} lack {name} ({reasons}), the first is "
                f"{names[int(lacks.argmax())]!r}; extract it, or set missing to 'skip' or 'empty'"
            )
        if policies[name] == "skip":
            kept &= ~lacks
    return kept


def shard_groups(spans: Sequence[Spans]) -> NDArray[np.int64]:
    """The shard that each clip is read near, as a number, (N,): of the first of several features that it has."""
    groups, first_number = np.full(len(spans[0].sample) if spans else 0, -1, np.int64), 0
    for one in spans:
        shard = one.shard_of_clips()
        groups = np.where((groups < 0) & (shard >= 0), shard + first_number, groups)
        first_number += len(one.shards)
    return groups


def format_counts(counts: Mapping[str, int]) -> str:
    """Reasons and their counts, in a line."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
