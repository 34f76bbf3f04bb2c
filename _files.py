"""How files come to exist: written aside, synced, renamed, their folder synced. And where tests can make that fail.

The order is the whole protocol. Bytes reach the disk before the name does, and the name before anything that refers to
it, so a kill or a power cut at any instant leaves either the old state or the new one, plus at worst a temporary file.

Everything else that the packages do with files in the same way is here as well: hashes, the cache folder, free names,
locks that wait, and what a user reads when a write fails.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import io
import itertools
import os
import re
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ._vocabulary import ConfigError, FrameloomError, InputError, LockedError, OutOfSpaceError

FAIL_POINT_VARIABLE = "FRAMELOOM_FAILPOINT"
PUBLISH_STEPS = ("begun", "half", "written", "synced", "renamed", "durable")
CACHE_VARIABLE = "FRAMELOOM_CACHE"
NAME_DIGITS = 32  # of a file that is named by its content
SETTLED_SECONDS = 2.0  # a younger file may change again within one tick of its file system's clock
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_FAILING = frozenset({errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EREMOTEIO})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_TOKEN = re.compile(r"[A-Za-z0-9_-]{0,64}")
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
    if nth and int(nth) != _passes[name]:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if action == "raise":
        raise FailPointError(f"fail point {name}")
    raise ConfigError(f"{FAIL_POINT_VARIABLE}: {action!r} is not an action; allowed: kill, raise, full")


# Publishing


def publish(path: Path, data: bytes | memoryview, *, kind: str = "text", token: str = "", replace: bool = True) -> None:
    """Make ``path`` hold ``data``, durably, in one step that other processes see whole or not at all.

    Args:
        path: final name. Its folder must exist.
        data: the whole content.
        kind: prefix of the fail points ``<kind>.<step>``, one for each of `PUBLISH_STEPS`.
        token: names the writer in the temporary file's name (letters, digits, ``_`` and ``-``): this process, where
            none is given. Who sweeps the folder takes that file away, and with it the writer's means to publish.
        replace: whether an older file of that name is replaced.

    Raises:
        FileExistsError: there is one, and it is not to be replaced.
        OutOfSpaceError: the disk is full; the temporary file is gone and ``path`` is as it was.
        ConfigError: the folder cannot be written.
        LockedError: another process has taken the folder over, and removed the temporary file.
        FrameloomError: the disk fails.
    """
    temporary, view = temporary_path(path, token), memoryview(data)
    with _all_or_nothing(temporary, path, lambda: len(view)):
        with temporary.open("xb", buffering=0) as file:
            fail_point(f"{kind}.begun")
            _write_all(file.fileno(), view[: len(view) // 2])
            fail_point(f"{kind}.half")
            _write_all(file.fileno(), view[len(view) // 2 :])
            fail_point(f"{kind}.written")
            os.fsync(file.fileno())
        fail_point(f"{kind}.synced")
        if replace:
            temporary.replace(path)
        else:
            _rename_new(temporary, path)
    _make_durable(path, kind, num_bytes=len(view))


def publish_text(path: Path, text: str) -> None:
    """`publish` a small UTF-8 file, such as a configuration that goes with an output. Makes its folder."""
    make_folder(path.parent)
    publish(path, text.encode())


def publish_folder(path: Path, files: Mapping[str, bytes], *, kind: str) -> None:
    """Make the folder ``path``, which must not exist yet, hold exactly ``files``, durably, in one step.

    Fail points are ``<kind>.file`` after each file, ``<kind>.written``, ``<kind>.renamed`` and ``<kind>.durable``.
    Raises what `publish` does.
    """
    make_folder(path.parent)
    temporary = temporary_path(path, "")
    num_bytes = sum(map(len, files.values()))
    with _all_or_nothing(temporary, path, lambda: num_bytes):
        temporary.mkdir()
        for name, data in files.items():
            with (temporary / name).open("xb", buffering=0) as file:
                _write_all(file.fileno(), memoryview(data))
                os.fsync(file.fileno())
            fail_point(f"{kind}.file")
        sync_folder(temporary)
        fail_point(f"{kind}.written")
        temporary.replace(path)
    _make_durable(path, kind, num_bytes=num_bytes)


@dataclass(frozen=True, slots=True)
class Published:
    """A file that is, or is to be, named by its content: where it lies, and what its bytes are."""

    path: Path
    sha256: str
    num_bytes: int


def publish_by_content(
    folder: Path, suffix: str, write: Callable[[io.RawIOBase], None], *, num_bytes: int, kind: str, token: str = ""
) -> Published:
    """`publish` a file under the first 32 digits of its own SHA-256, written piece by piece.

    Args:
        folder: where it goes; must exist.
        suffix: ending of its name.
        write: writes the whole content to the file it is given, which it may also seek in and read from. That file
            takes every write, so that a library which mishandles failure never meets one; a failure is raised here.
        num_bytes: about how much will be written; the message about a full disk has what was, if that is more.
        kind: as for `publish`.
        token: as for `publish`.

    Raises what `publish` does; the temporary file is gone.
    """
    with written_aside(folder, suffix, write, num_bytes=num_bytes, kind=kind, token=token) as written:
        path = folder / f"{written.sha256[:NAME_DIGITS]}{suffix}"
        is_there = False
        with suppress(OSError):  # absent, or no longer readable: either way it is written anew
            is_there = file_sha256(path) == written.sha256
        if is_there:
            written.path.unlink()
        else:
            written.path.replace(path)
    _make_durable(path, kind, num_bytes=written.num_bytes)
    return Published(path, written.sha256, written.num_bytes)


@contextmanager
def written_aside(
    folder: Path, suffix: str, write: Callable[[io.RawIOBase], None], *, num_bytes: int, kind: str, token: str = ""
) -> Iterator[Published]:
    """A temporary file with its whole content, synced and hashed: what the block does not rename is gone on failure.

    Takes and raises what `publish_by_content` does, for errors of the block as well.
    """
    temporary = temporary_path(folder / f"{'0' * NAME_DIGITS}{suffix}", token)
    target: DeferredErrorFile | None = None
    with _all_or_nothing(temporary, folder, lambda: max(num_bytes, target.num_bytes if target else 0)):
        with temporary.open("xb+", buffering=0) as file:
            fail_point(f"{kind}.begun")
            target = DeferredErrorFile(file, kind)
            try:
                with signals_deferred():
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
def _all_or_nothing(temporary: Path, name: Path, num_bytes: Callable[[], int]) -> Iterator[None]:
    """When the block fails, explain it, measured while the temporary file is there, and remove that."""
    try:
        yield
    except BaseException as error:
        explained = None
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            explained = write_error(error, name, num_bytes=num_bytes(), aside=temporary)
        with suppress(OSError):  # on a disk that fails it stays, until a sweep
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        if explained is None:
            raise
        raise explained from error


def _make_durable(path: Path, kind: str, *, num_bytes: int) -> None:
    """Make a rename durable. Until then the new name may not survive a power cut, and nothing is acknowledged."""
    with write_errors(path, num_bytes=num_bytes):
        fail_point(f"{kind}.renamed")
        sync_folder(path.parent)
    fail_point(f"{kind}.durable")


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename, but never over a file that is there."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.open("xb").close()  # without hard links, an empty file of ours holds the place
        try:
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
    temporary.unlink(missing_ok=True)


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back, until the block ends, each signal that would raise an exception in the middle of it.

    Raised inside of HDF5's callbacks it ends the process; while workers start, it leaves some of them behind.
    """
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda got, _: caught.append(got))
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


