"""Copies of remote shards on this machine: a folder of bounded size that any number of processes share.

A copy is written aside, compared with the hash that its name is, and renamed, so that a kill at any instant leaves at
worst a temporary file, which a later trim removes. One process fetches a shard while the others that want it wait.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..._files import (
    CACHE_VARIABLE,
    NAME_DIGITS,
    cache_folder,
    file_lock,
    file_sha256,
    is_temporary,
    temporary_path,
    write_errors,
)
from ..._vocabulary import ConfigError, IntegrityError
from ..formats import REMEDY
from .base import OURS

SIZE_VARIABLE = "FRAMELOOM_CACHE_GB"
# A temporary file of this age is a dead writer's: no transfer of one shard takes so long.
ABANDONED_SECONDS = 24 * 3600.0

_ADVICE = f"name another folder in {CACHE_VARIABLE}"


def copies_limit() -> int:
    """How many bytes all copies together may take: ``$FRAMELOOM_CACHE_GB``, or 20 GB. Raises ConfigError."""
    given, limit = os.environ.get(SIZE_VARIABLE) or "20", -1.0
    with suppress(ValueError):
        limit = float(given) * 1e9
    if not 0 <= limit < math.inf:
        raise ConfigError(f"{SIZE_VARIABLE}: {given!r} is not a number of gigabytes: give one, such as 20")
    return int(limit)


class Copies:
    """The copies of one store's shards, below the folder that all stores share.

    Args:
        name: the store's own folder in it.
    """

    def __init__(self, name: str) -> None:
        self.shared = cache_folder("shards")
        self.root = self.shared / name

    def fetch(self, path: Path, download: Callable[[Path], None], *, name: str) -> Path:
        """A copy whose name is the hash of its bytes; one that is there already is taken as it is.

        Args:
            path: the copy, below `root`.
            download: writes the shard into the file that it is given.
            name: what people call the shard.

        Raises:
            IntegrityError: what was downloaded is not what was committed.
            OutOfSpaceError: the disk is full.
            ConfigError: the folder cannot be written.
        """
        if self._touch(path):
            return path
        self.make_folder(path.parent)
        # Few lock files for all shards: one for each would outlive its shard.
        with write_errors(path, advice=_ADVICE), file_lock(self.root / f".{path.name[:2]}.lock"):
            if self._touch(path):  # another process has fetched it meanwhile
                return path
            aside = temporary_path(path, "fetch")
            try:
                download(aside)
                found = file_sha256(aside)
                if found[:NAME_DIGITS] != path.stem:
                    raise IntegrityError(f"{name} is not what was written (SHA-256 {found}); {REMEDY}")
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
            self.trim(keep=path)
        return path

    def keep(self, aside: Path, path: Path) -> None:
        """Take a finished file of ours as the copy. Failing to is no failure: the copy is fetched when it is read."""
        with suppress(OSError):
            aside.replace(path)
            self.trim(keep=path)

    def make_folder(self, folder: Path) -> None:
        """Raises ConfigError or OutOfSpaceError."""
        with write_errors(folder, advice=_ADVICE):
            folder.mkdir(parents=True, exist_ok=True)

    def trim(self, *, keep: Path | None = None) -> None:
        """Remove copies, those unused for longest first, until all take no more than the limit; never ``keep``."""
        found: list[tuple[float, int, Path]] = []  # time of last use, size
        for path in self.shared.rglob("*"):
            with suppress(FileNotFoundError):  # another process may trim at the same time
                status = path.stat()
                if is_temporary(path.name) and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
                elif OURS.fullmatch(path.name) or is_temporary(path.name):  # and no lock that somebody holds
                    found.append((status.st_atime, status.st_size, path))
        excess = sum(size for _, size, _ in found) - copies_limit()
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            if path != keep and not is_temporary(path.name):
                path.unlink(missing_ok=True)
                excess -= size

    def _touch(self, path: Path) -> bool:
        """Whether the copy is there, which counts as a use. Its time of change says that it was checked, and stays."""
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except FileNotFoundError:
            return False
        except PermissionError:  # another user's, which may be read
            pass
        return True
