"""One writer at a time for one store, by an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._vocabulary import LockedError
from ._commit import explained, make_folder

LOCK_NAME = ".lock"


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the store's writer lock for the length of a ``with`` block.

    The lock file stays behind when the block ends: removing it would let two processes hold locks on two different
    files of the same name.

    Raises:
        LockedError: another process holds it (exit code 6); the message names that process.
        ConfigError: the folder cannot be written.
    """
    make_folder(root)
    path = root / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explained(error, path) from error
    try:
        _acquire(descriptor, root)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # releases the lock


def _acquire(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(
            f"{_holder(descriptor)} is writing to {root}; wait until it has ended, or end it, and try again"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not yet written its name
        return "another process"
