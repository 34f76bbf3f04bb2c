"""The folder in which published weights are kept on this machine, and the hashes of big files, remembered.

A hash is remembered together with what the file system says of the file (device, inode, size, times of change), so that
a command need not read gigabytes to learn that nothing changed. The memory is a convenience: damaged, missing or not
writable, the file is read again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..._vocabulary import ConfigError, FrameloomError, OutOfSpaceError, digest_of

CACHE_VARIABLE = "FRAMELOOM_CACHE"
REMEMBERED_FROM_BYTES = 1 << 24  # smaller files are read faster than they are looked up
SETTLED_NS = 2_000_000_000  # a younger file may change again within one tick of its file system's clock

_MEMO = "hashes.json"
_MEMO_ENTRIES = 500
_MEMO_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def cache_folder() -> Path:
    """Where downloaded weights lie: ``$FRAMELOOM_CACHE``, or ``frameloom/weights`` in the user's cache folder."""
    try:
        if own := os.environ.get(CACHE_VARIABLE):
            return Path(own).expanduser().absolute()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "frameloom" / "weights"
    except RuntimeError as error:
        raise ConfigError(f"there is no home folder to keep weights in: name one in {CACHE_VARIABLE}") from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal; of a big file that did not change, from memory."""
    before = path.stat()
    if before.st_size < REMEMBERED_FROM_BYTES:
        return read_sha256(path)
    name, identity = str(path.absolute()), _identity(before)
    entry = _read_memo().get(name)
    if entry is not None and entry[0] == identity:
        return entry[1]
    found = read_sha256(path)
    is_settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
    if is_settled and _identity(path.stat()) == identity:
        _remember(name, identity, found)
    return found


def read_sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal, by reading it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Be the only process that makes this file, for the length of a block; others wait. The lock file stays behind.

    Raises:
        ConfigError: the folder cannot be written, or its file system has no locks.
        OutOfSpaceError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explained(error, path.parent) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            reason = f"{path.parent} cannot be locked ({error.strerror})"
            raise ConfigError(f"{reason}: name a folder on another disk in {CACHE_VARIABLE}") from error
        yield
    finally:
        os.close(descriptor)


def write_small(path: Path, text: str) -> None:
    """Make a small file hold a text, whole or not at all. Raises OSError."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explained(error: OSError, path: Path) -> FrameloomError:
    """What a user is told when the cache cannot be written."""
    if error.errno in _FULL:
        return out_of_space(path)
    return ConfigError(f"cannot write {path}: {error.strerror or error}; name another folder in {CACHE_VARIABLE}")


def out_of_space(path: Path, *, need_bytes: int | None = None) -> OutOfSpaceError:
    """The one sentence about a full disk."""
    need = ""
    if need_bytes is not None:
        need = f": {need_bytes:,} bytes are needed and {shutil.disk_usage(path).free:,} are free"
    return OutOfSpaceError(
        f"no space left in {path}{need}; free some, or name a folder on another disk in {CACHE_VARIABLE}"
    )


def _identity(status: os.stat_result) -> str:
    # The time of the last change of status cannot be set by hand, so a file that was put back with its old times shows.
    return "-".join(
        str(number) for number in (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    )


def _read_memo() -> dict[str, tuple[str, str]]:
    """What is remembered; nothing where the file is damaged. Its own hash says whether it is."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        path = cache_folder() / _MEMO
        if path.stat().st_size <= _MEMO_BYTES:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["check"] == digest_of(kept["files"]):
                return {str(name): (str(identity), str(found)) for name, (identity, found) in kept["files"].items()}
    return {}


def _remember(name: str, identity: str, found: str) -> None:
    files = {known: entry for known, entry in _read_memo().items() if known != name}
    files[name] = (identity, found)
    latest = {known: list(entry) for known, entry in list(files.items())[-_MEMO_ENTRIES:]}
    with suppress(OSError, UnicodeEncodeError):  # names that are no UTF-8 are not remembered, and read each time
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_small(cache_folder() / _MEMO, json.dumps({"check": digest_of(latest), "files": latest}))
