"""What all places have in common: how files of a store are named and listed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..formats import FORMATS, SUFFIX

FEATURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
MAX_SMALL_BYTES = 1 << 31  # of a file that is read whole, as a sidecar is
# Other files may be in the store's folders; only these are ours to read or to remove.
OURS = re.compile(r"[0-9a-f]{32}\.(h5|tar|parquet)")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the store.

    Attributes:
        path: where it lies on this machine, or where its copy would.
        size: bytes.
        stamp: changes when the file does.
        age_seconds: since it was last changed, by this machine's clock.
    """

    path: Path
    size: int
    stamp: str
    age_seconds: float


def counterparts(path: Path) -> list[Path]:
    """The sidecar of a shard, or the shards that a sidecar may belong to."""
    if path.suffix != SUFFIX:
        return [path.with_suffix(SUFFIX)]
    return [path.with_suffix(shard_format.suffix) for shard_format in FORMATS.values()]
