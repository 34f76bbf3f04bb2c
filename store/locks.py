"""Who may use a store at the same time, by advisory locks that the kernel drops when their holder dies.

One writer at a time holds `writer_lock`. Readers need no lock against writers, who only ever add; `reader_lock` keeps
off who takes files away, a compaction, a merge or a repair, which holds `exclusive_lock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .._files import flock, make_folder, write_errors
from .._vocabulary import LockedError

LOCK_NAME = ".lock"
READERS_NAME = ".readers"


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the store's writer lock for the length of a ``with`` block.

    The lock file stays when the block ends: removing it would let two processes hold locks on two different files of
    the same name.

    Raises:
        LockedError: another process holds it (exit code 6); the message names that process.
        ConfigError: the folder cannot be written, or its file system knows no locks.
    """
    with _locked(root, LOCK_NAME) as (descriptor, is_mine):
        if not is_mine:
            holder = "another process"
            with suppress(ValueError, KeyError, TypeError):  # it has the lock and has not yet written its name
                writer = json.loads(os.pread(descriptor, 4096, 0))
                holder = f"process {writer['pid']} on {writer['host']}"
            raise LockedError(f"{holder} is writing to {root}; wait until it has ended, or end it, and try again")
        with suppress(OSError):  # on a full disk it holds the lock without its name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
        with suppress(OSError):
            os.ftruncate(descriptor, 0)


@contextmanager
def reader_lock(root: Path) -> Iterator[None]:
    """Hold a `SharedLock` for the length of a ``with`` block."""
    lock = SharedLock(root)
    try:
        yield
    finally:
        lock.release()


class SharedLock:
    """Keeps every file of a store where it is for as long as this object lives. Any number of readers may have one.

    A store that is not there, that this process may not write to, or whose file system knows no locks, is read without.
    A child that was forked goes on holding what its parent held.

    Raises:
        LockedError: the store is being compacted or repaired (exit code 6); the message names the process that does it.
    """

    def __init__(self, root: Path) -> None:
        self._descriptor: int | None = None
        for flags in (os.O_RDONLY | os.O_CREAT, os.O_RDONLY):  # last: a store of others
            with suppress(OSError):
                self._descriptor = os.open(root / READERS_NAME, flags | os.O_CLOEXEC, 0o644)
                break
        if self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holders = _holders(self._descriptor)
            self.release()
            message = f"{holders} is compacting or repairing {root}; wait until it has ended, and try again"
            raise LockedError(message) from None
        except OSError:  # locks are not known here, so nobody compacts under one either
            return

    def release(self, close: Callable[[int], None] = os.close) -> None:
        """Let the files be moved again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            close(descriptor)  # by a name that a process which ends has not lost

    __del__ = release


@contextmanager
def exclusive_lock(root: Path) -> Iterator[None]:
    """Hold the store while nobody reads it, for the length of a ``with`` block. For the holder of `writer_lock`.

    Raises:
        LockedError: somebody is reading (exit code 6); the message names the processes.
        ConfigError: the folder cannot be written.
    """
    with _locked(root, READERS_NAME) as (descriptor, is_mine):
        if not is_mine:
            raise LockedError(
                f"{_holders(descriptor)} is reading {root}, whose files must stay while it does; wait until it has"
                " ended, or end it, and try again"
            )
        yield


@contextmanager
def _locked(root: Path, name: str) -> Iterator[tuple[int, bool]]:
    """A lock file of the store, made where it is not there, and whether the lock was to be had."""
    make_folder(root)
    with write_errors(root / name):
        descriptor = os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        is_mine = False
        with suppress(BlockingIOError):
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, root)
            is_mine = True
        yield descriptor, is_mine
    finally:
        os.close(descriptor)


def _holders(descriptor: int) -> str:
    """The processes of this machine that hold a lock on an open file, as the kernel lists them."""
    status = os.fstat(descriptor)
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except OSError:  # no such list on this system
        rows = []
    # A waiting lock has "->" as its second word, and is not held.
    pids = sorted({int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == name})
    if not any(pids):  # held from another machine or container
        return "another process"
    return f"process {', '.join(map(str, pids))} on {socket.gethostname()}"
