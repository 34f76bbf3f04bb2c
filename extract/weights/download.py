"""Downloading a published file: by HTTPS, or from the Hugging Face Hub with its client.

Nothing that a server sends is trusted. Every address, also those that it redirects to, must be HTTPS (or lie on this
machine, where the first one does, as in tests), sizes are bounded and compared, and waiting ends. Whether the bytes are
the right ones is for the caller to find out by their hash. A download that was cut begins anew.
"""

from __future__ import annotations

import importlib
import ipaddress
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from ..._files import out_of_space
from ..._version import __version__
from ..._vocabulary import ConfigError, FrameloomError, InputError, WeightsSource

OnProgress = Callable[[int, "int | None"], None]

MAX_BYTES = 50 * 10**9  # of a file whose size is not published
CACHE_ADVICE = "name another folder in FRAMELOOM_CACHE"
_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0  # of silence
_TRIES = 3
_MOST_REDIRECTS = 10
HUB_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>[\w./-]+)")
HUB_MODEL = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)")
HUB_SUFFIXES = (".safetensors", ".json", ".txt")  # of a model: never a pickle, never code
CTRANSLATE2 = ("model.bin", "config.json", "tokenizer.json")  # a model of that library, in a format of its own


def download(source: WeightsSource, part: Path, *, on_progress: OnProgress) -> None:
    """Write the bytes of a source to the file ``part``, unchecked but for their number; of a whole model, to a folder.

    Raises:
        ConfigError: no connection, or the server does not give the file.
        InputError: the size is not what was published, or nothing that is allowed.
        OutOfSpaceError: there is no room for the file.
        OSError: ``part`` cannot be written.
    """
    if source.is_model:
        _model_from_hub(source, part, on_progress)
        return
    if source.url.startswith("hf://"):
        _from_hub(source, part, on_progress)
        return
    requests: Any = importlib.import_module("requests")
    for _ in range(_TRIES):
        try:
            if _from_server(source, part, on_progress):
                return
        except requests.exceptions.ReadTimeout:
            continue
        except (requests.exceptions.RequestException, UnicodeError) as error:  # the latter of an invalid host name
            reason = getattr(error.args[0] if error.args else None, "reason", None) or error or type(error).__name__
            raise _unreachable(source, f"no connection to {urlsplit(source.url).hostname} ({reason})") from error
    raise _unreachable(source, f"the connection ended or stalled {_TRIES} times before the file did")


def _from_server(source: WeightsSource, part: Path, on_progress: OnProgress) -> bool:
    """One try: whether the whole file came. Raises requests' errors too."""
    requests: Any = importlib.import_module("requests")
    parts = check_address(source, source.url, from_loopback=True)
    is_local = is_loopback(parts.hostname)
    with requests.Session() as session:
        session.get_redirect_target = lambda _: None  # else requests reads a redirect's body, whatever its size
        for _ in range(_MOST_REDIRECTS + 1):
            with session.get(
                parts.geturl(),
                headers={"User-Agent": f"frameloom/{__version__}", "Accept-Encoding": "identity"},
                timeout=_TIMEOUT_SECONDS,
                proxies={"http": "", "https": ""} if is_local else None,
                stream=True,
            ) as answer:
                if answer.is_redirect:
                    target = answer.headers["Location"].encode("latin-1").decode("utf-8", "replace")
                    parts = check_address(source, target, from_loopback=is_local, base=parts.geturl())
                    continue
                if answer.status_code != requests.codes.ok:
                    raise _unreachable(source, f"the server answers {answer.status_code} ({answer.reason})")
                total, done = _stated_bytes(source, answer.headers, part), 0
                try:
                    with part.open("wb") as file:
                        for block in answer.iter_content(_BLOCK_BYTES):
                            file.write(block)
                            done += len(block)
                            if done > (limit := source.size_bytes or MAX_BYTES):
                                raise _wrong_size(source, f"more than {limit:,}")
                            on_progress(done, total)
                except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
                    return False
                if not done and not total and not source.size_bytes:
                    raise _wrong_size(source, "0")
                return done == (total or source.size_bytes or done)
    raise _unreachable(source, f"the server answers with more than {_MOST_REDIRECTS} redirects")


