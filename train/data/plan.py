"""Where the rows of clips are: settled once for all clips, from the sidecars and the rows' times.

Legend: N clips, T rows of a clip, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError
from ...store import Entry, FeatureStore
from .clips import ClipFeatures

NarrowPolicy = Literal["missing", "nearest"]
NOT_GIVEN, NOT_STORED, NO_ROW_IN_SPAN = "not_given", "not_stored", "no_row_in_span"


@dataclass(frozen=True, slots=True)
class Spans:
    """Rows [first, last) of a shard for every clip; the shard is -1 where the feature is missing."""

    shards: list[Path]
    shard: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    dim: int
    dtype: str

    def no_rows(self) -> NDArray[Any]:
        """What a clip has that lacks the feature, (0, D)."""
        return np.zeros((0, self.dim), self.dtype)


class Plan:
    """Where the rows of one feature are, for every clip, and why some clips have none."""

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        clips: Sequence[ClipFeatures],
        *,
        narrow: NarrowPolicy,
        is_drawn: bool = False,
    ) -> None:
        self.name = name
        self.narrow = narrow
        self.reasons: Counter[str] = Counter()
        self.shards: dict[Path, int] = {}
        self.dim, self.dtype = 0, "float16"
        self.shard = np.full(len(clips), -1, np.int32)
        self.first = np.zeros(len(clips), np.int64)
        self.last = np.zeros(len(clips), np.int64)
        self.extents = np.full((len(clips), 2), np.nan)
        cut: dict[Path, dict[str, tuple[Entry, list[int]]]] = {}
        for index, clip in enumerate(clips):
            entry = self._entry(store, clip)
            if entry is None:
                continue
            self._take(index, entry)
            if entry.start_seconds is not None and entry.end_seconds is not None:
                start, end = max(clip.start_seconds, entry.start_seconds), min(clip.end_seconds, entry.end_seconds)
                self.extents[index] = start, end
            has_span = clip.start_seconds > -math.inf or clip.end_seconds < math.inf
            if entry.start_seconds is not None and (has_span or is_drawn):  # text has no times
                cut.setdefault(entry.shard.path, {}).setdefault(entry.fingerprint, (entry, []))[1].append(index)
        for path, entries in cut.items():
            self._cut_shard(store, path, list(entries.values()), clips)

    def _entry(self, store: FeatureStore, clip: ClipFeatures) -> Entry | None:
        """What the store says of a clip's feature; where it is missing, count why."""
        fingerprint = next(iter(clip.features.get(self.name, ())), None)
        entry = store.entry(fingerprint) if fingerprint is not None else None
        if entry is not None and entry.num_rows:
            return entry
        status = NOT_STORED if entry is None else entry.status.value
        self.reasons[NOT_GIVEN if fingerprint is None else status] += 1
        return None

    def _take(self, index: int, entry: Entry) -> None:
        if not self.dim:
            self.dim, self.dtype = entry.shard.dim, entry.shard.dtype
        if (entry.shard.dim, entry.shard.dtype) != (self.dim, self.dtype):
            raise InputError(
                f"{self.name} is {self.dtype} (T, {self.dim}) and, of {entry.key!r}, {entry.shard.dtype} "
                f"(T, {entry.shard.dim}): name features that were computed in one way"
            )
        self.shard[index] = self.shards.setdefault(entry.shard.path, len(self.shards))
        self.first[index], self.last[index] = entry.first_row, entry.first_row + entry.num_rows

    def _cut_shard(
        self, store: FeatureStore, path: Path, entries: list[tuple[Entry, list[int]]], clips: Sequence[ClipFeatures]
    ) -> None:
        """Narrow whole videos to their clips' spans. One read gives the times of all of them."""
        begin = min(entry.first_row for entry, _ in entries)
        end = max(entry.first_row + entry.num_rows for entry, _ in entries)
        middles = middles_of(store.read_times(path, begin, end))
        for entry, indices in entries:
            own = middles[entry.first_row - begin :][: entry.num_rows]
            if (np.diff(own) < 0).any():
                raise InputError(f"the rows of {self.name} of {entry.key!r} are not in the order of time")
            starts = np.array([clips[index].start_seconds for index in indices])
            ends = np.array([clips[index].end_seconds for index in indices])
            self._cut(entry, np.array(indices), own, starts, ends)

    def _cut(
        self,
        entry: Entry,
        indices: NDArray[np.int64],
        middles: NDArray[np.float64],
        starts: NDArray[np.float64],
        ends: NDArray[np.float64],
    ) -> None:
        first, last = np.searchsorted(middles, starts), np.searchsorted(middles, ends)
        if self.narrow == "nearest":
            # Only within what the rows were sampled from: a span beyond a video's end holds nothing of it.
            inside = (starts < (entry.end_seconds or 0.0)) & (ends > (entry.start_seconds or 0.0)) & (starts < ends)
            for i in np.flatnonzero((first >= last) & inside):
                first[i] = np.argmin(np.abs(middles - (starts[i] + ends[i]) / 2))
                last[i] = first[i] + 1
        empty = indices[first >= last]
        self.first[indices], self.last[indices] = entry.first_row + first, entry.first_row + last
        self.shard[empty], self.first[empty], self.last[empty] = -1, 0, 0
        if len(empty):
            self.reasons[NO_ROW_IN_SPAN] += len(empty)

    def spans(self, kept: NDArray[np.bool_]) -> Spans:
        """The plan of the clips that are kept."""
        return Spans(
            list(self.shards), self.shard[kept], self.first[kept], self.last[kept], dim=self.dim, dtype=self.dtype
        )


def middles_of(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of each row's interval (T, 2), in seconds, (T,)."""
    middles: NDArray[np.float64] = (times[:, 0] + times[:, 1]) / 2
    return middles


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
