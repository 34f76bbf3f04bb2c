"""Where a store's shards lie: a folder, or a prefix of an object store that fsspec can reach.

A `LocalPlace` commits as `_commit` does: aside, synced, renamed. A `RemotePlace` has no rename and needs none, for an
object is there whole or not at all: a shard is written to a file of this machine, hashed, uploaded under its hash and
compared with what was sent; then its sidecar in the same way, which is the commit. Since a shard's name is the hash of
its bytes, a writer that is late, or sends twice, can only put the same bytes in their place. On services whose files
appear before they are whole, a sidecar in the making does not match its seal, and counts as absent.

A remote shard is fetched whole, once, into the folder of copies (`_copies`) and not read in ranges: only a whole shard
can be compared with its hash, no parser is shown bytes that were not; a training reads all of it, epoch after epoch;
and a format's own metadata would cost several requests each time it is opened.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..._files import (
    NAME_DIGITS,
    Published,
    fail_point,
    file_sha256,
    make_folder,
    publish,
    publish_by_content,
    sync_folder,
    temporary_path,
    write_error,
    write_errors,
    written_aside,
)
from ..._vocabulary import ConfigError, IntegrityError, digest_of
from ..formats import FORMATS, OpenShard, PageSums, ShardGoneError, ShardReader
from .copies import ABANDONED_SECONDS, Copies
from .remote import Bucket

FEATURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Other files may stand in the store's folders; only these are ours to read or to remove.
OURS = re.compile(r"[0-9a-f]{32}\.(h5|tar|parquet)")
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.(h5|tar|parquet)\..*\.tmp")
_SWEPT = re.compile(r"\.([0-9a-f]{32}\.(h5|tar|parquet))\.swept\..*\.tmp")
_LOCAL = ("file", "local")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.I | re.S)
_COLLAPSED = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]", re.I)
_TRIES = 3
_Result = TypeVar("_Result")


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
        """What people call a file."""
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
        """Commit a file under its hash. See `_commit.publish_by_content`."""
        ...

    def publish(self, path: Path, data: bytes, *, kind: str, token: str) -> None:
        """Commit a small file. See `_commit.publish`."""
        ...

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove files for good, one after the other. Those that are not there are none to remove."""
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

    def reader(self, check: Callable[[Path], PageSums | None]) -> ShardReader:
        """A reader of the store's shards by their paths."""
        ...


def open_place(root: Path | str) -> Place:
    """The place that a path or an address names. Raises ConfigError."""
    if isinstance(root, Path) or "://" not in root:
        if _COLLAPSED.match(str(root)):
            raise ConfigError(f"{str(root)!r} is neither a path nor an address: give addresses as s3://bucket/prefix")
        return LocalPlace(Path(root))
    found = _ADDRESS.fullmatch(root)
    if found is None:
        raise ConfigError("an address begins with the name of one protocol, as s3://bucket/prefix")
    protocol, rest = found[1].lower(), found[2]
    if protocol in _LOCAL:
        if not rest.startswith("/"):
            raise ConfigError(f"{root!r}: an address of a local folder has three slashes, as file:///data/features")
        return LocalPlace(Path(rest))
    return RemotePlace(protocol, rest)


