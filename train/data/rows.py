"""Reading rows of shards into padded batches: in the order of the file, kept in memory where that is wished.

The store compares all that it reads with its checksums (`FeatureStore.read_rows_into`).

Legend: N clips, B of them in a batch, T rows of a clip, D width.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...store import FeatureStore
from .plan import Spans, middles_of

Span = tuple[float, float]
SpanDraw = Callable[[int, int, Span], Span]
_SEARCHED_ROWS = 8192  # of whose times not all are read: more than 80 seconds of a spectrogram
_NEAR_ROWS = 1024  # a block of times


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


class Budget:
    """How many bytes may still be kept in memory."""

    def __init__(self, num_bytes: int) -> None:
        self.bytes_left = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether there is room for so many bytes, which then is used."""
        fits = num_bytes <= self.bytes_left
        self.bytes_left -= num_bytes if fits else 0
        return fits


class Padded(NamedTuple):
    """The rows of several clips in one array.

    Attributes:
        values: (B, T, D) as stored, T that of the longest clip; zeros after a clip's last row.
        num_rows: of each clip, (B,); 0 where it lacks the feature.
        nearest: of a stream that is joined to others: for a damaged clip, by its place in the batch, the row of this
            stream that is nearest in time to each row of the last one.
    """

    values: NDArray[Any]
    num_rows: NDArray[np.int64]
    nearest: Mapping[int, NDArray[np.int64]] = MappingProxyType({})

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which rows are real, (B, T)."""
        mask: NDArray[np.bool_] = np.arange(self.values.shape[1]) < self.num_rows[:, None]
        return mask

    def rows(self, place: int) -> NDArray[Any]:
        """The rows (T, D) of one clip of the batch."""
        rows: NDArray[Any] = self.values[place, : self.num_rows[place]]
        return rows[self.nearest[place]] if place in self.nearest else rows


class Rows:
    """One stream of one feature of all clips, to be read.

    Args:
        store: where the shards are.
        spans: where each clip's rows are.
        budget: of what is kept in memory once it was read; None keeps nothing.
    """

    def __init__(self, store: FeatureStore, spans: Spans, budget: Budget | None) -> None:
        self.spans = spans
        self._store, self._budget = store, budget
        self._kept: dict[tuple[int, int, int], NDArray[Any]] = {}  # by sample and its rows [first, last)
        self._ends: dict[int, tuple[float, float]] = {}  # middles of a long clip's first and last row

    def read(self, index: NDArray[np.int64], cuts: Sequence[Span | None] | None = None) -> Padded:
        """The rows of several clips, cut to spans where these are given. Raises IntegrityError."""
        spans = self.spans
        sample = spans.sample[index]
        begin: NDArray[np.int64] = np.append(spans.row, 0)[sample]
        first: NDArray[np.int64] = begin + spans.first[index]
        last: NDArray[np.int64] = begin + spans.last[index]
        if cuts is not None:
            self._cut(index, cuts, first, last)
        num_rows = last - first
        values = np.empty((len(index), int(num_rows.max(initial=0)), spans.dim), spans.dtype)
        for place in np.flatnonzero(num_rows < values.shape[1]).tolist():
            values[place, num_rows[place] :] = 0
        places, keys = np.flatnonzero(num_rows), list[tuple[int, int, int]]()
        if self._budget is not None:
            keys = list(zip(sample.tolist(), (first - begin).tolist(), (last - begin).tolist(), strict=True))
            for place in places.tolist():
                if keys[place] in self._kept:
                    values[place, : num_rows[place]] = self._kept[keys[place]]
            places = places[[keys[place] not in self._kept for place in places.tolist()]]
        # In the order of the file.
        shard = spans.shard[sample[places]]
        order = np.lexsort((first[places], shard))
        data, row_bytes = values.reshape(-1).view(np.uint8).data, spans.dim * values.itemsize
        at = places * (values.shape[1] * row_bytes)
        columns = (shard, first[places], last[places], at, at + num_rows[places] * row_bytes)
        pieces = zip(*(column[order].tolist() for column in columns), strict=True)
        for number, group in groupby(pieces, key=itemgetter(0)):
            wanted, targets = [], []
            for _, begins, ends, low, high in group:
                wanted.append((begins, ends))
                targets.append(data[low:high])
            self._store.read_rows_into(spans.shards[number], wanted, targets)
        if self._budget is not None:
            for place in places.tolist():
                rows = values[place, : num_rows[place]]
                if keys[place] not in self._kept and self._budget.take(rows.nbytes):
                    self._kept[keys[place]] = rows.copy()
        return Padded(values, num_rows)

    def middles(self, index: int) -> NDArray[np.float64]:
        """The middle of each of a clip's rows, in seconds, (T,)."""
        return self._middles(*self.spans.place(index))

    # --- spans that are drawn ----------------------------------------------------------------------------------------

    def _cut(
        self,
        index: NDArray[np.int64],
        cuts: Sequence[Span | None],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
    ) -> None:
        """Narrow clips' rows, which are in the order of time, to those whose middle lies in a span."""
        of_rows: dict[tuple[Path, int, int], list[int]] = {}  # often several windows of a batch are of one video
        for place in np.flatnonzero(last > first).tolist():
            if cuts[place] is not None:
                of_rows.setdefault(self.spans.place(int(index[place])), []).append(place)
        for rows, places in of_rows.items():
            spans, clip = np.array([cuts[place] for place in places]), int(index[places[0]])
            if rows[2] - rows[1] > _SEARCHED_ROWS and not np.isnan(self._ends_of(clip)).any():
                found = np.array([[self._row_at(clip, seconds) for seconds in span] for span in spans.tolist()])
            else:
                middles = self._middles(*rows)
                if np.isnan(middles[0]):  # text has no times
                    continue
                found = rows[1] + middles.searchsorted(spans)
            first[places], last[places] = found[:, 0], found.max(axis=1)

    def _ends_of(self, clip: int) -> tuple[float, float]:
        """The middles of a clip's first and last row, NaN where rows have no times."""
        if clip not in self._ends:
            shard, first, last = self.spans.place(clip)
            begin, end = (float(self._middles(shard, row, row + 1)[0]) for row in (first, last - 1))
            self._ends[clip] = begin, end
        return self._ends[clip]

    def _row_at(self, clip: int, seconds: float) -> int:
        """The first of a clip's many rows whose middle is at an instant or later. Only the times near by are read."""
        shard, first, last = self.spans.place(clip)
        begin, end = self._ends_of(clip)
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
