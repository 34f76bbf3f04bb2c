"""Sums over the pages of a file, noted while the file is compared with its hash.

A shard's bytes are all read, once, before a process opens it. What they were then is known for certain, so a sum over
each page is noted on the way: it costs a twentieth of the hash and 8 bytes for each 16 KB. Any part of the file can
later be compared with these by reading no more than the pages that it lies in.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 16 * 1024
KEPT_BYTES = 64 * 1024 * 1024  # of sums: of 128 GB of shards
_READ_BYTES = 16 * PAGE_BYTES  # fits into the processor's cache, so that the sums need not fetch it again
_WORD = np.uint64


class PageSums:
    """Of each page of a file the sum of its 64-bit words modulo 2 to the 64th; of a file whose hash was right.

    A changed bit changes its page's sum, whatever else it is next to. The last page is filled up with zeros.

    Args:
        num_bytes: size of the file.
        sums: of its pages, (pages,).
    """

    def __init__(self, num_bytes: int, sums: NDArray[np.uint64]) -> None:
        self.num_bytes, self._sums = num_bytes, sums

    @property
    def nbytes(self) -> int:
        """What these take in memory."""
        return self._sums.nbytes

    def hold(self, first: int, pages: NDArray[np.uint8]) -> bool:
        """Whether whole pages from page ``first`` on are what they were."""
        found = sums_of_pages(pages)
        return bool((found == self._sums[first : first + len(found)]).all())


class KeptSums:
    """The sums of many files, up to `KEPT_BYTES`: then those that were found first are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, PageSums] = OrderedDict()
        self._num_bytes = 0

    def get(self, path: Path) -> PageSums | None:
        """Those of one file; None where they are not kept."""
        return self._kept.get(path)

    def keep(self, path: Path, sums: PageSums | None) -> None:
        """Keep those of one file in the place of what was known of it; None where they are not known."""
        self.forget(path)
        if sums is None:
            return
        self._kept[path] = sums
        self._num_bytes += sums.nbytes
        while self._num_bytes > KEPT_BYTES:
            self.forget(next(iter(self._kept)))

    def forget(self, path: Path) -> None:
        """Forget those of one file, if they are kept."""
        sums = self._kept.pop(path, None)
        self._num_bytes -= sums.nbytes if sums else 0


def sums_of_pages(pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The sum of each page, (pages,), of the bytes of whole pages."""
    sums: NDArray[np.uint64] = np.add.reduce(pages.view(_WORD).reshape(-1, PAGE_BYTES // 8), axis=1)
    return sums


def hash_with_sums(path: Path) -> tuple[str, PageSums]:
    """The SHA-256 of a file's bytes in hexadecimal, and the sums of its pages. Raises OSError."""
    digest, found, num_bytes = hashlib.sha256(), list[NDArray[np.uint64]](), 0
    block = np.empty(_READ_BYTES, np.uint8)
    with path.open("rb", buffering=0) as file:
        while count := _fill(file, block):
            digest.update(block[:count].data)
            whole = -(-count // PAGE_BYTES) * PAGE_BYTES
            block[count:whole] = 0
            found.append(sums_of_pages(block[:whole]))
            num_bytes += count
    return digest.hexdigest(), PageSums(num_bytes, np.concatenate([np.empty(0, _WORD), *found]))


def _fill(file: Any, block: NDArray[np.uint8]) -> int:
    """Read until the block is full or the file ends."""
    done = 0
    while done < len(block) and (count := file.readinto(block[done:].data)):
        done += count
    return done
