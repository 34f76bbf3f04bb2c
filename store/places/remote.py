"""A store below a prefix of an object store.

It has no rename and needs none, for an object is there whole or not at all: a shard is written to a file of this
machine, hashed, uploaded under its hash and compared with what was sent; then its sidecar in the same way, which is the
commit. A shard's name is the hash of its bytes, so a writer that is late, or sends twice, can only put the same bytes
in their place. On services whose files appear before they are whole, an unfinished sidecar does not match its checksum,
and counts as absent.

A remote shard is fetched whole, once, into the folder of copies (`copies`) and not read in ranges: a training reads all
of it, epoch after epoch, and each range would cost a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..._files import NAME_DIGITS, Published, fail_point, written_aside
from ..._vocabulary import IntegrityError, digest_of
from ..formats import ShardFile, ShardFiles, ShardGoneError
from .base import FEATURE_NAME, MAX_SMALL_BYTES, OURS, Listed, counterparts
from .bucket import Bucket
from .copies import ABANDONED_SECONDS, Copies

_TRIES = 3
_Result = TypeVar("_Result")


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
            if _is_ours(name):
                yield Listed(self.folder / name, info.size, info.stamp, now - info.changed)

    def size_below(self, folder: str) -> int:
        return sum(info.size for name, info in self._bucket.listing().items() if name.startswith(f"{folder}/"))

    def contents(self, files: Sequence[Listed]) -> dict[Path, bytes]:
        found = self._bucket.read_many({self._name(file.path): min(file.size, MAX_SMALL_BYTES) for file in files})
        return {file.path: found[name] for file in files if (name := self._name(file.path)) in found}

    def publish_by_content(
        self, feature: str, suffix: str, write: Callable[[Any], None], *, num_bytes: int, kind: str, token: str
    ) -> Published:
        folder = self.folder / feature
        self._copies.make_folder(folder)
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
            self.forget(path)

    def remove_lone(self, path: Path) -> bool:
        if any(self.has(other) for other in counterparts(path)):
            return False
        self.remove([path])
        return True

    def has(self, path: Path) -> bool:
        return self._bucket.has(self._name(path))

    def abandon(self, older_than_seconds: float) -> list[str]:
        return [f"{self.root}/{name}" for name in self._bucket.abandon_uploads(_is_ours, older_than_seconds)]

    def read_bytes(self, path: Path) -> bytes:
        return self._bucket.read(self._name(path))

    def sha256(self, path: Path) -> str:
        return self._bucket.sha256(self._name(path))

    def fetch(self, path: Path) -> Path:
        def download(aside: Path) -> None:
            try:
                self._bucket.download(self._name(path), aside)
            except FileNotFoundError as error:
                raise ShardGoneError(f"shard {self.address(path)} is gone; run sync again to make it anew") from error

        return self._copies.fetch(path, download, name=f"shard {self.address(path)}")

    def forget(self, path: Path) -> None:
        """Remove the copy."""
        path.unlink(missing_ok=True)

    def shard_files(self) -> ShardFiles:
        return _CopyFiles(self)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _is_ours(name: str) -> bool:
    folder, _, file = name.partition("/")
    return bool(FEATURE_NAME.fullmatch(folder) and OURS.fullmatch(file))


class _CopyFiles(ShardFiles):
    """Copies, fetched when they are not there and once more when they are not what was written."""

    def __init__(self, place: RemotePlace) -> None:
        super().__init__()
        self._place = place

    def use(self, path: Path, read: Callable[[ShardFile], _Result]) -> _Result:
        for _ in range(_TRIES - 1):
            self._place.fetch(path)
            try:
                return super().use(path, read)
            except IntegrityError:  # damaged on this machine, or removed by a trim before it was open
                self._place.forget(path)
                self.close()
        return super().use(self._place.fetch(path), read)