class DeferredErrorFile(io.RawIOBase):
    """A new file that hides failures from its writer: it keeps the first one, and from then on only counts bytes.

    HDF5 has been seen to end the process when a write fails under it.

    Attributes:
        num_bytes: how large the file is, or would be if every write had been taken.
    """

    def __init__(self, file: IO[bytes], kind: str) -> None:
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
        data = self._file.read(len(buffer)) if self._failure is None else bytes(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

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


# Names


def temporary_path(path: Path, token: str = "") -> Path:
    """A name in the folder of ``path`` that no other writer takes. Raises InputError for a malformed token."""
    if not _TOKEN.fullmatch(token):
        raise InputError(f"token {token!r}: at most 64 letters, digits, '_' and '-' are allowed")
    process = os.getpid()
    return path.with_name(f".{path.name}.{token or _process_token(process)}.{process}-{next(_serial)}.tmp")


@functools.cache
def _process_token(process: int) -> str:
    """A name of this process, unique among machines; a child that was forked has another one."""
    del process
    return uuid.uuid4().hex[:12]


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `publish` gives while it writes."""
    return name.startswith(".") and name.endswith(".tmp")


def set_aside(path: Path, folder: Path, *, keep: bool = False, name: str | None = None) -> Path:
    """Move a file or folder into ``folder``, durably, under its name or with a number after it where that is taken.

    Args:
        path: what to set aside.
        folder: made if it is not there.
        keep: give it a second name there, or a copy, and leave it where it is; once for each file.
        name: to give it there; its own by default.

    Returns:
        its new path. Raises ConfigError, OutOfSpaceError or FrameloomError.
    """
    make_folder(folder)
    kept = free = folder / (name or path.name)
    for serial in itertools.count(1):
        if not free.exists() or (keep and free.samefile(path)):
            break
        free = kept.with_name(f"{kept.name}.{serial}")
    with write_errors(free):
        if not keep:
            path.rename(free)
            sync_folder(path.parent)
        elif not free.exists():
            try:
                free.hardlink_to(path)
            except OSError:  # a file system without second names
                shutil.copy2(path, free)
                sync_path(free)
        sync_folder(folder)
    return free


def cache_folder(name: str) -> Path:
    """Where "weights" or "shards" are cached: below ``$FRAMELOOM_CACHE``, or ``frameloom`` in the user's cache."""
    try:
        if own := os.environ.get(CACHE_VARIABLE):
            return Path(own).expanduser().absolute() / name
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "frameloom" / name
    except RuntimeError as error:
        raise ConfigError(f"no home folder for the cache of {name}: name a folder in {CACHE_VARIABLE}") from error


# Content


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(status: os.stat_result) -> str:
    """The values that change when a file does: size, times and inode. No program can set the time of change back."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def is_settled(status: os.stat_result) -> bool:
    """Whether a file was left alone long enough for its `file_stamp` to tell the next change."""
    now = time.time()  # a change of one from the future gives it a time of today
    return now - status.st_ctime > SETTLED_SECONDS and abs(now - status.st_mtime) > SETTLED_SECONDS


# Folders and locks


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents durably. Raises ConfigError or OutOfSpaceError."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; name another one")
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path} cannot be a folder: a file is in its way; name another folder") from error
    except OSError as error:
        raise write_error(error, path) from error


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


def disk_problem(folder: Path) -> str | None:
    """What the file system of a folder cannot do that a store needs, trying it; None when it can do all of it.

    LanceDB commits by a hard link, which fails where another one is there; shards and checkpoints by a rename.
    Raises FrameloomError where the disk fails.
    """
    name = temporary_path(folder / "probe")
    other = name.with_name(f"{name.name[:-4]}-2.tmp")
    step = "files"
    try:
        with name.open("xb") as file:
            step = "fsync"
            file.write(b"probe")
            os.fsync(file.fileno())
            step = "locks"
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        step = "hard links"
        other.hardlink_to(name)
        step = "renames"
        name.replace(other)
        sync_folder(folder)
    except OSError as error:
        if error.errno in _FAILING and (explained := system_error(error, folder)) is not None:
            raise explained from error
        if error.errno in FULL | _FORBIDDEN - _NO_LINKS:  # of which another message tells
            return None
        return f"no {step} ({error.strerror})"
    finally:
        for path in (name, other):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return None


def check_disk(store: Path) -> None:
    """Raises ConfigError where the disk of a store lacks what its table needs, FrameloomError where it fails."""
    if (problem := disk_problem(store)) is not None:
        raise ConfigError(
            f"store.path: the disk of {store} has {problem}, which the table needs: set store.path to a folder on"
            " another disk (the features' shards may stay on this one, as store.features)"
        )


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which stays behind, for the length of a block; others wait.

    Raises OSError, and ConfigError for a file system without locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        flock(descriptor, fcntl.LOCK_EX, path.parent)
        yield
    finally:
        os.close(descriptor)


def flock(descriptor: int, operation: int, folder: Path) -> None:
    """`fcntl.flock` of a file in ``folder``. Raises ConfigError where its file system knows no locks, and OSError."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise ConfigError(f"{folder}: its file system has no locks ({error.strerror}); name another one") from error
        raise


# Errors


@contextmanager
def write_errors(path: Path, *, num_bytes: int | None = None, advice: str = "") -> Iterator[None]:
    """Raise an OSError of the block as the `write_error` that it is."""
    try:
        yield
    except OSError as error:
        raise write_error(error, path, num_bytes=num_bytes, advice=advice) from error


def write_error(
    error: OSError, path: Path, *, num_bytes: int | None = None, aside: Path | None = None, advice: str = ""
) -> FrameloomError:
    """The error that a user reads about a failed write.

    Args:
        error: the system's.
        path: what was to be written.
        num_bytes: how many bytes of it there are.
        aside: the temporary file that they went to, if it is still there: it has some of the room that is left.
        advice: what else may help, such as "name another folder in FRAMELOOM_CACHE".
    """
    reason, advice = error.strerror or str(error), f", or {advice}" if advice else ""
    if error.errno in FULL:
        need = ""
        if num_bytes is not None:
            free = shutil.disk_usage(next(one for one in (path, *path.absolute().parents) if one.exists())).free
            with suppress(OSError):
                free += 512 * aside.lstat().st_blocks if aside else 0
            need = f": {num_bytes:,} bytes were needed and {free:,} are free"
            if num_bytes <= free:
                need = f"{need.replace(' and', ', and')} but refused ({reason}): see to quotas and limits"
        return out_of_space(path, need, advice=advice)
    if error.errno in _FORBIDDEN:
        return ConfigError(f"cannot write {path}: {reason}; choose a folder that you may write to{advice}")
    if error.errno == errno.ENOENT and aside is not None and aside.parent.is_dir():
        return taken_over(aside)
    return FrameloomError(
        f"cannot write {aside or path}: {reason}; what was committed before is intact: see to the disk, and run the"
        f" same command again{advice}"
    )


def system_error(error: OSError, what: Path | str = "") -> FrameloomError | None:
    """The error that a user reads where the system refused what no caller has explained; None for a fault of ours.

    Args:
        error: the system's.
        what: the file, where the error does not name it.
    """
    what = what or os.fsdecode(error.filename or "a file")
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return out_of_space(what)
    if error.errno in _FAILING:
        advice = "nothing that was committed is lost: see to the disk, delete nothing, and run the same command again"
        return FrameloomError(f"{what} cannot be read or written: {reason}; {advice}")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return FrameloomError(f"{what}: {reason}; raise the limit (ulimit -a), and run the same command again")
    if error.errno in _FORBIDDEN | {errno.ELOOP}:
        return ConfigError(f"{what} cannot be used: {reason}; ask its owner for the right, or name another place")
    return None


def taken_over(path: Path) -> LockedError:
    """For a writer whose files another process has swept away."""
    return LockedError(
        f"{path} was removed while it was being written: another process has taken over its folder, and swept it;"
        " nothing of it was stored; let that process end, and run the same command again"
    )


def out_of_space(what: Path | str, need: str = "", *, advice: str = "") -> OutOfSpaceError:
    """The one sentence about a full disk."""
    return OutOfSpaceError(
        f"no space left to write {what}{need}; free some space and run the same command again{advice}"
    )
