"""Bringing a published file here: by HTTPS with the standard library, or from the Hugging Face Hub with its client.

What a server sends is believed in nothing: addresses (also those that it sends us on to) must be HTTPS, sizes are
bounded and compared, waiting ends. Whether the bytes are the right ones is for the caller to find out by their hash. A
transfer that was cut goes on where it stopped, if the server can say that the file is still the same.
"""

from __future__ import annotations

import http.client
import importlib
import ipaddress
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn
from urllib.parse import SplitResult, urlsplit

from ..._version import __version__
from ..._vocabulary import ConfigError, FrameloomError, InputError, WeightsSource
from .cache import out_of_space

OnProgress = Callable[[int, "int | None"], None]

MAX_BYTES = 50 * 10**9  # of a file whose size is not published
_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0  # of silence
_TRIES = 3
_MAX_VALIDATOR = 500
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>[\w./-]+)")


class _CutError(Exception):
    """The connection ended before the file did."""


class _Answer(NamedTuple):
    """From which byte on an answer brings a file, and how long the whole file is where the server says it."""

    start: int
    total: int | None


def transfer(source: WeightsSource, part: Path, *, on_progress: OnProgress) -> None:
    """Bring the bytes of a source to the file ``part``, synced to disk but unchecked.

    Raises:
        ConfigError: no connection, or the server does not give the file.
        InputError: the size is not what was published, or nothing that is allowed.
        OutOfSpaceError: there is no room for the file.
        OSError: ``part`` cannot be written.
    """
    if source.url.startswith("hf://"):
        _from_hub(source, part, on_progress)
    else:
        _from_server(source, part, on_progress)


def discard(part: Path) -> None:
    """Forget what was brought, so that the next transfer begins at the first byte."""
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _from_server(source: WeightsSource, part: Path, on_progress: OnProgress) -> None:
    if source.sha256 is None:
        discard(part)  # nothing could tell that what an earlier process left is damaged
    problem = ""
    for _ in range(_TRIES):
        try:
            return _once(source, part, on_progress)
        except _CutError as cut:
            problem = str(cut)
    raise ConfigError(
        f"{source.url}: the connection ended {_TRIES} times before the file did ({problem}); run the same command again"
        f" {'and it goes on from there' if part.exists() and part.stat().st_size else 'later'}, or {_by_hand(source)}"
    )


def _once(source: WeightsSource, part: Path, on_progress: OnProgress) -> None:
    with _opened(source, part) as response:
        answer = _understood(response, part)
        _check_size(source, answer.total, is_chunked=bool(getattr(response, "chunked", False)))
        _check_room(part, answer)
        if answer.start == 0:
            part.write_bytes(b"")
            _validator_file(part).write_text(_validator_of(response), encoding="ascii", errors="replace")
        with part.open("r+b") as file:
            file.seek(answer.start)
            try:
                done = _copy(source, response, file, answer, on_progress)
            finally:  # also what a cut transfer brought, because the next try goes on from it
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
    if answer.total is not None and done != answer.total:
        raise _CutError(f"{done:,} of {answer.total:,} bytes came")
    _validator_file(part).unlink()


def _copy(source: WeightsSource, response: Any, file: IO[bytes], answer: _Answer, on_progress: OnProgress) -> int:
    """Copy an answer to a file and return how long the file then is."""
    done, limit = answer.start, source.size_bytes or MAX_BYTES
    on_progress(done, answer.total)
    while block := _read(response, done):
        done += len(block)
        if done > limit:
            raise _wrong_size(source, f"more than {limit:,}")
        file.write(block)
        on_progress(done, answer.total)
    return done


def _read(response: Any, done: int) -> bytes:
    try:
        block: bytes = response.read1(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"{error or type(error).__name__} after {done:,} bytes") from error
    return block


