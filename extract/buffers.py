"""Memory for what outlives a batch: rows, decoded chunks, whole tracks. It is kept apart from the heap.

The tensors of a batch are let go before the next one. What stays longer and lay among them would leave holes too small
for the next batch, and the heap would grow with the length of the file by far more than what stays.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALLEST_BYTES = 64 * 1024


def lasting_array(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros, to be filled; a large one in memory of its own."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes < _SMALLEST_BYTES:
        return np.zeros(shape, dtype)
    return np.frombuffer(_mapping(num_bytes), dtype).reshape(shape)


def _mapping(num_bytes: int) -> mmap.mmap:
    """Memory of this process alone: a child that is forked gets a copy. Neighbours count as one mapping."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class RowTable:
    """Rows of one shape and type, whose places are given out before they are filled, in any order."""

    def __init__(self) -> None:
        self._num_places = 0
        self._mapping: mmap.mmap | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self._num_places

    def reserve(self) -> int:
        """The place of the next row."""
        self._num_places += 1
        return self._num_places - 1

    def put(self, place: int, row: NDArray[Any]) -> None:
        """Fill a place. The row is copied."""
        if self._mapping is None:
            self._shape, self._dtype = row.shape, row.dtype
        start = place * row.nbytes
        mapping = self._with_room(start + row.nbytes)
        mapping[start : start + row.nbytes] = row.tobytes()

    def rows(self) -> NDArray[Any]:
        """All rows (N, ...), once every place is filled. They share this table's memory."""
        assert self._mapping is not None
        count = self._num_places * math.prod(self._shape)
        return np.frombuffer(self._mapping, self._dtype, count).reshape(self._num_places, *self._shape)

    def _with_room(self, num_bytes: int) -> mmap.mmap:
        """The mapping, moved to one of twice the size when it is full."""
        held = self._mapping
        if held is None or len(held) < num_bytes:
            grown = _mapping(max(2 * num_bytes, _SMALLEST_BYTES))
            if held is not None:
                with memoryview(held) as filled:
                    grown[: len(held)] = filled
                held.close()
            self._mapping = held = grown
        return held
