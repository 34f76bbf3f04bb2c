"""Objects below one prefix of an object store, through fsspec: a few operations, each tried a bounded number of times.

Whatever goes wrong is told in a sentence of ours. It never holds what a service's own error may: keys and tokens.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..._files import FULL
from ..._vocabulary import ConfigError, FrameloomError

NUM_TRIES = 4
FIRST_PAUSE_SECONDS = 0.25
_BLOCK_BYTES = 1 << 22
_BATCH = 512
_Result = TypeVar("_Result")

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_READ_ONLY = ("http", "https")
# A service's package that tries again of its own accord would multiply our tries.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}},
}
_OPTIONS["s3a"] = _OPTIONS["s3"]

_PASSING_ERRNOS = frozenset(
    {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED}
    | {getattr(errno, name) for name in ("EREMOTEIO", "ENETUNREACH", "EHOSTUNREACH") if hasattr(errno, name)}
)
_PASSING_NAMES = re.compile("Timeout|Connect|Endpoint|IncompleteRead|Payload|Disconnected")
_NO_CREDENTIALS = re.compile("Credential|TokenRetrieval|ProfileNotFound|UnauthorizedSSO|SSOToken")
_SECRET_VARIABLES = re.compile("KEY|SECRET|TOKEN|PASSWORD|SAS|CREDENTIAL", re.I)
_SECRET_SHAPES = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b|(?i:signature|credential|token|sig)=[^&\s]+")


@dataclass(frozen=True, slots=True)
class Info:
    """What a service says of one object: size in bytes, a stamp that changes with it, seconds of its last change."""

    size: int
    stamp: str
    changed: float
    etag: str

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Info:
        """Of fsspec's own, whose keys differ from service to service."""
        etag = str(raw.get("ETag") or raw.get("etag") or "").strip('"')
        when = next(
            (raw[key] for key in ("LastModified", "last_modified", "mtime", "updated", "created") if key in raw), 0
        )
        stamp, when = f"{etag} {when}", datetime.fromisoformat(when) if isinstance(when, str) else when
        return cls(int(raw["size"]), stamp, when.timestamp() if isinstance(when, datetime) else float(when), etag)


