"""A store in a folder of this machine: files are written aside, synced and renamed (`_files`)."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._files import (
    Published,
    file_sha256,
    file_stamp,
    make_folder,
    publish,
    publish_by_content,
    sync_folder,
    temporary_path,
    write_errors,
)
from ..formats import ShardFiles
from .base import FEATURE_NAME, MAX_SMALL_BYTES, OURS, Listed, counterparts

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.(h5|tar|parquet)\..*\.tmp")
_SWEPT = re.compile(r"\.([0-9a-f]{32}\.(h5|tar|parquet))\.swept\..*\.tmp")


class LocalPlace:
    """A folder of this machine. It need not exist: the first write makes it.

    `RemotePlace` has the same attributes and methods. A file is known by its path here, which may be that of a copy.

    Attributes:
        root: the folder or address, as it was given.
        folder: that all paths of files, or of their copies, begin with.
        swept_seconds: how old what a dead writer left must be before a sweep removes it.
    """

    swept_seconds = 0.0  # under the writer lock, whatever is unfinished is a dead writer's

    def __init__(self, root: Path) -> None:
        self.root = self.folder = root

    def address(self, path: Path) -> str:
        """A file's path or URL as users know it."""
        return str(path)

    def files(self) -> Iterator[Listed]:
        """Every file of the store in the feature's folders, and what writers left unfinished."""
        if not self.root.is_dir():
            return
        now = time.time()
        for folder in sorted(path for path in self.root.iterdir() if FEATURE_NAME.fullmatch(path.name)):
            if not folder.is_dir():
                continue
            with os.scandir(folder) as listing:
                items = [item for item in listing if OURS.fullmatch(item.name) or _UNFINISHED.fullmatch(item.name)]
            for item in items:
                with suppress(FileNotFoundError):  # renamed or discarded by another process since it was listed
                    status = item.stat()
                    age, stamp = now - status.st_mtime, file_stamp(status)
                    yield Listed(folder / item.name, status.st_size, stamp, age)

    def size_below(self, folder: str) -> int:
        """Size of all files below a folder of the store, whatever they are."""
        walk = os.walk(self.root / folder)
        return sum((Path(where) / name).lstat().st_size for where, _, names in walk for name in names)

    def contents(self, files: Sequence[Listed]) -> dict[Path, bytes]:  # noqa: ARG002
        """The bytes of small files that must be fetched; nothing for those that lie at their path."""
        return {}

    def publish_by_content(
        self, feature: str, suffix: str, write: Callable[[Any], None], *, num_bytes: int, kind: str, token: str
    ) -> Published:
        """Commit a file under its hash. See `_files.publish_by_content`."""
        make_folder(self.root / feature)
        return publish_by_content(self.root / feature, suffix, write, num_bytes=num_bytes, kind=kind, token=token)

    def publish(self, path: Path, data: bytes, *, kind: str, token: str) -> None:
        """Commit a small file. See `_files.publish`."""
        publish(path, data, kind=kind, token=token)

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove files for good, one after the other. Missing ones are passed over."""
        for path in paths:
            with write_errors(path):
                path.unlink(missing_ok=True)
                sync_folder(path.parent)

    def remove_lone(self, path: Path) -> bool:
        """Remove what a dead writer left, unless a writer that is alive has just completed it. Returns whether."""
        swept = _SWEPT.fullmatch(path.name)
        name = path.with_name(swept[1]) if swept else path
        is_removed = False
        with write_errors(path), suppress(FileNotFoundError):  # its writer has just renamed or removed it
            if OURS.fullmatch(name.name):
                is_removed = _remove_unless_completed(path, name)
            else:
                path.unlink()
                is_removed = True
            sync_folder(path.parent)
        return is_removed

    def has(self, path: Path) -> bool:
        return path.exists()

    def abandon(self, older_than_seconds: float) -> list[str]:  # noqa: ARG002
        """Give up uploads that dead writers began. Returns what they were of."""
        return []

    def read_bytes(self, path: Path) -> bytes:
        if (size := path.stat().st_size) > MAX_SMALL_BYTES:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {MAX_SMALL_BYTES:,} are read")
        return path.read_bytes()

    def sha256(self, path: Path) -> str:
        return file_sha256(path)

    def fetch(self, path: Path) -> Path:
        """Make the file lie at its path on this machine. Raises IntegrityError."""
        return path

    def shard_files(self) -> ShardFiles:
        return ShardFiles()


def _remove_unless_completed(path: Path, name: Path) -> bool:
    """Remove a shard or sidecar that stands alone, ``name``, or which another sweep moved to ``path`` to do so.

    A writer that is late looks at both when it has completed them. So that it sees what is done here, or is seen, the
    file loses its name first, and gets it back where the other one has come meanwhile.
    """
    aside = temporary_path(name, "swept")
    path.replace(aside)
    is_complete = any(other.exists() for other in counterparts(name))
    if is_complete and not name.exists():
        aside.replace(name)
        sync_folder(name.parent)
    else:  # nothing to complete, or another is in its place, which was written since
        aside.unlink()
    return not is_complete
