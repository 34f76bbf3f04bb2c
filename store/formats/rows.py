"""Rows of an array that lie in a few places of a file, read straight from there: no parser, no lock.

A *run* is a stretch of the file that holds consecutive rows: a chunk of HDF5, a member of a tar. Rows are read with
`os.preadv`, not through a memory map: a file that becomes shorter, or a disk that fails, then gives an error, where a
map ends the process. Threads need no lock for it, and a child may go on with the file that its parent opened.

Whoever reads whole samples checks them against the sidecar. Parts of samples are checked here, each time that they are
read: by the sums of the pages that they touch (`_pages`), and where these are not known, by the CRC-32 of the blocks
that they touch. The format says how it comes by these: the first time that a run is touched it is asked for them, and
it checks the run by what the file itself says.
"""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pages import PAGE_BYTES, PageSums

BLOCK_BYTES = 16 * 1024
KEPT_TIMES_BYTES = 512 * 1024  # of eight hours at a row a second
AHEAD_BYTES = 16 * 1024 * 1024
_ADVISED_BYTES = 1024 * 1024  # of a single larger request, the system leaves out what is beyond its own limit
_GAP_BYTES = 64  # between two chunks is a checksum, which is not worth a second call
_AT_ONCE_BYTES = 2 * 1024 * 1024
_AT_ONCE_PIECES = 1000  # the system takes 1,024