class LocalPlace:
    """A folder of this machine. It need not exist: the first write makes it."""

    swept_seconds = 0.0  # under the writer lock, whatever is unfinished is a dead writer's

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.folder = root

    def address(self, path: Path) -> str:
        return str(path)

    def files(self) -> Iterator[Listed]:
        if not self.root.is_dir():
            return
        now = time.time()
        for folder in sorted(path for path in self.root.iterdir() if FEATURE_NAME.fullmatch(path.name)):
            if folder.is_dir():
                yield from _listed(folder, now)

    def size_below(self, folder: str) -> int:
        walk = os.walk(self.root / folder)
        return sum((Path(where) / name).lstat().st_size for where, _, names in walk for name in names)

    def contents(self, files: Sequence[Listed]) -> dict[Path, bytes]:  # noqa: ARG002
        return {}

    def publish_by_content(
        self, feature: str, suffix: str, write: Callable[[Any], None], *, num_bytes: int, kind: str, token: str
    ) -> Published:
        make_folder(self.root / feature)
        return publish_by_content(self.root / feature, suffix, write, num_bytes=num_bytes, kind=kind, token=token)

    def publish(self, path: Path, data: bytes, *, kind: str, token: str) -> None:
        publish(path, data, kind=kind, token=token)

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            with write_errors(path):
                path.unlink(missing_ok=True)
                sync_folder(path.parent)

    def remove_lone(self, path: Path) -> bool:
        swept = _SWEPT.fullmatch(path.name)
        name = path.with_name(swept[1]) if swept else path
        try:
            if not OURS.fullmatch(name.name):
                path.unlink()
            elif not _remove_unless_completed(path, name):
                return False
            sync_folder(path.parent)
        except FileNotFoundError:  # its writer has just renamed or removed it
            return False
        except OSError as error:
            raise write_error(error, path) from error
        return True

    def has(self, path: Path) -> bool:
        return path.exists()

    def abandon(self, older_than_seconds: float) -> list[str]:  # noqa: ARG002
        return []

    def read_bytes(self, path: Path) -> bytes:
        return path.read_bytes()

    def sha256(self, path: Path) -> str:
        return file_sha256(path)

    def fetch(self, path: Path) -> Path:
        return path

    def forget(self, path: Path) -> bool:  # noqa: ARG002
        return False

    def reader(self, check: Callable[[Path], PageSums | None]) -> ShardReader:
        return ShardReader(check)


def _remove_unless_completed(path: Path, name: Path) -> bool:
    """Remove a shard or sidecar that stands alone, ``name``, or which another sweep moved to ``path`` to do so.

    A writer that is late looks at both when it has completed them. So that it sees what is done here, or is seen, the
    file loses its name first, and gets it back where the other one has come meanwhile.
    """
    aside = temporary_path(name, "swept")
    path.replace(aside)
    is_complete = any(other.exists() for other in _others(name))
    if is_complete and not name.exists():
        aside.replace(name)
        sync_folder(name.parent)
    else:  # nothing to complete, or another is in its place, which was written since
        aside.unlink()
    return not is_complete


def _others(path: Path) -> list[Path]:
    """The sidecar of a shard, or the shards that a sidecar may stand beside."""
    if path.suffix != ".parquet":
        return [path.with_suffix(".parquet")]
    return [path.with_suffix(shard_format.suffix) for shard_format in FORMATS.values()]


def _listed(folder: Path, now: float) -> Iterator[Listed]:
    with os.scandir(folder) as listing:
        items = [item for item in listing if OURS.fullmatch(item.name) or UNFINISHED.fullmatch(item.name)]
    for item in items:
        try:
            status = item.stat()
        except FileNotFoundError:  # renamed or discarded by another process between the listing and now
            continue
        # Neither the time of the last change of status nor the number of the file is kept by what puts old times back.
        stamp = f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
        age = now - status.st_mtime
        yield Listed(folder / item.name, folder.name, item.name, status.st_size, stamp, age)


