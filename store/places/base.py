"""Where a store's shards lie: a folder, or a prefix of an object store that fsspec can reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..._files import Published
from ..formats import FORMATS, SUFFIX, ShardFiles

FEATURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Other files may be in the store's folders; only these are ours to read or to remove.
OURS = re.compile(r"[0-9a-f]{32}\.(h5|tar|parquet)")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the store.

    Attributes:
        path: where it lies on this machine, or where its copy would.
        feature: name of its folder.
        name: its own.
        size: bytes.
        stamp: changes when the file does.
        age_seconds: since it was last changed, by this machine's clock.
    """

    path: Path
    feature: str
    name: str
    size: int
    stamp: str
    age_seconds: float


class Place(Protocol):
    """Where the files of a store lie. A file is known by its `Path` on this machine, which may be that of a copy.

    Attributes:
        root: the folder or address, as it was given.
        folder: that all paths of files, or of their copies, begin with.
        swept_seconds: how old what a dead writer left must be before a sweep removes it.
    """

    swept_seconds: float
    folder: Path

    @property
    def root(self) -> Path | str: ...

    def address(self, path: Path) -> str:
        """A file's path or URL as users know it."""
        ...

    def files(self) -> Iterator[Listed]:
        """Every file of the store in the feature's folders, and what writers left unfinished."""
        ...

    def size_below(self, folder: str) -> int:
        """Size of all files below a folder of the store, whatever they are."""
        ...

    def contents(self, files: Sequence[Listed]) -> dict[Path, bytes]:
        """The bytes of small files that must be fetched; nothing for those that lie at their path."""
        ...

    def publish_by_content(
        self, feature: str, suffix: str, write: Callable[[Any], None], *, num_bytes: int, kind: str, token: str
    ) -> Published:
        """Commit a file under its hash. See `_files.publish_by_content`."""
        ...

    def publish(self, path: Path, data: bytes, *, kind: str, token: str) -> None:
        """Commit a small file. See `_files.publish`."""
        ...

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove files for good, one after the other. Missing ones are passed over."""
        ...

    def remove_lone(self, path: Path) -> bool:
        """Remove what a dead writer left, unless a writer that is alive has just completed it. Returns whether."""
        ...

    def has(self, path: Path) -> bool:
        """Whether a file is there now."""
        ...

    def abandon(self, older_than_seconds: float) -> list[str]:
        """Give up uploads that dead writers began. Returns what they were of."""
        ...

    def read_bytes(self, path: Path) -> bytes:
        """The bytes of a small file. Raises FileNotFoundError."""
        ...

    def sha256(self, path: Path) -> str:
        """The hash of a file's bytes where it lies, by reading all of them. Raises FileNotFoundError."""
        ...

    def fetch(self, path: Path) -> Path:
        """Make the file lie at its path on this machine. Raises IntegrityError."""
        ...

    def forget(self, path: Path) -> bool:
        """Remove the copy. Returns whether there is an original that it can be fetched from again."""
        ...

    def shard_files(self) -> ShardFiles:
        """The open shards, by their paths."""
        ...


def counterparts(path: Path) -> list[Path]:
    """The sidecar of a shard, or the shards that a sidecar may belong to."""
    if path.suffix != SUFFIX:
        return [path.with_suffix(SUFFIX)]
    return [path.with_suffix(shard_format.suffix) for shard_format in FORMATS.values()]
