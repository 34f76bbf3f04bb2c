"""Checksums of stored rows: one XXH3-64 for each block of a sample's values, and then for each block of its times.

They are compared at every read, in every process. A part of a long sample is read by way of the blocks that it touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest, xxh3_64_hexdigest

BLOCK_BYTES = 1 << 16
DIGEST_BYTES = 8


def num_blocks(num_bytes: int) -> int:
    """How many blocks an array of so many bytes has; the last one may be shorter."""
    return -(-num_bytes // BLOCK_BYTES)


def digests_of(array: memoryview) -> bytes:
    """The digests of the blocks of an array's bytes, end to end, 8 bytes each, the most significant first."""
    return b"".join([xxh3_64_digest(array[at : at + BLOCK_BYTES]) for at in range(0, len(array), BLOCK_BYTES)])


def block_checksums(*arrays: NDArray[Any]) -> bytes:
    """`digests_of` each array, end to end."""
    return b"".join(digests_of(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) for array in arrays)


def sample_checksum(values: NDArray[Any], times: NDArray[np.float64]) -> str:
    """The checksum of a whole sample as `Entry.checksum` has it: the XXH3-64 of the digests of its blocks."""
    return checksum_of(block_checksums(values, times))


def checksum_of(blocks: bytes) -> str:
    """`sample_checksum` from `block_checksums`."""
    return xxh3_64_hexdigest(blocks)