def check_address(source: WeightsSource, url: str, *, from_loopback: bool, base: str = "") -> SplitResult:
    """The parts of an address that may be asked: HTTPS, or HTTP within this machine. Raises ConfigError."""
    try:
        parts = urlsplit(urljoin(base, url))
        is_local = from_loopback and is_loopback(parts.hostname)
        if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
            return parts
    except ValueError:  # no address at all
        pass
    raise _unreachable(source, f"{url!r} is not an https:// address, and no other is asked")


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _stated_bytes(source: WeightsSource, headers: Any, part: Path) -> int | None:
    """The length that the server states, checked; None where it states none that is a number."""
    if headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{source.url}: the server compresses the file against the request; fetch it by hand")
    if not re.fullmatch("[0-9]{1,18}", length := headers.get("Content-Length", "")):
        if "Transfer-Encoding" not in headers and source.size_bytes is None and source.sha256 is None:
            reason = "the server does not say how long the file is, so nothing could tell a part of it"
            raise _unreachable(source, reason)
        return None
    num_bytes = int(length)
    if num_bytes != (source.size_bytes or num_bytes) or not 0 < num_bytes <= MAX_BYTES:
        raise _wrong_size(source, f"{num_bytes:,}")
    free = shutil.disk_usage(part.parent).free
    if num_bytes > free:
        raise out_of_space(part.parent, f": {num_bytes:,} bytes are needed and {free:,} are free", advice=CACHE_ADVICE)
    return num_bytes


def _wrong_size(source: WeightsSource, found: str) -> InputError:
    limit = f"{source.size_bytes:,} bytes" if source.size_bytes else f"1 to {MAX_BYTES:,} bytes"
    return InputError(
        f"{source.url} has {found} bytes, and {limit} were expected: this is not the published file;"
        " try again later, or give the path of another file as `weights`"
    )


def _unreachable(source: WeightsSource, reason: str) -> ConfigError:
    by_hand = f"fetch {source.url} by hand, where there is a connection, and give the file's path as `weights`"
    return ConfigError(f"the weights {source.tag!r} cannot be fetched: {reason}; {by_hand}")


def _model_from_hub(source: WeightsSource, part: Path, on_progress: OnProgress) -> None:
    """Download the files of a model's folder that decide its numbers, each by itself, so that each has its limits."""
    match = HUB_MODEL.fullmatch(source.url)
    assert match is not None
    import huggingface_hub

    with _hub_errors(source):
        listed = huggingface_hub.list_repo_files(match["repo"], revision=match["revision"])
    names = sorted(name for name in listed if "/" not in name and name.endswith(HUB_SUFFIXES))
    if not any(name.endswith(".safetensors") for name in names) and set(CTRANSLATE2) <= set(listed):
        names.append(CTRANSLATE2[0])
    elif not any(name.endswith(".safetensors") for name in names):
        raise _unreachable(source, "it holds no .safetensors, and no other weights are read")
    part.mkdir()
    done = 0
    for name in names:
        one = replace(source, url=f"{source.url}/{name}")
        _from_hub(one, part / name, lambda more, _total: on_progress(done + more, None))  # noqa: B023 - called at once
        done += (part / name).stat().st_size
    on_progress(done, done)


@contextmanager
def _hub_errors(source: WeightsSource) -> Iterator[None]:
    """What the Hub's client raises, as one line."""
    from huggingface_hub.errors import HfHubHTTPError

    # The client's HTTP library, whose errors come through, is not the same in all of its versions.
    bases = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception]
    try:
        yield
    except FrameloomError:
        raise
    except (*bases, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this machine's disk, not of the network
            raise
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise _unreachable(source, f"the Hugging Face Hub says: {reason}") from error


def _from_hub(source: WeightsSource, part: Path, on_progress: OnProgress) -> None:
    """Download with the Hub's client, which knows the user's access token."""
    match = HUB_ADDRESS.fullmatch(source.url)
    if match is None or ".." in match["file"].split("/"):
        raise _unreachable(source, f"{source.url!r} is not hf://owner/repository[@revision]/file")
    import huggingface_hub

    folder = part.with_name(f"{part.name}.hub")
    try:
        with _hub_errors(source):
            found = huggingface_hub.hf_hub_download(
                match["repo"],
                match["file"],
                revision=match["revision"],
                local_dir=folder,
                tqdm_class=_hub_bar(source, on_progress),
                etag_timeout=_TIMEOUT_SECONDS,
            )
            size = Path(found).stat().st_size
            if size != (source.size_bytes or size) or not 0 < size <= MAX_BYTES:
                raise _wrong_size(source, f"{size:,}")
            Path(found).replace(part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
