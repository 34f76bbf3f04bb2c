"""Memory for what outlives a batch: rows, decoded chunks, whole tracks. It is kept apart from the heap.

The tensors of a batch are freed before the next one. What stays longer and lay among them would leave holes too small
for the next batch, and the heap would grow with the length of the file by far more than what stays. A long sound track
waits in a temporary file that has no name.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._files import FULL, out_of_space

MAX_MEMORY_BYTES = 4 * 1024**2
"""The most memory that a sound track takes before it goes to a file."""
_SMALLEST_BYTES = 64 * 1024
_ITEM_BYTES = 4
# glibc's mallopt: from where on, and how many, requests get pages of their own; how much of a free end is given back;
# how much more than is needed the heap grows by.
_MALLOC_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 * 1024**2)}


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, once and for its whole life.

    glibc gives large buffers pages of their own and gives these back when they are freed, so that every layer of every
    batch faults its pages in again: up to half of the time of a forward pass on a processor. Whoever set the allocator
    up in the environment, as the workers of a cluster are, is left alone, and so is any other C library.
    """
    is_set_up = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    libc = ctypes.CDLL(None)
    if is_set_up or not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in _MALLOC_OPTIONS.values():
        libc.mallopt(option, value)


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


class RaggedTable:
    """`RowTable` for windows that give several rows each, and not the same number."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[Any]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def reserve(self) -> int:
        """The place of the next block."""
        self._blocks.append(np.empty(0))
        return len(self._blocks) - 1

    def put(self, place: int, rows: NDArray[Any]) -> None:
        """Fill a place with (P, D) rows, which are copied."""
        self._blocks[place] = lasting_array(rows.shape, rows.dtype)
        self._blocks[place][:] = rows

    def rows(self) -> list[NDArray[Any]]:
        """All blocks, once every place is filled."""
        return self._blocks


class SampleSpool:
    """A sound track of any length in bounded memory: (N,) float32 samples, appended and then read by slices.

    Its file goes with the object.
    """

    def __init__(self, *, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._memory = lasting_array((max_memory_bytes // _ITEM_BYTES,), np.float32)
        self._file: IO[bytes] | None = None
        self._num_samples = 0

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add (M,) samples to the end.

        Raises:
            OutOfSpaceError: the folder for temporary files is full.
        """
        end = self._num_samples + len(samples)
        if self._file is None and end <= len(self._memory):
            self._memory[self._num_samples : end] = samples
            self._num_samples = end
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
                self._file.write(self._memory[: self._num_samples].data)
                self._memory = np.zeros(0, np.float32)
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(samples, np.float32).data)
            self._file.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise
            what = f"temporary files in {tempfile.gettempdir()}"
            raise out_of_space(what, advice=", or name another folder in TMPDIR") from error
        self._num_samples = end

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, where: slice) -> NDArray[np.float32]:
        start, stop, step = where.indices(self._num_samples)
        if step != 1:
            raise ValueError(f"samples are read by plain slices, not with a step of {step}")
        if self._file is None:
            return self._memory[start : max(start, stop)].copy()
        self._file.seek(start * _ITEM_BYTES)
        return np.frombuffer(self._file.read(max(0, stop - start) * _ITEM_BYTES), np.float32)

    def close(self) -> None:
        """Free the memory and the file."""
        self._memory = np.zeros(0, np.float32)
        if self._file is not None:
            self._file.close()
