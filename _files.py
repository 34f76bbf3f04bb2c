"""How a file comes to exist: written aside, synced, renamed, its folder synced. And where it can be made to fail.

The order is the whole protocol. Bytes reach the disk before the name does, and the name before anything that refers to
it, so a kill or a power cut at any instant leaves either the old state or the new one, plus at worst a temporary file.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import itertools
import os
import re
import shutil
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ._vocabulary import ConfigError, FrameloomError, InputError, LockedError, OutOfSpaceError

FAIL_POINT_VARIABLE = "FRAMELOOM_FAILPOINT"
PUBLISH_STEPS = ("begun", "half", "written", "synced", "renamed", "durable")

NAME_DIGITS = 32  # of a file that is named by its content

Kind = Literal["shard", "sidecar", "rows", "text"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{0,64}")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_passes: Counter[str] = Counter()
_serial = itertools.count()


class FailPointError(Exception):
    """Raised where a test asked for it through ``FRAMELOOM_FAILPOINT=<name>:raise``."""


def fail_point(name: str) -> None:
    """A place where tests make a process fail; otherwise nothing happens here.

    ``FRAMELOOM_FAILPOINT`` is ``<name>:<action>``, or ``<name>:<action>:<n>`` for the n-th pass alone. Of the actions,
    ``kill`` ends this process at once, ``raise`` raises `FailPointError`, and ``full`` is a full disk.
    """
    wanted, _, rest = os.environ.get(FAIL_POINT_VARIABLE, "").partition(":")
    if wanted != name:
        return
    action, _, nth = rest.partition(":")
    _passes[name] += 1
    if not nth or int(nth) == _passes[name]:
        _fail(name, action)


def _fail(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if action == "raise":
        raise FailPointError(f"fail point {name}")
    raise ConfigError(f"{FAIL_POINT_VARIABLE}: {action!r} is not an action; allowed: kill, raise, full")


def publish(path: Path, data: bytes | memoryview, *, kind: Kind, token: str = "") -> None:
    """Make ``path`` hold ``data``, durably, in one step that other processes see whole or not at all.

    Args:
        path: final name; an older file of that name is replaced. Its folder must exist.
        data: the whole content.
        kind: prefix of the fail points ``<kind>.<step>``, one for each of `PUBLISH_STEPS`.
        token: names the writer in the temporary file's name (letters, digits, ``_`` and ``-``): this process, where
            none is given. Who sweeps the folder takes that file away, and with it the writer's means to publish.

    Raises:
        OutOfSpaceError: the disk is full; the temporary file is gone and ``path`` is as it was.
        ConfigError: the folder cannot be written.
        LockedError: another process has taken the folder over, and removed the temporary file.
        FrameloomError: the disk fails.
    """
    temporary = temporary_path(path, token)
    with _or_nothing(temporary, path, lambda: len(data)):
        _write_aside(temporary, data, kind)
        temporary.replace(path)
    _make_durable(path, kind, num_bytes=len(data))


def _make_durable(path: Path, kind: Kind, *, num_bytes: int) -> None:
    """What follows a rename. Until then the new name may not survive a power cut, and nothing is acknowledged."""
    fail_point(f"{kind}.renamed")
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise explained(error, path, num_bytes=num_bytes) from error
    fail_point(f"{kind}.durable")


@contextmanager
def _or_nothing(temporary: Path, name: Path, num_bytes: Callable[[], int]) -> Iterator[None]:
    """When the block fails, tell what the user can do, measured while the temporary file is there, and remove it."""
    try:
        yield
    except BaseException as error:
        told = explained(error, name, num_bytes=num_bytes(), aside=temporary) if isinstance(error, OSError) else None
        with suppress(OSError):  # on a disk that fails it stays, until a sweep
            temporary.unlink(missing_ok=True)
        if told is None:
            raise
        raise told from error


@dataclass(frozen=True, slots=True)
class Published:
    """A file that is, or is to be, named by its content: where it lies, and what its bytes are."""

    path: Path
    sha256: str
    num_bytes: int


def publish_by_content(
    folder: Path, suffix: str, write: Callable[[io.RawIOBase], None], *, num_bytes: int, kind: Kind, token: str = ""
) -> Published:
    """`publish` a file under the first 32 digits of its own SHA-256, written piece by piece.

    Args:
        folder: where it goes; must exist.
        suffix: ending of its name.
        write: writes the whole content to the file it is given, which it may also seek in and read from. That file
            takes every write, so that a library which cannot stand failure never meets one; a failure is raised here.
        num_bytes: about how much will be written; the message about a full disk has what was, if that is more.
        kind: as for `publish`.
        token: as for `publish`.

    Raises what `publish` does; the temporary file is gone.
    """
    with written_aside(folder, suffix, write, num_bytes=num_bytes, kind=kind, token=token) as written:
        path = folder / f"{written.sha256[:NAME_DIGITS]}{suffix}"
        if _holds(path, written.sha256):
            written.path.unlink()
        else:
            written.path.replace(path)
    _make_durable(path, kind, num_bytes=written.num_bytes)
    return Published(path, written.sha256, written.num_bytes)


@contextmanager
def written_aside(
    folder: Path, suffix: str, write: Callable[[io.RawIOBase], None], *, num_bytes: int, kind: Kind, token: str = ""
) -> Iterator[Published]:
    """A temporary file with its whole content, synced and hashed: what the block does not rename is gone on failure.

    Takes and raises what `publish_by_content` does, for errors of the block as well.
    """
    temporary = temporary_path(folder / f"{'0' * NAME_DIGITS}{suffix}", token)
    target: _PatientFile | None = None
    with _or_nothing(temporary, folder, lambda: max(num_bytes, target.num_bytes if target else 0)):
        with temporary.open("xb+", buffering=0) as file:
            fail_point(f"{kind}.begun")
            target = _PatientFile(file, kind)
            try:
                with _interrupts_later():
                    write(target)
            finally:
                target.raise_failure()  # before whatever a writer makes of reading back what was not written
            fail_point(f"{kind}.written")
            os.fsync(file.fileno())
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.seek(0, os.SEEK_END)
        fail_point(f"{kind}.synced")
        yield Published(temporary, sha256, size)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends: raised inside of HDF5's callbacks it ends the process."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def _holds(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:  # absent, or no longer readable: either way it is written anew
        return False


class _PatientFile(io.RawIOBase):
    """A new file that never tells its writer of a failure: it keeps the first one, and from then on only counts bytes.

    HDF5 has been seen to end the process when a write fails under it.

    Attributes:
        num_bytes: how large the file is, or would be if every write had been taken.
    """

    def __init__(self, file: IO[bytes], kind: Kind) -> None:
        self.num_bytes = 0
        self._file = file
        self._kind = kind
        self._place = 0
        self._failure: BaseException | None = None
        self._is_half = False

    def raise_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if self._failure is None:
            try:
                _write_all(self._file.fileno(), view)
                if not self._is_half:
                    self._is_half = True
                    fail_point(f"{self._kind}.half")
            except BaseException as error:  # noqa: BLE001 - raised as soon as the writer is done
                self._failure = error
        self._place += len(view)
        self.num_bytes = max(self.num_bytes, self._place)
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer)) if self._failure is None else b""
        buffer[:] = data.ljust(len(buffer), b"\0")
        self._place += len(buffer) if self._failure else len(data)
        return len(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if self._failure is None:
            self._place = self._file.seek(offset, whence)
        else:
            self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.num_bytes}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None, /) -> int:
        size = self._place if size is None else size
        self.num_bytes = size
        if self._failure is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._failure = error
        return size

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def publish_text(path: Path, text: str) -> None:
    """`publish` a small UTF-8 file, such as a configuration that goes beside an output. Makes its folder."""
    make_folder(path.parent)
    publish(path, text.encode(), kind="text")


def temporary_path(path: Path, token: str) -> Path:
    """A name beside ``path`` that no other writer takes. Raises InputError for a token that is none."""
    if not _TOKEN.fullmatch(token):
        raise InputError(f"token {token!r}: at most 64 letters, digits, '_' and '-' are allowed")
    process = os.getpid()
    return path.with_name(f".{path.name}.{token or _own_token(process)}.{process}-{next(_serial)}.tmp")


@functools.cache
def _own_token(process: int) -> str:
    """What names this process, also among those of other machines; a child that was forked has another one."""
    del process
    return uuid.uuid4().hex[:12]


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `publish` gives while it writes."""
    return name.startswith(".") and name.endswith(".tmp")