class RowFile:
    """A file open for reading at any place. Raises OSError when it cannot be.

    It closes when nobody uses it any more, so that whoever reads from it may go on while others forget it.

    Args:
        path: of the file.
        sums: of its pages, where they are known.
    """

    def __init__(self, path: Path, sums: PageSums | None = None) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.num_bytes = status.st_size
        self.stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        self._sums = sums if sums is not None and sums.num_bytes == self.num_bytes else None

    def read_into(self, target: NDArray[Any] | memoryview, offset: int) -> None:
        """Fill an array or its bytes, contiguous in C order, with the bytes from ``offset`` on.

        Raises ValueError where the file ends before.
        """
        count = os.preadv(self._descriptor, [target.data if isinstance(target, np.ndarray) else target], offset)
        if count != target.nbytes:
            self._read_rest([_bytes_of(target)], count, offset)

    def scatter(self, parts: list[memoryview], num_bytes: int, offset: int) -> None:
        """Fill pieces of memory, of so many bytes in all, with the bytes from ``offset`` on, one after the other.

        Raises ValueError where the file ends before.
        """
        count = os.preadv(self._descriptor, parts, offset)
        if count != num_bytes:
            self._read_rest(parts, count, offset)

    def _read_rest(self, parts: Sequence[memoryview], done: int, offset: int) -> None:
        """What is still missing when ``done`` bytes of the parts are there."""
        for part in parts:
            missing, offset = part[done:], offset + min(done, len(part))
            done = max(0, done - len(part))
            while missing:
                count = os.preadv(self._descriptor, [missing], offset)
                if not count:
                    raise ValueError(f"it ends before byte {offset + len(missing):,}")
                missing, offset = missing[count:], offset + count

    def read(self, offset: int, num_bytes: int) -> memoryview:
        """Bytes ``[offset, offset + num_bytes)``. Raises ValueError where the file ends before."""
        data = np.empty(num_bytes, np.uint8)
        self.read_into(data, offset)
        return data.data

    @property
    def has_sums(self) -> bool:
        """Whether the sums of its pages are known."""
        return self._sums is not None

    def read_checked(self, offset: int, num_bytes: int) -> memoryview:
        """As `read`, by way of the whole pages that these bytes lie in.

        Raises ValueError where the file ends before, or has no sums, or one of these pages is not what it was.
        """
        first, last = offset // PAGE_BYTES, -(-(offset + num_bytes) // PAGE_BYTES)
        begin, end = first * PAGE_BYTES, min(last * PAGE_BYTES, self.num_bytes)
        pages = np.empty((last - first) * PAGE_BYTES, np.uint8)
        self.read_into(pages[: end - begin], begin)
        pages[end - begin :] = 0
        if self._sums is None or not self._sums.hold(first, pages):
            raise ValueError(f"the bytes at {begin:,} do not match their checksum")
        return pages.data[offset - begin : offset - begin + num_bytes]

    def advise(self, offset: int) -> None:
        """Have the system fetch the `AHEAD_BYTES` from ``offset`` on, while the caller does something else.

        Not where the first and the last byte are in memory, as the others are then most likely: to have each page
        looked for takes as long as to copy a fifth of them.
        """
        end = min(offset + AHEAD_BYTES, self.num_bytes)
        if offset < end and not (self._is_cached(offset) and self._is_cached(end - 1)):
            with suppress(OSError):  # it was only to be faster
                for place in range(offset, end, _ADVISED_BYTES):
                    os.posix_fadvise(self._descriptor, place, _ADVISED_BYTES, os.POSIX_FADV_WILLNEED)

    def _is_cached(self, offset: int) -> bool:
        """Whether the system has a byte in memory; False as well where it cannot say so."""
        try:
            return os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except (OSError, AttributeError):  # it would have to wait, or the file system or the machine knows no such call
            return False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class Rows:
    """Where the rows of one array are.

    Args:
        dtype: type of the values.
        dim: values in a row.
        starts: first row of each run in ascending order, none of them empty, and then the number of all rows.
        offsets: where each run begins in the file.
        learn: finds the CRC-32 of each block of a run, of which it is given the file, the offset and the number of
            bytes. It is called when the run of a file without sums is first touched, and raises ValueError when the
            run is not what the file itself says that it is.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        dim: int,
        *,
        starts: Sequence[int],
        offsets: Sequence[int],
        learn: Callable[[RowFile, int, int], array[int]],
    ) -> None:
        self.dtype, self.dim = dtype, dim
        self._row_bytes = dim * dtype.itemsize
        self._starts, self._offsets = starts, offsets
        self._learn = learn
        self._checksums: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def num_bytes(self) -> int:
        """Of all rows."""
        return len(self) * self._row_bytes

    def read(self, file: RowFile, first: int, last: int, *, verify: bool) -> NDArray[Any]:
        """Rows ``[first, last)``. Raises ValueError or OSError when they are not there or, verified, are damaged."""
        if not 0 <= first <= last <= len(self):
            raise ValueError(f"rows {first} to {last} of {len(self)} were asked for")
        rows = np.empty((last - first, self.dim), self.dtype)
        if first == last:
            return rows
        run = bisect_right(self._starts, first) - 1
        if last <= self._starts[run + 1] and not verify:  # most samples lie in one run
            file.read_into(rows, self._offsets[run] + (first - self._starts[run]) * self._row_bytes)
        else:
            self.read_into(file, [(first, last)], [_bytes_of(rows)], verify=verify)
        return rows

    def read_into(
        self, file: RowFile, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview], *, verify: bool
    ) -> None:
        """Rows ``[first, last)`` of every span, each into the bytes of its target, which hold exactly these rows.

        Spans that follow each other in the file, but for the few bytes that lie between two runs, are read at once.
        Raises as `read` does; what the targets hold then is undefined.
        """
        if not verify:
            self._read_plain(file, spans, targets)
            return
        for (first, last), target in zip(spans, targets, strict=True):
            for run, begin, part in self._parts(first, last, target):
                self._read_verified(file, run, begin, part)

    def _parts(self, first: int, last: int, target: memoryview) -> list[tuple[int, int, memoryview]]:
        """The runs that rows ``[first, last)`` lie in: number, first byte in it, and where its bytes go."""
        size = self._row_bytes
        num_bytes = (last - first) * size
        if not 0 <= first <= last <= len(self) or len(target) != num_bytes:
            raise ValueError(f"rows {first} to {last} of {len(self)} were asked for, into {len(target)} bytes")
        run = bisect_right(self._starts, first) - 1
        if num_bytes and last <= self._starts[run + 1]:  # most samples lie in one run
            return [(run, (first - self._starts[run]) * size, target)]
        parts, starts, place, end, done = [], self._starts, first * size, last * size, 0
        while place < end:
            begin, stop = starts[run] * size, min(end, starts[run + 1] * size)
            count = stop - place
            parts.append((run, place - begin, target[done : done + count]))
            run, place, done = run + 1, stop, done + count
        return parts

    def _read_plain(self, file: RowFile, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        pieces, first, end = list[memoryview](), 0, 0
        for (first_row, last_row), target in zip(spans, targets, strict=True):
            for run, begin, part in self._parts(first_row, last_row, target):
                place = self._offsets[run] + begin
                if pieces and (
                    not 0 <= place - end <= _GAP_BYTES or end - first > _AT_ONCE_BYTES or len(pieces) > _AT_ONCE_PIECES
                ):
                    file.scatter(pieces, end - first, first)
                    pieces = []
                if not pieces:
                    first = place
                elif place > end:
                    pieces.append(memoryview(bytearray(place - end)))
                pieces.append(part)
                end = place + len(part)
        if pieces:
            file.scatter(pieces, end - first, first)

    def offset(self, row: int) -> int:
        """Where a row begins, or for the number of all rows, where the last one ends."""
        run = min(bisect_right(self._starts, row), len(self._offsets)) - 1
        return self._offsets[run] + (row - self._starts[run]) * self._row_bytes

    def _read_verified(self, file: RowFile, run: int, begin: int, target: memoryview) -> None:
        """Rows of a run from its byte ``begin`` on, by way of the whole pages or blocks that they lie in."""
        if file.has_sums:
            target[:] = file.read_checked(self._offsets[run] + begin, len(target))
            return
        run_bytes = (self._starts[run + 1] - self._starts[run]) * self._row_bytes
        checksums = self._checksums.get(run)
        if checksums is None:
            checksums = self._checksums[run] = self._learn(file, self._offsets[run], run_bytes)
        first, last = begin // BLOCK_BYTES, -(-(begin + len(target)) // BLOCK_BYTES)
        low = first * BLOCK_BYTES
        data = file.read(self._offsets[run] + low, min(last * BLOCK_BYTES, run_bytes) - low)
        if block_checksums(data) != checksums[first:last]:
            raise ValueError(f"the bytes at {self._offsets[run] + low:,} do not match their checksum")
        target[:] = data[begin - low : begin - low + len(target)]


class RowShard:
    """An open shard whose values and times are rows in one file. Times that are few are kept once they are verified.

    Args:
        file: the shard.
        values: where its values are.
        times: where its times are.
    """

    def __init__(self, file: RowFile, values: Rows, times: Rows) -> None:
        if times.dim != 2 or len(values) != len(times):
            raise ValueError(f"it has {len(values)} rows of values, and times ({len(times)}, {times.dim})")
        self._file, self._values, self._times = file, values, times
        self._kept: NDArray[np.float64] | None = None
        self._next_row = self._advised = -1

    @classmethod
    def open(
        cls, path: Path, sums: PageSums | None, layout: Callable[[Path, tuple[int, ...]], tuple[Rows, Rows]]
    ) -> RowShard:
        """Open a shard, of which ``layout`` says where its rows are, given its path and stamp."""
        file = RowFile(path, sums)
        return cls(file, *layout(path, file.stamp))

    def read(self, first: int, last: int, *, verify: bool = True) -> tuple[NDArray[Any], NDArray[np.float64]]:
        values = self._values.read(self._file, first, last, verify=verify)
        if first == self._next_row:
            self._fetch_ahead(last)
        self._next_row = last
        times = self._read_times(first, last, verify=verify)
        return values, times if times.flags.writeable else times.copy()

    def read_into(
        self, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview], *, verify: bool = True
    ) -> None:
        self._values.read_into(self._file, spans, targets, verify=verify)
        if spans and spans[0][0] == self._next_row:
            self._fetch_ahead(spans[-1][1])
        self._next_row = spans[-1][1] if spans else -1

    def _fetch_ahead(self, row: int) -> None:
        """Somebody reads one sample after another: have the next ones fetched from the disk meanwhile."""
        if not len(self._values):
            return
        place = self._values.offset(row)
        if not self._advised - AHEAD_BYTES <= place < self._advised - AHEAD_BYTES // 2:
            self._advised = place + AHEAD_BYTES
            self._file.advise(place)

    def read_times(self, first: int, last: int) -> NDArray[np.float64]:
        return self._read_times(first, last, verify=True)

    def _read_times(self, first: int, last: int, *, verify: bool) -> NDArray[np.float64]:
        if self._times.num_bytes > KEPT_TIMES_BYTES:
            return self._times.read(self._file, first, last, verify=verify)
        if self._kept is None:
            try:
                kept = self._times.read(self._file, 0, len(self._times), verify=True)
            except ValueError:
                if verify:
                    raise
                return self._times.read(self._file, first, last, verify=False)  # of a damaged shard, what is left
            kept.flags.writeable = False  # others are given views of it
            self._kept = kept
        if not 0 <= first <= last <= len(self._kept):
            raise ValueError(f"rows {first} to {last} of {len(self._kept)} were asked for")
        return self._kept[first:last]

    def close(self) -> None:
        self._file.close()


def _bytes_of(array: NDArray[Any] | memoryview) -> memoryview:
    return array if isinstance(array, memoryview) else array.reshape(-1).view(np.uint8).data


def block_checksums(data: memoryview) -> array[int]:
    """CRC-32 of each `BLOCK_BYTES` of a run; the last block may be shorter."""
    return array("I", [zlib.crc32(data[place : place + BLOCK_BYTES]) for place in range(0, len(data), BLOCK_BYTES)])
