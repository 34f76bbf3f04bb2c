"""Checksums of stored rows: one XXH3-64 for each block of a sample's values, and then for each block of its times.

They are compared at every read, in every process. A part of a long sample is read by way of the blocks that it touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 16
DIGEST_BYTES = 8


def num_blocks(num_bytes: int) -> int:
    """How many blocks an array of so many bytes has; the last one may be shorter."""
    return -(-num_bytes // BLOCK_BYTES)


def block_checksums(*arrays: NDArray[Any]) -> bytes:
    """The digests of the blocks of each array, end to end, 8 bytes each, the most significant first."""
    views = (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays)
    return b"".join(
        xxhash.xxh3_64_digest(view[place : place + BLOCK_BYTES])
        for view in views
        for place in range(0, len(view), BLOCK_BYTES)
    )


def sample_checksum(values: NDArray[Any], times: NDArray[np.float64]) -> str:
    """The checksum of a whole sample as `Entry.checksum` has it: the XXH3-64 of the digests of its blocks."""
    return checksum_of(block_checksums(values, times))


def checksum_of(blocks: bytes) -> str:
    """`sample_checksum` from `block_checksums`."""
    return xxhash.xxh3_64_hexdigest(blocks)
