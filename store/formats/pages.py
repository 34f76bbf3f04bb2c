"""Sums over the pages of a file, noted while the file is compared with its hash.

A shard's bytes are all read, once, before a process opens it. What they were then is known for certain, so a sum over
each page is noted on the way: it costs little beside the hash, and 8 bytes for each 16 KB. Any part of the file can
later be compared with these by reading no more than the pages that it lies in.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 16 * 1024
KEPT_BYTES = 64 * 1024 * 1024  # of sums: of 128 GB of shards
_READ_BYTES = 16 * PAGE_BYTES  # fits into the processor's cache, so that the sums need not fetch it again
_WORDS = PAGE_BYTES // 8


class PageSums:
    """The `sums_of_pages` of a file whose hash was right.

    Args:
        num_bytes: size of the file.
        sums: of its pages, (pages,). The last page is filled up with zeros.
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


def _odd_numbers() -> NDArray[np.uint64]:
    """One for each word of a page, with no pattern: bytes of a hash, so that they are the same everywhere."""
    numbers = np.frombuffer(hashlib.shake_128(b"frameloom page").digest(PAGE_BYTES), "<u8").astype(np.uint64)
    return numbers | np.uint64(1)


_FACTORS = _odd_numbers()


def sums_of_pages(pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Of each page, (pages,), the sum of its 64-bit words, each times an odd number of its place, modulo 2 to the 64th.

    A single changed bit always changes the sum, for no power of two times an odd number is 0. So do, but for one case
    in very many, rows that change places, zeros, and the bytes of another file. It is a third of the work of a CRC-32.
    Weak are the topmost bits of words: flips of bit 63 in an even number of words, and of nothing else, cancel.
    """
    sums: NDArray[np.uint64] = np.einsum("ij,j->i", pages.view(np.uint64).reshape(-1, _WORDS), _FACTORS)
    return sums


class KeptSums:
    """The sums of many files, up to `KEPT_BYTES`. Beyond, those that were found first are forgotten for good."""

    def __init__(self) -> None:
        self._kept: dict[Path, PageSums] = {}
        self._num_bytes = 0

    def get(self, path: Path) -> PageSums | None:
        """Those of one file; None where they are not kept."""
        return self._kept.get(path)

    def keep(self, path: Path, sums: PageSums | None) -> None:
        """Keep those of one file in the place of what was known of it; None where they are not known."""
        self._forget(path)
        if sums is None:
            return
        self._kept[path] = sums
        self._num_bytes += sums.nbytes
        while self._kept and self._num_bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, path: Path) -> None:
        sums = self._kept.pop(path, None)
        self._num_bytes -= sums.nbytes if sums else 0


def hash_with_sums(path: Path) -> tuple[str, PageSums]:
    """The SHA-256 of a file's bytes in hexadecimal, and the sums of its pages. Raises OSError."""
    digest, found, num_bytes = hashlib.sha256(), [np.empty(0, np.uint64)], 0
    block = np.empty(_READ_BYTES, np.uint8)
    with path.open("rb") as file:
        while count := file.readinto(block.data):  # less than the block at the file's end alone
            digest.update(block[:count].data)
            whole = -(-count // PAGE_BYTES) * PAGE_BYTES
            block[count:whole] = 0
            found.append(sums_of_pages(block[:whole]))
            num_bytes += count
    return digest.hexdigest(), PageSums(num_bytes, np.concatenate(found))
