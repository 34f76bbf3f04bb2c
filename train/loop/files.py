"""Files and folders that appear whole or not at all: written aside, synced, renamed, their folder synced."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..._files import fail_point
from ..._vocabulary import ConfigError, OutOfSpaceError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def publish(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, durably, in one step.

    Raises:
        OutOfSpaceError: the disk is full; what was there before is intact.
        ConfigError: the folder cannot be written.
    """
    with explained(path, num_bytes=len(data)), _aside(path) as aside:
        _write_synced(aside, data)
        fail_point("checkpoint.written")
        aside.replace(path)
        fail_point("checkpoint.renamed")
        sync_folder(path.parent)


def publish_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold exactly `files`, durably, in one step; it must not exist yet. Errors: see `publish`."""
    num_bytes = sum(len(data) for data in files.values())
    with explained(folder, num_bytes=num_bytes), _aside(folder) as aside:
        aside.mkdir(parents=True)
        for name, data in files.items():
            _write_synced(aside / name, data)
            fail_point("progress.file")
        sync_folder(aside)
        fail_point("progress.written")
        aside.replace(folder)
        fail_point("progress.renamed")
        sync_folder(folder.parent)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under, which is gone afterwards whatever happens."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(aside)
    try:
        yield aside
    finally:
        _remove(aside)


@contextmanager
def explained(path: Path, *, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno in _FORBIDDEN:
            raise ConfigError(
                f"cannot write {path}: {problem.strerror}. Choose a folder that you may write to"
            ) from problem
        if problem.errno not in _FULL:
            raise
        raise OutOfSpaceError(
            f"no space left to write {path} ({num_bytes:,} bytes). What was saved before is intact: "
            "free some space and run the same command again"
        ) from problem


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, pattern: str, *, keep: str) -> None:
    """Remove what an earlier save left: everything that matches `pattern` but `keep`, and what was written aside."""
    for path in [*folder.glob(pattern), *folder.glob(".*.tmp")]:
        if path.name != keep:
            _remove(path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
