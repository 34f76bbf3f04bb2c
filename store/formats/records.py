"""What a shard says of its samples itself, beside their numbers.

A sidecar says it too, and is what everybody plans with. Anybody can seal a sidecar, so the two are compared
(`_agreement`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._vocabulary import canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One sample, as its shard tells of it.

    Attributes:
        key: what a person calls it; of a format that keeps less, its beginning.
        fingerprint: its name in the store.
        num_rows: T.
        status: what became of it.
        rest: what only some formats keep; None for the others.
    """

    key: str
    fingerprint: str
    num_rows: int
    status: str
    rest: Rest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What is left of a sample: with it a sidecar can be written again from the shard alone.

    Attributes:
        source_digest: digest of the file that it came from.
        message: a sentence for a person.
        extent: the seconds [start, end) of its stream, where its rows' times do not say them.
        checksum: CRC-32 of its values and times.
    """

    source_digest: str
    message: str
    extent: tuple[float, float] | None
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A shard, as it tells of itself.

    Attributes:
        spec: canonical JSON of the specification's identity.
        samples: in the order of their rows.
    """

    spec: str
    samples: tuple[Told, ...]


def mark(*, spec: str, dtype: str, dim: int, names: Iterable[str], num_rows: Sequence[int]) -> bytes:
    """A digest of what decides which rows are whose and what they are: short enough to keep for every shard.

    Args:
        spec: canonical JSON of the specification's identity.
        dtype: type of the values.
        dim: width of the values.
        names: what the shard calls its samples.
        num_rows: of each sample.
    """
    digest = hashlib.blake2b(f"{np.dtype(dtype).str} {dim}\n{same_spec(spec)}\n".encode(), digest_size=16)
    digest.update("\n".join(names).encode())
    digest.update(np.asarray(num_rows, np.int64).tobytes())
    return digest.digest()


@functools.lru_cache(maxsize=256)
def same_spec(text: str) -> str:
    """A specification's JSON in the one form that all JSON of the same content has. Raises ValueError for no JSON.

    Names that were numbers are sorted as numbers before they are text, and as text ever after.
    """
    try:
        return canonical_json(json.loads(text))
    except RecursionError as error:
        raise ValueError("its specification is too deep") from error


def stamp_of(path: Path) -> tuple[int, int, int, int]:
    """As `RowFile.stamp`, of a file that is not open."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
