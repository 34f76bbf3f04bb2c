"""Rows of a shard, read straight from their places in the file: no parser, no lock, every byte checked.

Rows are read with `os.preadv`, not through a memory map: a file that becomes shorter, or a disk that fails, then gives
an error, where a map ends the process. Threads need no lock for it, and a child may go on with the file that its parent
opened. Whatever is read is compared with the checksums of its blocks (`checksums`) before the caller sees it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..._vocabulary import InputError, IntegrityError
from .base import REMEDY
from .checksums import BLOCK_BYTES, DIGEST_BYTES, digests_of

MAX_OPEN_FILES = 128
AHEAD_BYTES = 16 * 1024 * 1024
_ADVISED_BYTES = 1024 * 1024  # of a single larger request, the system leaves out what is beyond its own limit
_AT_ONCE_BYTES = 512 * 1024  # which a processor's cache still has when they are compared
_AT_ONCE_PIECES = 1000  # the system takes 1,024
_GAP_BYTES = 1 << 16  # what lies between two samples of a tar
_Result = TypeVar("_Result")


class Part(NamedTuple):
    """Bytes ``[begin, end)`` of one array of one sample, and the memory of their size that they go into."""

    offset: int  # of the array in the file
    num_bytes: int  # of the array
    digests: bytes  # of its blocks
    begin: int
    end: int
    target: memoryview


class ShardFile:
    """A shard open for reading at any place. Raises OSError when it cannot be.

    It closes when nobody uses it any more, so that whoever reads from it may go on while others forget it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._next = self._advised = -1

    def read(self, parts: Sequence[Part], *, ahead: bool = False) -> None:
        """Fill the targets of the parts. Those that follow each other in the file are read at once.

        With ``ahead``, see `fetch_ahead`.

        Raises ValueError where a block is not what was written or the file ends before, and OSError. What the targets
        hold then is undefined.
        """
        # Runs of bytes that are read at once: where each begins in the file, where it goes, what it must be.
        runs: list[tuple[int, list[memoryview], list[bytes]]] = []
        copies: list[tuple[memoryview, memoryview]] = []
        begun = end = -1  # of the last run
        for offset, num_bytes, digests, begin, stop, target in parts:
            place = begin
            while place < stop:
                low = place - place % BLOCK_BYTES
                high = min(low + _AT_ONCE_BYTES, num_bytes, stop + -stop % BLOCK_BYTES)
                last = min(high, stop)
                if low == begin and high == stop:  # all of it, as most often
                    piece = target
                elif low == place and high == last:
                    piece = target[place - begin : high - begin]
                else:  # a part of a block is read with the whole of it
                    piece = np.empty(high - low, np.uint8).data
                    copies.append((piece[place - low : last - low], target[place - begin : last - begin]))
                if offset + low != end or end - begun >= _AT_ONCE_BYTES or len(runs[-1][1]) >= _AT_ONCE_PIECES:
                    begun = offset + low
                    runs.append((begun, [], []))
                runs[-1][1].append(piece)
                runs[-1][2].append(digests[DIGEST_BYTES * (low // BLOCK_BYTES) :] if low else digests)
                end, place = offset + high, last
        for first, pieces, expected in runs:
            self._scatter(pieces, first)
            for piece, digests in zip(pieces, expected, strict=True):  # while the processor's cache has them
                if not digests.startswith(digests_of(piece)):
                    raise ValueError("its rows do not match their checksum")
        for source, target in copies:
            target[:] = source
        if ahead and parts:
            self.fetch_ahead(parts[0].offset + parts[0].begin, parts[-1].offset + parts[-1].end)

    def _scatter(self, pieces: list[memoryview], offset: int) -> None:
        done = os.preadv(self._descriptor, pieces, offset)
        if done == sum(map(len, pieces)):
            return
        for piece in pieces:  # the system may give less than it was asked for
            missing, offset = piece[done:], offset + min(done, len(piece))
            done = max(0, done - len(piece))
            while missing:
                count = os.preadv(self._descriptor, [missing], offset)
                if not count:
                    raise ValueError(f"it ends before byte {offset + len(missing):,}")
                missing, offset = missing[count:], offset + count

    def fetch_ahead(self, begin: int, end: int) -> None:
        """When bytes ``[begin, end)`` follow those of the last call, have the next ones fetched from the disk.

        Not where these are in memory already: to have each page looked for takes as long as to copy a fifth of them.
        """
        is_next, self._next = 0 <= begin - self._next <= _GAP_BYTES, end
        if not is_next or self._advised - AHEAD_BYTES <= end < self._advised - AHEAD_BYTES // 2:
            return
        self._advised = end + AHEAD_BYTES
        if self._is_cached(end) and self._is_cached(end + AHEAD_BYTES - 1):
            return
        with suppress(OSError):  # it was only to be faster
            for place in range(end, end + AHEAD_BYTES, _ADVISED_BYTES):
                os.posix_fadvise(self._descriptor, place, _ADVISED_BYTES, os.POSIX_FADV_WILLNEED)

    def _is_cached(self, offset: int) -> bool:
        """Whether the system has a byte in memory or the file ends before; False as well where it cannot say so."""
        try:
            os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        except (OSError, AttributeError):  # it would have to wait, or the file system or the machine knows no such call
            return False
        return True

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # which a process that ends has lost by then
        if self._descriptor >= 0:
            close(self._descriptor)


class ShardFiles:
    """Open shards, a bounded number at a time. Safe in threads and after a fork."""

    def __init__(self) -> None:
        self._open: dict[Path, ShardFile] = {}  # in the order in which they were opened
        self._opening = threading.RLock()
        self._process = os.getpid()

    def close(self) -> None:
        """Close every file, those that another thread reads at this moment as soon as it has done so."""
        self._open = {}

    def use(self, path: Path, read: Callable[[ShardFile], _Result]) -> _Result:
        """What ``read`` returns, given the open shard. Raises IntegrityError naming the shard."""
        try:
            return read(self._open.get(path) or self._opened(path))
        except InputError:
            raise
        except FileNotFoundError as error:
            raise ShardGoneError(f"shard {path} is gone; run sync again to make it anew") from error
        except (OSError, ValueError) as error:
            raise IntegrityError(f"shard {path} is damaged ({error}); {REMEDY}") from error

    def _opened(self, path: Path) -> ShardFile:
        if self._process != os.getpid():  # another thread of the parent may have held the lock when this was forked
            self._opening, self._process = threading.RLock(), os.getpid()
        with self._opening:
            known = self._open.get(path)
            if known is not None:
                return known
            shard, shards = ShardFile(path), self._open  # another thread may close all of them meanwhile
            while len(shards) >= MAX_OPEN_FILES:
                shards.pop(next(iter(shards)))
            shards[path] = shard
            return shard


class ShardGoneError(IntegrityError):
    """A shard is not there any more."""
