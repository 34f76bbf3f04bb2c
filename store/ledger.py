"""What the driver remembers: digests of unchanged files, deaths of workers, durable table versions, speeds.

It is a cache with a memory: whatever it says can be found out again from the files, the sidecars and the tables, so a
lost or damaged ledger costs time and never data. SQLite in WAL mode with full syncs, one driver process at a time.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .._files import file_stamp, is_settled, make_folder, out_of_space, set_aside, system_error
from .._vocabulary import InputError, MediaError, Status, digest_of
from .fingerprints import media_error, open_regular_file

_log = logging.getLogger(__name__)

LEDGER_NAME = "ledger.sqlite"
SCHEMA_VERSION = 3
# Older measurements of speed count half as much with each new one.
RATE_MEMORY = 0.5
_FILES_A_COMMIT = 64  # each commit waits for the disk
# Of a full disk SQLite says so only where a write fails, and not where a file cannot be made or made longer.
_ALSO_WHEN_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_SYSTEM_ERRORS = {
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.EAGAIN,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
_NEEDED_BYTES = 256 * 1024
_HASHING_THREADS = min(4, os.cpu_count() or 1)
_HASHED_BYTES = 1 << 20  # at once
_BYTES_A_DISK_BLOCK = 512
_MOST_HOLE_BYTES = 1 << 34
_SCHEMA = """
CREATE TABLE files (path BLOB PRIMARY KEY, stamp TEXT, digest TEXT, seal TEXT) WITHOUT ROWID;
CREATE TABLE attempts (source_digest TEXT PRIMARY KEY, deaths INTEGER, seal TEXT) WITHOUT ROWID;
CREATE TABLE tables (uri TEXT PRIMARY KEY, version INTEGER, state TEXT, seal TEXT) WITHOUT ROWID;
CREATE TABLE rates (stage TEXT PRIMARY KEY, items REAL NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
"""
_TABLE = "SELECT version, state FROM tables WHERE uri = ? AND seal = seal(hex(uri), hex(version), hex(state))"


class Ledger:
    """The ledger of one store.

    Args:
        root: the store's folder. It is made by the first call that has something to keep.
        read_only: keep nothing: work on a copy in memory. For planning without touching the store.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.path = Path(root) / LEDGER_NAME
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file. The next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Digests of files

    def digests_of_files(
        self, paths: Iterable[Path], *, on_hashed: Callable[[Path], None] | None = None
    ) -> dict[Path, str | MediaError]:
        """The 256-bit BLAKE2b hash of each file as 64 hexadecimal digits, or why it has none. Only files that changed
        since the last call are read, and what is not a regular file never is.

        Args:
            paths: the files.
            on_hashed: called in this thread after each file that had to be read, for a progress bar.
        """
        paths = [Path(path) for path in paths]
        found: dict[Path, str | MediaError] = {}
        stamps: dict[Path, str] = {}
        for path in paths:
            try:
                stamps[path] = file_stamp(path.stat())
            except OSError as error:
                found[path] = media_error(path, error)
            except ValueError as error:  # no file has such a name
                found[path] = MediaError(Status.MISSING, str(error))
        names = {os.fsencode(path.absolute()): path for path in stamps}  # bytes: a name need not be UTF-8
        for some in _parts(list(names) if self._has_content() else [], 500):
            marks = ",".join("?" * len(some))
            whole = "seal = seal(hex(path), hex(stamp), hex(digest))"
            query = f"SELECT path, stamp, digest FROM files WHERE path IN ({marks}) AND {whole}"  # noqa: S608
            for name, stamp, digest in self._rows(query, some):
                if stamps[names[name]] == stamp:
                    found[names[name]] = digest
        ending = threading.Event()  # a signal does not wait for the end of a large file
        hash_one = partial(hash_file, is_stopped=ending.is_set)
        with ThreadPoolExecutor(_HASHING_THREADS) as pool, ExitStack() as stack:
            stack.callback(ending.set)
            for some_paths in _parts([path for path in stamps if path not in found], _FILES_A_COMMIT):
                settled: list[tuple[bytes, str, str]] = []
                for path, result in zip(some_paths, pool.map(hash_one, some_paths), strict=True):
                    if isinstance(result, MediaError):
                        found[path] = result
                    else:
                        found[path], stamp = result
                        settled += [(os.fsencode(path.absolute()), stamp, result[0])] if stamp else []
                    if on_hashed:
                        on_hashed(path)
                if settled:
                    with self._opened() as connection, connection:
                        connection.executemany(
                            "INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3, seal(hex(?1), hex(?2), hex(?3)))", settled
                        )
        return {path: found[path] for path in paths}

    def stamp_of(self, path: Path, digest: str) -> str:
        """The `file_stamp` that a file had when this digest was noted; empty where it was not."""
        row = self._row(
            "SELECT stamp FROM files WHERE path = ? AND digest = ? AND seal = seal(hex(path), hex(stamp), hex(digest))",
            (os.fsencode(path.absolute()), digest),
        )
        return str(row[0]) if row else ""

    # Attempts

    def finish_attempt(self, source_digest: str, *, died: bool = False) -> None:
        """Note that a worker came back from a source, whatever it found (its deaths are forgotten), or died on it.

        A driver that is killed notes nothing, and its sources are not blamed for that.
        """
        if died:
            self._write(
                "INSERT OR REPLACE INTO attempts VALUES (?1, ?2, seal(hex(?1), hex(?2)))",
                (source_digest, self.attempts(source_digest) + 1),
            )
        else:
            self._write("DELETE FROM attempts WHERE source_digest = ?", (source_digest,))

    def attempts(self, source_digest: str) -> int:
        """How many workers have died on this source since one last came back from it."""
        row = self._row(
            "SELECT deaths FROM attempts WHERE source_digest = ? AND seal = seal(hex(source_digest), hex(deaths))",
            (source_digest,),
        )
        return int(row[0]) if row else 0

    # Tables

    def table_version(self, uri: str) -> int | None:
        """The last version of a table that is known to be durable."""
        row = self._row(_TABLE, (uri,))
        return row[0] if row else None

    def table_state(self, uri: str) -> str:
        """What `set_table_version` was told that this version holds; empty when it was not told."""
        row = self._row(_TABLE, (uri,))
        return str(row[1]) if row else ""

    def set_table_version(self, uri: str, version: int, *, state: str = "") -> None:
        """Note a durable version.

        Args:
            uri: names the table.
            version: its version.
            state: a digest of the rows that it holds, so that an unchanged plan need not open the table.
        """
        self._write(
            "INSERT OR REPLACE INTO tables VALUES (?1, ?2, ?3, seal(hex(?1), hex(?2), hex(?3)))", (uri, version, state)
        )

    # Speeds

    def record_rate(self, stage: str, items: float, seconds: float) -> None:
        """Note that a stage did so many items in so many seconds. Raises InputError for a negative number."""
        if not (items >= 0 and seconds >= 0):
            raise InputError(f"rate of {stage}: {items} items in {seconds} seconds; both must be at least 0")
        self._write(
            "INSERT INTO rates VALUES (?1, ?2, ?3) ON CONFLICT (stage) "
            "DO UPDATE SET items = items * ?4 + ?2, seconds = seconds * ?4 + ?3",
            (stage, items, seconds, RATE_MEMORY),
        )

    def rate(self, stage: str) -> float | None:
        """Items a second, recent runs counting more; None before the first run."""
        row = self._row("SELECT items, seconds FROM rates WHERE stage = ?", (stage,))
        return row[0] / row[1] if row and row[1] > 0 else None

    # SQLite

    def _has_content(self) -> bool:
        return self._connection is not None or self.path.exists()

    def _row(self, query: str, values: Sequence[Any]) -> Any:
        rows = self._rows(query, values) if self._has_content() else []
        return rows[0] if rows else None

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._opened() as connection:
            return connection.execute(query, values).fetchall()

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        with self._opened() as connection, connection:
            connection.execute(statement, values)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._copy() if self._read_only else self._open()
                yield self._connection
            except sqlite3.OperationalError as error:
                code = error.sqlite_errorcode & 0xFF  # what is above says which call failed
                is_full = code in _ALSO_WHEN_FULL and shutil.disk_usage(self.path.parent).free < _NEEDED_BYTES
                if code == sqlite3.SQLITE_FULL or is_full:
                    raise out_of_space(self.path) from error
                number = _SYSTEM_ERRORS.get(code)
                if number is None or (explained := system_error(OSError(number, str(error)), self.path)) is None:
                    raise
                raise explained from error

    def _open(self) -> sqlite3.Connection:
        make_folder(self.path.parent)
        try:
            return _connect(self.path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT:
                raise
            kept = set_aside(self.path, self.path.parent, name=f"{self.path.name}.damaged")
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            _log.warning("the ledger was damaged (%s); kept as %s and begun anew: files are hashed again", error, kept)
            return _connect(self.path)

    def _copy(self) -> sqlite3.Connection:
        if self.path.exists():
            memory = sqlite3.connect(":memory:", check_same_thread=False)
            try:
                # In a folder that may not be written to, SQLite reads no file that a writer may have open.
                log = self.path.with_name(f"{self.path.name}-wal")
                mode = "mode=ro" if log.exists() or os.access(self.path.parent, os.W_OK) else "immutable=1"
                with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?{mode}", uri=True)) as source:
                    source.backup(memory)
                return _with_schema(memory)
            except sqlite3.DatabaseError as error:
                _log.warning("the ledger cannot be read (%s); planning without it", error)
                memory.close()
        return _with_schema(sqlite3.connect(":memory:", check_same_thread=False))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return _with_schema(connection)
    except BaseException:
        connection.close()
        raise


def _with_schema(connection: sqlite3.Connection) -> sqlite3.Connection:
    # SQLite has no checksums: a row whose seal is another was damaged, and counts as absent.
    connection.create_function("seal", -1, lambda *values: digest_of(values), deterministic=True)
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DROP TABLE "{name}"')
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    return connection


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _has_data(file: int) -> bool:
    """Whether an open file holds anything but holes, as far as its disk knows; it is at its beginning afterwards."""
    try:
        os.lseek(file, 0, os.SEEK_DATA)
    except OSError:
        return False
    os.lseek(file, 0, os.SEEK_SET)
    return True


def hash_file(path: Path, is_stopped: Callable[[], bool] = lambda: False) -> tuple[str, str] | MediaError:
    """Digest, and stamp where the file had been left alone long enough for that to be trusted; or why it has none."""
    hashed = hashlib.blake2b(digest_size=32)
    try:
        with open_regular_file(path) as file:
            before = os.fstat(file.fileno())
            stored = _BYTES_A_DISK_BLOCK * before.st_blocks
            is_sparse = before.st_size - stored > _MOST_HOLE_BYTES and 10 * stored < before.st_size
            if is_sparse and (stored or not _has_data(file.fileno())):  # some disks say 0 blocks of every file
                message = f"{path} has {before.st_size:,} bytes, of which {stored:,} are stored: it is nearly all holes"
                return MediaError(Status.TOO_LARGE, message)
            stamp = file_stamp(before) if is_settled(before) else ""
            while not is_stopped() and (block := file.read(_HASHED_BYTES)):
                hashed.update(block)
            after = os.fstat(file.fileno())
    except MediaError as error:
        return error
    except OSError as error:
        return media_error(path, error)
    if is_stopped() or file_stamp(before) != file_stamp(after):
        return MediaError(Status.CHANGED, f"{path} changed while it was read; it is tried again in the next run")
    return hashed.hexdigest(), stamp
