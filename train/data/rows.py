"""Reading rows of shards: in the order of the file, kept in memory where that is wished, cut anew where that is drawn.

Rows are read straight to where they are wanted, arrays of their own or places in a padded batch, and are checked there.

Legend: N clips, B of them in a batch, T rows of a clip, D width.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...store import FeatureStore
from .plan import Spans, middles_of

VerifyPolicy = Literal["always", "first"]
Span = tuple[float, float]
SpanDraw = Callable[[int, int, Span], Span]
Allocate = Callable[[tuple[int, ...], str], NDArray[Any]]  # shape and type to an array with any content
_SEARCHED_ROWS = 8192  # of whose times not all are read: more than 80 seconds of a spectrogram
_NEAR_ROWS = 1024  # a block of times
_Key = tuple[Path, int, int]  # a shard and its rows [first, last)


@dataclass(frozen=True, slots=True)
class UniformWindow:
    """A window of fixed length at a uniformly random place of a clip: Everything at Once's clips without narration.

    Source: Everything at Once (arXiv 2112.04446), section 4.1: start uniform in [0, max(0, duration - seconds)). The
    place follows from (seed, epoch, clip) alone.

    Attributes:
        seconds: length of the window. A clip that is shorter is read whole.
        seed: of the places.
    """

    seconds: float
    seed: int = 0

    def __call__(self, epoch: int, index: int, extent: Span) -> Span:
        """The window [start, end) of one clip in one epoch."""
        numbers = struct.pack("<QQQ", self.seed, epoch, index)
        draw = int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little") / 2**64
        start = extent[0] + draw * max(0.0, extent[1] - extent[0] - self.seconds)
        return start, start + self.seconds


class Memory:
    """Arrays that were read, up to a number of bytes."""

    def __init__(self, num_bytes: int) -> None:
        self.is_used = num_bytes > 0
        self._bytes_left = num_bytes
        self._kept: dict[_Key, NDArray[Any]] = {}

    def get(self, key: _Key) -> NDArray[Any] | None:
        return self._kept.get(key)

    def keep(self, key: _Key, values: NDArray[Any]) -> None:
        if values.nbytes <= self._bytes_left:
            self._bytes_left -= values.nbytes
            values.flags.writeable = False  # the next epoch is given the same array
            self._kept[key] = values


class Padded(NamedTuple):
    """One feature of several clips in one array.

    Attributes:
        values: (B, T, D), T that of the longest clip; zeros after a clip's last row.
        num_rows: of each clip, (B,).
    """

    values: NDArray[Any]
    num_rows: NDArray[np.int64]


class _Asked(NamedTuple):
    """Rows [first, last) of a shard for each clip that was asked for, (B,) each; none where the feature is missing."""

    clip: NDArray[np.int64]
    shard: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def at(self, places: NDArray[np.int64]) -> _Asked:
        return _Asked(self.clip[places], self.shard[places], self.first[places], self.last[places])


class _Targets(Protocol):
    """Where the rows of several clips are read to."""

    def at(self, places: NDArray[np.int64]) -> _Targets:
        """Those of some of the clips."""
        ...

    def are_next(self) -> NDArray[np.bool_]:
        """Of the second clip, the third ... whether its rows go just behind those of the one before, (B - 1,)."""
        ...

    def joined(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> list[memoryview]:
        """The bytes from each of some clips to another, which follow each other."""
        ...


class _Arrays(NamedTuple):
    """An array of its own for each clip, as bytes. None goes just behind another, so there is nothing to join."""

    pieces: list[memoryview]

    def at(self, places: NDArray[np.int64]) -> _Arrays:
        return _Arrays([self.pieces[place] for place in places.tolist()])

    def are_next(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.pieces) - 1, bool)

    def joined(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> list[memoryview]:  # noqa: ARG002
        return self.pieces


class _Stretches(NamedTuple):
    """Bytes [first, last) of a batch for each clip."""

    data: memoryview
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any], places: NDArray[np.int64], num_rows: NDArray[np.int64]) -> _Stretches:
        """Of the clips at some places of a batch (B, T, D)."""
        row_bytes = values.shape[2] * values.itemsize
        first = places * (values.shape[1] * row_bytes)
        return cls(_bytes_of(values), first, first + num_rows[places] * row_bytes)

    @property
    def pieces(self) -> list[memoryview]:
        each = np.arange(len(self.first))
        return self.joined(each, each)

    def at(self, places: NDArray[np.int64]) -> _Stretches:
        return _Stretches(self.data, self.first[places], self.last[places])

    def are_next(self) -> NDArray[np.bool_]:
        are: NDArray[np.bool_] = self.first[1:] == self.last[:-1]
        return are

    def joined(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> list[memoryview]:
        pairs = zip(self.first[begins].tolist(), self.last[ends].tolist(), strict=True)
        return [self.data[first:last] for first, last in pairs]


class Rows:
    """One feature of all clips, to be read.

    The first time that a process reads a clip's rows, the store verifies them, and the sum of their words is noted.
    Later readings are compared with that sum: it takes less time, and does not need the whole pages that the store
    compares. A changed bit changes the sum, whatever else it is next to. Rows of spans that are drawn are verified by
    the store every time.

    Args:
        store: where the shards are.
        spans: where each clip's rows are.
        memory: what was read before.
        verify: "first" compares nothing after the first time.
    """

    def __init__(self, store: FeatureStore, spans: Spans, memory: Memory, *, verify: VerifyPolicy) -> None:
        self.spans = spans
        self._store, self._memory, self._verify = store, memory, verify
        self._is_known = np.zeros(len(spans.shard), bool)
        self._sums = np.zeros(len(spans.shard) if verify == "always" else 0, np.uint64)
        self._has_words = spans.dim * np.dtype(spans.dtype).itemsize % 8 == 0
        self._ends = np.empty((0, 2))  # of long clips that were cut; see _ends_of

    def read(self, index: NDArray[np.int64], cuts: Sequence[Span | None] | None = None) -> list[NDArray[Any]]:
        """The rows (T, D) of several clips, read in the order in which they lie. Raises IntegrityError."""
        asked = self._asked(index, cuts)
        found, places = self._remembered(asked)
        for place in places.tolist():
            found[place] = np.empty((asked.last[place] - asked.first[place], self.spans.dim), self.spans.dtype)
        targets = _Arrays([_bytes_of(found[place]) for place in places.tolist()])
        self._fill(asked.at(places), targets, lambda: self._sums_of(targets.pieces), is_drawn=cuts is not None)
        if self._memory.is_used:
            for place in places.tolist():
                self._memory.keep(self._key(asked, place), found[place])
        return [found.get(place, none) for place, none in enumerate([self.spans.no_rows()] * len(index))]

    def read_padded(
        self, index: NDArray[np.int64], cuts: Sequence[Span | None] | None = None, *, allocate: Allocate = np.empty
    ) -> Padded:
        """The rows of several clips in one array that ``allocate`` makes. Raises IntegrityError."""
        asked = self._asked(index, cuts)
        num_rows = asked.last - asked.first
        most = int(num_rows.max(initial=0))
        values = allocate((len(index), most, self.spans.dim), self.spans.dtype)
        for place in np.flatnonzero(num_rows < most).tolist():
            values[place, num_rows[place] :] = 0
        found, places = self._remembered(asked)
        for place, rows in found.items():
            values[place, : len(rows)] = rows
        self._fill(
            asked.at(places),
            _Stretches.of(values, places, num_rows),
            lambda: self._sums_in(values, num_rows, places),
            is_drawn=cuts is not None,
        )
        if self._memory.is_used:
            for place in places.tolist():
                self._memory.keep(self._key(asked, place), values[place, : num_rows[place]].copy())
        return Padded(values, num_rows)

    def _asked(self, index: NDArray[np.int64], cuts: Sequence[Span | None] | None) -> _Asked:
        spans = self.spans
        asked = _Asked(index, spans.shard[index], spans.first[index], spans.last[index])
        if cuts is not None:
            middles: dict[_Key, NDArray[np.float64]] = {}  # often several windows of a batch are of one video
            for place in np.flatnonzero(asked.shard >= 0).tolist():
                cut = self._cut(int(asked.clip[place]), self._key(asked, place), cuts[place], middles)
                asked.first[place], asked.last[place] = cut
        return asked

    def _cut(self, clip: int, key: _Key, cut: Span | None, known: dict[_Key, NDArray[np.float64]]) -> tuple[int, int]:
        """Those of a clip's rows, in the order of time, whose middle lies in a span; ``known`` are read middles."""
        shard, first, last = key
        if cut is None:
            return first, last
        if last - first > _SEARCHED_ROWS:
            ends = self._ends_of(clip, shard, first, last)
            if not np.isnan(ends).any():
                low, high = (self._row_at(shard, first, last, ends, seconds) for seconds in cut)
                return low, max(low, high)
        middles = known.get(key)
        if middles is None:
            middles = known[key] = self._middles(shard, first, last)
        if np.isnan(middles[0]):  # text has no times
            return first, last
        low, high = np.searchsorted(middles, cut).tolist()
        return first + low, max(first + low, first + high)

    def _ends_of(self, clip: int, shard: Path, first: int, last: int) -> NDArray[np.float64]:
        """The middles of a clip's first and last row, (2,), NaN where rows have no times."""
        if not len(self._ends):
            self._ends = np.full((len(self.spans.shard), 2), np.nan)
        if np.isnan(self._ends[clip, 0]):
            self._ends[clip] = [self._middles(shard, row, row + 1)[0] for row in (first, last - 1)]
        ends: NDArray[np.float64] = self._ends[clip]
        return ends

    def _row_at(self, shard: Path, first: int, last: int, ends: NDArray[np.float64], seconds: float) -> int:
        """The first of many rows whose middle is at an instant or later. Only the times near by are read.

        Args:
            shard: where the rows are.
            first: of the rows.
            last: the row after the last.
            ends: the middles of the first and of the last of them, (2,).
            seconds: the instant.
        """
        begin, end = ends.tolist()
        if not begin < seconds <= end:
            return last if seconds > end else first
        low, high, by_rate = first, last - 1, True  # the row before is at low or later, and the one wanted at high
        while True:
            share = (seconds - begin) / (end - begin) if by_rate else 0.5  # halves, should the rate vary wildly
            near = max(low, min(low + int(share * (high - low)), high + 1) - _NEAR_ROWS // 2)
            middles = self._middles(shard, near, min(near + _NEAR_ROWS, high + 1))
            if middles[0] >= seconds:
                high, end = near, float(middles[0])
            elif middles[-1] < seconds:
                low, begin = near + len(middles) - 1, float(middles[-1])
            else:
                return near + int(np.searchsorted(middles, seconds))
            by_rate = not by_rate

    def _middles(self, shard: Path, first: int, last: int) -> NDArray[np.float64]:
        return middles_of(self._store.read_times(shard, first, last))

    def _key(self, asked: _Asked, place: int) -> _Key:
        return self.spans.shards[asked.shard[place]], int(asked.first[place]), int(asked.last[place])

    def _remembered(self, asked: _Asked) -> tuple[dict[int, NDArray[Any]], NDArray[np.int64]]:
        """Rows that are in memory, by their place in the batch, and the places whose rows must be read."""
        places = np.flatnonzero(asked.last > asked.first)
        if not self._memory.is_used:
            return {}, places
        kept = {place: self._memory.get(self._key(asked, place)) for place in places.tolist()}
        found = {place: rows for place, rows in kept.items() if rows is not None}
        return found, np.array([place for place in kept if place not in found], np.int64)

    def _fill(
        self,
        asked: _Asked,
        targets: _Targets,
        sums: Callable[[], NDArray[np.uint64]],
        *,
        is_drawn: bool,
    ) -> None:
        """Read rows into their targets, in the order of the file, and check them; ``sums`` are of what was read."""
        if not len(asked.clip):
            return
        if is_drawn:
            self._read(asked, targets, verify=np.ones(len(asked.clip), bool))
            return
        known = self._is_known[asked.clip]
        self._read(asked, targets, verify=~known)
        if self._verify == "always":
            found = sums()
            changed = np.flatnonzero(known & (found != self._sums[asked.clip]))
            if len(changed):  # the store decides, and says where the damage is
                self._read(asked.at(changed), targets.at(changed), verify=np.ones(len(changed), bool))
            self._sums[asked.clip[~known]] = found[~known]
        self._is_known[asked.clip] = True

    def _read(self, asked: _Asked, targets: _Targets, *, verify: NDArray[np.bool_]) -> None:
        """Clips that follow each other both in the file and in the batch are read as one."""
        group = 2 * asked.shard + verify
        order = np.lexsort((asked.first, group))
        asked, targets, group = asked.at(order), targets.at(order), group[order]
        is_other = group[1:] != group[:-1]
        begins, ends = _runs(is_other | (asked.first[1:] != asked.last[:-1]) | ~targets.are_next())
        spans = list(zip(asked.first[begins].tolist(), asked.last[ends].tolist(), strict=True))
        pieces, group = targets.joined(begins, ends), group[begins]
        for begin, end in zip(*(each.tolist() for each in _runs(group[1:] != group[:-1])), strict=True):
            number, is_verified = divmod(int(group[begin]), 2)
            shard, own = self.spans.shards[number], slice(begin, end + 1)
            self._store.read_rows_into(shard, spans[own], pieces[own], verify=bool(is_verified))

    def _sums_in(
        self, values: NDArray[Any], num_rows: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """As `_sums_of`, of rows that are places of a batch."""
        if not self._has_words:
            return self._sums_of(_Stretches.of(values, places, num_rows).pieces)
        # Faster than `np.add.reduce`. torch is faster yet, but its threads hang in a process that was forked meanwhile.
        sums: NDArray[np.uint64] = np.einsum("ij->i", values.reshape(len(values), -1).view(np.uint64))
        return sums[places]  # zeros add nothing

    def _sums_of(self, targets: Iterable[memoryview]) -> NDArray[np.uint64]:
        """Of each clip's bytes the sum of their 64-bit words modulo 2 to the 64th; CRC-32 where a row is no words."""
        if self._has_words:
            sums = [np.add.reduce(np.frombuffer(target, np.uint64)) for target in targets]
        else:
            sums = [np.uint64(zlib.crc32(target)) for target in targets]
        return np.array(sums, np.uint64)


def _bytes_of(rows: NDArray[Any]) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data


def _runs(is_break: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and the last of each run, of things of which it is said whether the second, third ... begins one."""
    breaks = is_break.nonzero()[0]
    begins, ends = np.zeros(len(breaks) + 1, np.int64), np.full(len(breaks) + 1, len(is_break))
    begins[1:], ends[:-1] = breaks + 1, breaks
    return begins, ends