class RemotePlace:
    """A prefix of an object store. Credentials and endpoints are the service's own business: its variables and files.

    Args:
        protocol: such as ``s3``.
        rest: what follows ``://``.
    """

    # Another machine may be writing under a lock of its own: a shard without a sidecar may be about to get one.
    swept_seconds = ABANDONED_SECONDS

    def __init__(self, protocol: str, rest: str) -> None:
        self._bucket = Bucket(protocol, rest)
        self.root: str = self._bucket.url
        self._copies = Copies(digest_of(self.root))
        self.folder = self._copies.root

    def address(self, path: Path) -> str:
        return f"{self.root}/{self._name(path)}"

    def files(self) -> Iterator[Listed]:
        now = time.time()
        for name, info in sorted(self._bucket.listing().items()):
            folder, _, file = name.partition("/")
            if FEATURE_NAME.fullmatch(folder) and OURS.fullmatch(file):
                path = self._copies.root / folder / file
                yield Listed(path, folder, file, info.size, info.stamp, now - info.changed)

    def size_below(self, folder: str) -> int:
        return sum(info.size for name, info in self._bucket.listing().items() if name.startswith(f"{folder}/"))

    def contents(self, files: Sequence[Listed]) -> dict[Path, bytes]:
        found = self._bucket.read_many({self._name(file.path): file.size for file in files})
        return {file.path: found[name] for file in files if (name := self._name(file.path)) in found}

    def publish_by_content(
        self, feature: str, suffix: str, write: Callable[[Any], None], *, num_bytes: int, kind: str, token: str
    ) -> Published:
        folder = self._copies.root / feature
        self._copies.make_folder(folder / "any")
        with written_aside(folder, suffix, write, num_bytes=num_bytes, kind=kind, token=token) as written:
            path = folder / f"{written.sha256[:NAME_DIGITS]}{suffix}"
            # Sent again where it is there already, it is young again, and no other machine's sweep takes it for a dead
            # writer's before its sidecar is there.
            self._bucket.upload(
                self._name(path), written.path, sha256=written.sha256, sent=lambda: fail_point(f"{kind}.renamed")
            )
            fail_point(f"{kind}.durable")
            self._copies.keep(written.path, path)
            written.path.unlink(missing_ok=True)
        return Published(path, written.sha256, written.num_bytes)

    def publish(self, path: Path, data: bytes, *, kind: str, token: str) -> None:  # noqa: ARG002
        fail_point(f"{kind}.begun")
        self._bucket.write(self._name(path), data, sent=lambda: fail_point(f"{kind}.renamed"))
        fail_point(f"{kind}.durable")

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._bucket.remove(self._name(path))
            self._copies.forget(path)

    def remove_lone(self, path: Path) -> bool:
        if any(self.has(other) for other in _others(path)):
            return False
        self.remove([path])
        return True

    def has(self, path: Path) -> bool:
        return self._bucket.has(self._name(path))

    def abandon(self, older_than_seconds: float) -> list[str]:
        def is_ours(name: str) -> bool:
            folder, _, file = name.partition("/")
            return bool(FEATURE_NAME.fullmatch(folder) and OURS.fullmatch(file))

        return [f"{self.root}/{name}" for name in self._bucket.abandon_uploads(is_ours, older_than_seconds)]

    def read_bytes(self, path: Path) -> bytes:
        return self._bucket.read(self._name(path))

    def sha256(self, path: Path) -> str:
        return self._bucket.sha256(self._name(path))

    def fetch(self, path: Path) -> Path:
        name = self._name(path)

        def download(aside: Path) -> None:
            try:
                self._bucket.download(name, aside)
            except FileNotFoundError as error:
                raise ShardGoneError(f"shard {self.root}/{name} is gone; run sync again to make it anew") from error

        return self._copies.fetch(path, download, name=f"shard {self.root}/{name}")

    def forget(self, path: Path) -> bool:
        return self._copies.forget(path)

    def reader(self, check: Callable[[Path], PageSums | None]) -> ShardReader:
        return _CopyReader(check, self)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._copies.root).as_posix()


class _CopyReader(ShardReader):
    """Reads copies, which it fetches when they are not there and once more when they are not what was written."""

    def __init__(self, check: Callable[[Path], PageSums | None], place: RemotePlace) -> None:
        super().__init__(check)
        self._place = place

    def _use(self, path: Path, use: Callable[[OpenShard], _Result]) -> _Result:
        for _ in range(_TRIES - 1):
            self._place.fetch(path)
            try:
                return super()._use(path, use)
            except IntegrityError:  # damaged on this machine, or removed by a trim before it was open
                self._place.forget(path)
                self.close()
        self._place.fetch(path)
        return super()._use(path, use)