def _write_aside(temporary: Path, data: bytes | memoryview, kind: Kind) -> None:
    with temporary.open("xb", buffering=0) as file:
        fail_point(f"{kind}.begun")
        view = memoryview(data)
        _write_all(file.fileno(), view[: len(view) // 2])
        fail_point(f"{kind}.half")
        _write_all(file.fileno(), view[len(view) // 2 :])
        fail_point(f"{kind}.written")
        os.fsync(file.fileno())
    fail_point(f"{kind}.synced")


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def explained(error: OSError, path: Path, *, num_bytes: int | None = None, aside: Path | None = None) -> FrameloomError:
    """What a user is told about a write that failed.

    Args:
        error: what the system said.
        path: what was to be written.
        num_bytes: how many bytes of it there are.
        aside: the temporary file that they went to, if it is still there: it has some of the room that is left.
    """
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return out_of_space(path, "" if num_bytes is None else _need(path, num_bytes, aside, reason))
    if error.errno in _FORBIDDEN:
        return ConfigError(f"cannot write {path}: {reason}; choose a folder that you may write to")
    if error.errno == errno.ENOENT and aside is not None and aside.parent.is_dir():
        return taken_over(aside)
    return FrameloomError(
        f"cannot write {aside or path}: {reason}; what was committed before is intact: see to the disk, and run the"
        " same command again"
    )


def _need(path: Path, num_bytes: int, aside: Path | None, reason: str) -> str:
    free = shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.exists())).free
    with suppress(OSError):
        free += 512 * aside.lstat().st_blocks if aside else 0
    if num_bytes > free:
        return f": {num_bytes:,} bytes were needed and {free:,} are free"
    return f": {num_bytes:,} bytes were needed, and {free:,} are free but refused ({reason}): see to quotas and limits"


def taken_over(path: Path) -> LockedError:
    """What a writer is told whose files another process has swept away."""
    return LockedError(
        f"{path} was removed while it was being written: another process has taken over its folder, and swept it;"
        " nothing of it was stored; let that process end, and run the same command again"
    )


def out_of_space(what: Path | str, need: str = "") -> OutOfSpaceError:
    """The one sentence about a full disk."""
    return OutOfSpaceError(f"no space left to write {what}{need}; free some space and run the same command again")


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents durably. Raises ConfigError or OutOfSpaceError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; name another one")
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path} cannot be a folder: a file is in its way; name another folder") from error
    except OSError as error:
        raise explained(error, path) from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    sync_path(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_path(path: Path, flags: int = os.O_RDONLY) -> None:
    """Make one file or folder durable."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