@contextmanager
def _opened(source: WeightsSource, part: Path) -> Iterator[Any]:
    """The server's answer to a request for the file, or for what is missing of it."""
    parts = _checked(source, source.url, from_loopback=True)
    headers = {"User-Agent": f"frameloom/{__version__}", "Accept-Encoding": "identity", **_resuming(part)}
    request = urllib.request.Request(source.url, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        response = _opener(source, parts).open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and part.exists():
            discard(part)
            raise _CutError("what was here is longer than the file") from error
        reason = "sends us on to an address that is not allowed" if 300 <= error.code < 400 else error.reason
        raise _unreachable(source, f"the server answers {error.code} ({reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: sent on to what is no address
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise _unreachable(source, f"no connection to {parts.hostname} ({reason})") from error
    with response:
        yield response


def _understood(response: Any, part: Path) -> _Answer:
    """Raises _CutError, so that the file is asked for anew, for an answer that does not fit what is here."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{response.url}: the server compresses the file though it was told not to; fetch it by hand")
    length = response.headers.get("Content-Length", "")
    if response.status != _PARTIAL:
        return _Answer(0, int(length) if length.isdecimal() else None)
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", response.headers.get("Content-Range", ""))
    here = part.stat().st_size if part.exists() else 0
    if found is None or int(found.group(1)) != here or _validator_of(response) not in ("", _kept_validator(part)):
        discard(part)
        raise _CutError("the server went on at another place, or with another file")
    return _Answer(here, int(found.group(2)))


def _resuming(part: Path) -> dict[str, str]:
    """The headers that ask for the missing end of the file, if it is still the same file."""
    validator = _kept_validator(part)
    if not validator or not part.is_file() or part.stat().st_size == 0:
        return {}
    return {"Range": f"bytes={part.stat().st_size}-", "If-Range": validator}


def _validator_of(response: Any) -> str:
    """What tells one version of the file from another: a strong entity tag, or the time of its last change."""
    tag: str = response.headers.get("ETag", "")
    found = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return found if len(found) < _MAX_VALIDATOR and found.isprintable() else ""


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _kept_validator(part: Path) -> str:
    try:
        kept = _validator_file(part).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return kept if len(kept) < _MAX_VALIDATOR and kept.isprintable() else ""


def _check_size(source: WeightsSource, total: int | None, *, is_chunked: bool) -> None:
    if total is not None and total > (source.size_bytes or MAX_BYTES):
        raise _wrong_size(source, f"{total:,}")
    if total is not None and source.size_bytes is not None and total != source.size_bytes:
        raise _wrong_size(source, f"{total:,}")
    if total is None and not is_chunked and source.size_bytes is None and source.sha256 is None:
        raise _unreachable(source, "the server does not say how long the file is, so nothing could tell a part of it")


def _wrong_size(source: WeightsSource, found: str) -> InputError:
    limit = f"{source.size_bytes:,} bytes" if source.size_bytes else f"at most {MAX_BYTES:,} bytes"
    return InputError(f"{source.url} has {found} bytes, and {limit} were expected: this is not the published file")


def _check_room(part: Path, answer: _Answer) -> None:
    need = (answer.total or 0) - answer.start
    if need > shutil.disk_usage(part.parent).free:
        raise out_of_space(part.parent, need_bytes=need)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _checked(source: WeightsSource, url: str, *, from_loopback: bool) -> SplitResult:
    """The parts of an address that may be asked: HTTPS, or HTTP within this machine. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        is_local = from_loopback and _is_loopback(parts.hostname)
        if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
            return parts
    except ValueError:  # no address at all
        pass
    raise _unreachable(source, f"{url!r} is not an https:// address, and no other is asked")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to addresses that we would ask ourselves."""

    def __init__(self, source: WeightsSource, *, from_loopback: bool) -> None:
        self._source = source
        self._from_loopback = from_loopback

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _checked(self._source, newurl, from_loopback=self._from_loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(source: WeightsSource, parts: SplitResult) -> urllib.request.OpenerDirector:
    """Only HTTP and HTTPS: the usual opener would also read file:, ftp: and data: addresses."""
    is_local = _is_loopback(parts.hostname)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if is_local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirects(source, from_loopback=is_local),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _by_hand(source: WeightsSource) -> str:
    return f"fetch {source.url} by hand, where there is a connection, and give the file's path as `weights`"


def _unreachable(source: WeightsSource, reason: str) -> ConfigError:
    return ConfigError(f"the weights {source.tag!r} cannot be fetched: {reason}; {_by_hand(source)}")


def _from_hub(source: WeightsSource, part: Path, on_progress: OnProgress) -> None:
    """Fetch with the Hub's client, which resumes by itself and knows the user's access token."""
    match = _HUB.fullmatch(source.url)
    if match is None or ".." in match["file"].split("/"):
        raise _unreachable(source, f"{source.url!r} is not hf://owner/repository[@revision]/file")
    from huggingface_hub import hf_hub_download

    folder = part.with_name(f"{part.name}.hub")
    try:
        found = hf_hub_download(
            match["repo"],
            match["file"],
            revision=match["revision"],
            local_dir=folder,
            tqdm_class=_hub_bar(source, on_progress),
            etag_timeout=_TIMEOUT_SECONDS,
        )
    except FrameloomError:
        raise
    except _hub_errors() as error:
        _raise_hub(source, error)
    size = Path(found).stat().st_size
    if size != (source.size_bytes or size) or size > MAX_BYTES:
        shutil.rmtree(folder)
        raise _wrong_size(source, f"{size:,}")
    Path(found).replace(part)
    shutil.rmtree(folder)
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the client raises. Its HTTP library, whose errors come through, is not the same in all of its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception]
    return (*bases, OSError, ValueError, RuntimeError)


def _raise_hub(source: WeightsSource, error: Exception) -> NoReturn:
    if isinstance(error, OSError) and error.errno is not None:  # of this machine's disk, not of the network
        raise error
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    raise _unreachable(source, f"the Hugging Face Hub says: {reason}") from error


def _hub_bar(source: WeightsSource, on_progress: OnProgress) -> Any:
    """A progress bar, as the Hub's client wants one, that draws nothing and reports."""
    client: Any = importlib.import_module("huggingface_hub.utils")
    limit = source.size_bytes or MAX_BYTES

    class Bar(client.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self._total, self._done = kwargs.get("total"), kwargs.get("initial") or 0
            if self._total is not None and self._total > limit:
                raise _wrong_size(source, f"{self._total:,}")

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            on_progress(int(self._done), self._total)
            return None

    return Bar