class Bucket:
    """The objects below an address. Their names are relative to it.

    Args:
        protocol: such as ``s3``.
        rest: what follows ``://``.

    Raises:
        ConfigError: the address has a password or a query in it, or cannot be written to.
    """

    def __init__(self, protocol: str, rest: str) -> None:
        where = f"an address of {protocol}://"
        if re.search(r":[^/@]*@", rest) or "?" in rest or "#" in rest:
            raise ConfigError(
                f"{where} has a password, a query or a fragment in it: give credentials by the service's own variables"
            )
        if protocol in _READ_ONLY or "::" in protocol + rest:
            raise ConfigError(f"{where} cannot hold a store: name an object store, as s3://bucket/prefix")
        self._protocol = protocol
        prefix = rest.strip("/")
        if not prefix:
            raise ConfigError(f"{where} names no bucket: give one, as {protocol}://bucket/prefix")
        self.url = f"{protocol}://{prefix}"
        self._bucket, _, self._prefix = prefix.partition("/")
        self._opened: tuple[int, Any] | None = None
        self._opening = threading.Lock()

    def listing(self) -> dict[str, Info]:
        """Every object by name. An empty store has none. Raises ConfigError where there is no such bucket."""

        def find() -> Any:
            try:
                return self._files().find(self._key().rstrip("/"), detail=True)
            except FileNotFoundError:
                if self._files().exists(self._bucket):
                    return {}
                raise

        found, begin = self._tried("listed", find), self._key()
        return {path.removeprefix(begin): Info.of(raw) for path, raw in found.items() if raw["type"] == "file"}

    def read_many(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """The bytes of small objects, many at a time; without those that are gone."""
        result = {name: b"" for name, size in sizes.items() if not size}
        names = [name for name in sizes if name not in result]

        def read(batch: list[str]) -> None:
            wanted = [name for name in batch if name not in result]
            keys, ends = [self._key(name) for name in wanted], [sizes[name] for name in wanted]
            found = self._files().cat_ranges(keys, [0] * len(keys), ends, on_error="return")
            result.update({name: data for name, data in zip(wanted, found, strict=True) if isinstance(data, bytes)})
            for data in found:
                if not isinstance(data, bytes | FileNotFoundError):
                    raise data

        for first in range(0, len(names), _BATCH):
            self._tried("read", partial(read, names[first : first + _BATCH]))
        return result

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        data: bytes = self._tried("read", lambda: self._files().cat_file(self._key(name)), may_be_absent=True)
        return data

    def has(self, name: str) -> bool:
        """Whether an object is there now."""
        try:  # fsspec's own question takes every failure for a no
            self._tried("read", lambda: self._files().info(self._key(name)), may_be_absent=True)
        except FileNotFoundError:
            return False
        return True

    def sha256(self, name: str) -> str:
        """The hash of an object's bytes, by reading them piece by piece. Raises FileNotFoundError."""
        return self._tried("read", lambda: self._hash(name), may_be_absent=True)

    def _hash(self, name: str) -> str:
        digest, files, key = hashlib.sha256(), self._files(), self._key(name)
        size = int(files.info(key)["size"])
        for first in range(0, size, _BLOCK_BYTES):
            digest.update(files.cat_file(key, start=first, end=min(size, first + _BLOCK_BYTES)))
        return digest.hexdigest()

    def download(self, name: str, target: Path) -> None:
        """Write an object into a file. Raises FileNotFoundError."""
        self._tried("read", lambda: self._files().get_file(self._key(name), str(target)), may_be_absent=True)

    def upload(self, name: str, source: Path, *, sha256: str, sent: Callable[[], None]) -> None:
        """Send a file whose hash is known, and see that what lies there is what was sent. ``sent`` is called between.

        It is sent even where it lies already: that costs little, mends what may be damaged, and makes the object young.
        """
        with source.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        size = source.stat().st_size
        self._send(name, lambda key: self._put(source, key), size=size, md5=md5, sha256=sha256, sent=sent)

    def _put(self, source: Path, key: str) -> None:
        self._files().put_file(str(source), key)

    def write(self, name: str, data: bytes, *, sent: Callable[[], None]) -> None:
        """Send a small object, and see that what lies there is what was sent."""
        md5, sha256 = hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha256(data).hexdigest()
        self._send(
            name, lambda key: self._files().pipe_file(key, data), size=len(data), md5=md5, sha256=sha256, sent=sent
        )

    def _send(
        self, name: str, put: Callable[[str], object], *, size: int, md5: str, sha256: str, sent: Callable[[], None]
    ) -> None:
        def send() -> None:
            put(self._key(name))
            sent()
            info = Info.of(self._files().info(self._key(name)))
            # Many services name a small object by its MD5. Where one does not, the object is read back.
            if info.size != size or (info.etag != md5 and self._hash(name) != sha256):
                raise OSError(errno.EIO, f"{name} is not what was sent")

        self._tried("written", send)

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is none to remove."""
        with suppress(FileNotFoundError):
            self._tried("written", lambda: self._files().rm_file(self._key(name)), may_be_absent=True)

    def abandon_uploads(self, is_ours: Callable[[str], bool], older_than_seconds: float) -> list[str]:
        """Give up uploads in parts that were begun and not ended, where the service has such. Returns their names."""
        files = self._files()
        if not hasattr(files, "list_multipart_uploads"):
            return []

        def abandon() -> list[str]:
            given_up, begin = [], f"{self._prefix}/" if self._prefix else ""
            for upload in files.list_multipart_uploads(self._bucket):
                name = upload["Key"].removeprefix(begin)
                is_old = time.time() - upload["Initiated"].timestamp() >= older_than_seconds
                if upload["Key"].startswith(begin) and is_ours(name) and is_old:
                    files.abort_mpu(self._bucket, upload["Key"], upload["UploadId"])
                    given_up.append(name)
            return given_up

        return self._tried("listed", abandon)

    def _key(self, name: str = "") -> str:
        return f"{str(self._files()._strip_protocol(self.url)).rstrip('/')}/{name}"

    def _files(self) -> Any:
        """This process's file system: after a fork, the parent's connections and thread are not ours."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._open())
            return self._opened[1]

    def _open(self) -> Any:
        import fsspec

        try:  # nothing that was listed is remembered, for others write too
            files = fsspec.filesystem(self._protocol, use_listings_cache=False, **_OPTIONS.get(self._protocol, {}))
        except ImportError as error:
            package = _PACKAGES.get(self._protocol, f"the one that fsspec names for {self._protocol}")
            extra = " (pip install 'frameloom[s3]')" if package == "s3fs" else ""
            raise ConfigError(f"{self.url} needs the package {package}, which is not installed{extra}") from error
        except ValueError:
            raise ConfigError(
                f"{self.url}: fsspec knows no {self._protocol}://; name an object store, as s3://bucket/prefix"
            ) from None
        if hasattr(files, "retries"):
            files.retries = 1
        return files

    def _tried(self, doing: str, work: Callable[[], _Result], *, may_be_absent: bool = False) -> _Result:
        """Do it, and again after a pause that doubles, while what went wrong may pass.

        Raises:
            ConfigError: no credentials, no access, no such bucket.
            FrameloomError: it cannot be reached.
        """
        for left in reversed(range(NUM_TRIES)):
            try:
                return work()
            except Exception as error:
                if not _is_theirs(error) or (may_be_absent and isinstance(error, FileNotFoundError)):
                    raise
                if not left or not _may_pass(error):
                    raise self._told(error, doing) from None
                _pause(FIRST_PAUSE_SECONDS * 2 ** (NUM_TRIES - 1 - left))
        raise AssertionError

    def _told(self, error: Exception, doing: str) -> FrameloomError:
        detail = f"{type(error).__name__}: {_without_secrets(str(error))}"
        if _NO_CREDENTIALS.search(type(error).__name__):
            return ConfigError(
                f"{self.url} cannot be {doing}: no credentials were found; give those of {self._protocol}:// in the"
                " service's own way, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            )
        if isinstance(error, PermissionError):
            return ConfigError(
                f"{self.url} cannot be {doing}: access is refused ({detail}); check the credentials and their rights"
            )
        if isinstance(error, FileNotFoundError):
            return ConfigError(
                f"{self.url} cannot be {doing}: there is no bucket {self._bucket!r}; make it, or name another"
            )
        if _may_pass(error):
            return FrameloomError(
                f"{self.url} cannot be {doing}, tried {NUM_TRIES} times ({detail}); check the network and the endpoint,"
                " and run the same command again"
            )
        return ConfigError(f"{self.url} cannot be {doing} ({detail}); check the address")


def _is_theirs(error: Exception) -> bool:
    """Whether a service or its package raised it, and not this machine's disk or a mistake in a program."""
    if isinstance(error, OSError):
        return error.errno not in FULL
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, TimeoutError) or package not in ("builtins", __name__.partition(".")[0])


def _may_pass(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, TimeoutError | ConnectionError) or getattr(error, "errno", None) in _PASSING_ERRNOS:
        return True
    return any(_PASSING_NAMES.search(kind.__name__) for kind in type(error).__mro__)


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 4 and _SECRET_VARIABLES.search(name):
            text = text.replace(value, "***")
    return _SECRET_SHAPES.sub("***", " ".join(text.split()))[:300]


def _pause(seconds: float) -> None:
    time.sleep(seconds)
