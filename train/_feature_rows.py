"""Reading rows of shards: in the order of the file, kept in memory where that is wished, cut anew where that is drawn.

Legend: N clips, T rows of a clip, D width.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..store import FeatureStore
from ._feature_plan import Spans, middles_of

VerifyPolicy = Literal["always", "first"]
Span = tuple[float, float]
SpanDraw = Callable[[int, int, Span], Span]
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
        self._bytes_left = num_bytes
        self._kept: dict[_Key, NDArray[Any]] = {}

    def get(self, key: _Key) -> NDArray[Any] | None:
        return self._kept.get(key)

    def keep(self, key: _Key, values: NDArray[Any]) -> None:
        if values.nbytes <= self._bytes_left:
            self._bytes_left -= values.nbytes
            values.flags.writeable = False  # the next epoch is given the same array
            self._kept[key] = values


class Rows:
    """One feature of all clips, to be read."""

    def __init__(self, store: FeatureStore, spans: Spans, memory: Memory, *, verify: VerifyPolicy) -> None:
        self.spans = spans
        self._store, self._memory = store, memory
        self._verified = bytearray(len(spans.shard)) if verify == "first" else None

    def read(self, indices: Sequence[int], cuts: Sequence[Span | None] | None = None) -> list[NDArray[Any]]:
        """The rows (T, D) of several clips, read in the order in which they lie. Raises IntegrityError."""
        spans, wanted = self.spans, np.asarray(indices, np.int64)
        found = [spans.no_rows()] * len(indices)
        places = np.lexsort((spans.first[wanted], spans.shard[wanted]))
        wanted = wanted[places]
        columns = (places, wanted, spans.shard[wanted], spans.first[wanted], spans.last[wanted])
        for place, index, shard, first, last in zip(*(column.tolist() for column in columns), strict=True):
            if shard < 0:
                continue
            path, cut = spans.shards[shard], (first, last)
            if cuts is not None:
                cut = self._cut(path, first, last, cuts[place])
            if cut[0] < cut[1]:
                found[place] = self._read(index, (path, *cut))
        return found

    def _cut(self, shard: Path, first: int, last: int, cut: Span | None) -> tuple[int, int]:
        """Those of rows [first, last) whose middle lies in a span."""
        middles = middles_of(self._store.read_times(shard, first, last))
        if cut is None or np.isnan(middles[0]):  # text has no times
            return first, last
        low, high = np.searchsorted(middles, cut).tolist()
        return first + low, first + high

    def _read(self, index: int, key: _Key) -> NDArray[Any]:
        values = self._memory.get(key)
        if values is not None:
            return values
        shard, first, last = key
        verify = self._verified is None or not self._verified[index]
        values = self._store.read_rows(shard, first, last, verify=verify)
        if self._verified is not None:
            self._verified[index] = True
        self._memory.keep(key, values)
        return values
