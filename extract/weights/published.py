"""Published weights by their tags: from what a user writes under ``weights:`` to a file on this machine.

A tag names a `WeightsSource` of the backbone. Its file is fetched once into the cache folder, as
``<first 16 digits of the hash>-<name>`` and with ``<that>.sha256`` beside it, in the form that ``sha256sum -c`` reads.
Its name appears there only after its bytes were found to have the published hash. Where only the first digits of a hash
are published, those are compared; where none are, the first download is trusted and its hash is kept beside it, which
every later download must have, also after the file itself was deleted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, WeightsSource, digest_of
from .cache import cache_folder, explained, file_sha256, held_alone, read_sha256, sync_folder, write_small
from .transfer import OnProgress, discard, transfer

_NAME_LENGTH = 120
_KEY_LENGTH = 16
_SHA256_LENGTH = 64


def find_source(sources: Sequence[WeightsSource], weights: str | Path) -> WeightsSource | None:
    """The published weights that a user's words name by tag. A `Path`, or a string with a slash, is never a tag."""
    return next((source for source in sources if isinstance(weights, str) and source.tag == weights), None)


def local_weights(
    backbone: str, sources: Sequence[WeightsSource], weights: str | Path, *, on_progress: OnProgress | None = None
) -> Path:
    """The file that a tag or a path names; a tag's is fetched where it is not yet here.

    Raises:
        ConfigError: neither a tag nor a file, or it cannot be fetched.
        InputError: what was fetched is not what was published.
    """
    source = find_source(sources, weights)
    if source is not None:
        return fetch_weights(source, on_progress=on_progress)
    return _existing_file(backbone, sources, weights)


def weights_sha256(backbone: str, sources: Sequence[WeightsSource], weights: str | Path) -> str:
    """The whole SHA-256 of the file that a tag or a path names. Fetches nothing.

    Raises:
        ConfigError: neither a tag nor a file, or a tag whose hash is only known once it was fetched.
    """
    source = find_source(sources, weights)
    if source is None:
        return file_sha256(_existing_file(backbone, sources, weights))
    known = known_sha256(source)
    if known is None:
        raise ConfigError(
            f"the weights {source.tag!r} of the backbone {backbone!r} are not on this machine, and their whole hash is"
            f" not published: run `frameloom weights fetch {backbone} {source.tag}` first"
        )
    return known


def known_sha256(source: WeightsSource) -> str | None:
    """The published SHA-256, or that of the first download where no more than a part of it is published."""
    if source.sha256 is not None and len(source.sha256) == _SHA256_LENGTH:
        return source.sha256
    try:
        kept = _record_of(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.match(r"([0-9a-f]{64})  ", kept)
    return match.group(1) if match and match.group(1).startswith(source.sha256 or "") else None


def cached_weights(source: WeightsSource) -> Path | None:
    """The file in the cache, None where it was not fetched. It is not read; `fetch_weights` checks its hash."""
    path = _path_of(source)
    return path if known_sha256(source) is not None and path.is_file() else None


def fetch_weights(source: WeightsSource, *, on_progress: OnProgress | None = None) -> Path:
    """The file in the cache, with the hash that it must have; fetched where it is missing or damaged.

    Args:
        source: what to fetch.
        on_progress: called with the bytes that are here and, where the server says it, the bytes in all.

    Raises:
        ConfigError: no connection, or the server does not give the file; the message says how to do without.
        InputError: what came is not what was published.
        OutOfSpaceError: the disk is full; the next call goes on from here.
    """
    path = _path_of(source)
    if _is_good(source, path):  # asked without the lock, so that a cache that others filled may be read-only
        return path
    with held_alone(path):
        if not _is_good(source, path):
            _fetch(source, path, on_progress or _silent)
    return path


def _fetch(source: WeightsSource, path: Path, on_progress: OnProgress) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        transfer(source, part, on_progress=on_progress)
        found = read_sha256(part)
        _check(source, found)
        write_small(_record_of(source), f"{found}  {path.name}\n")
        part.replace(path)
        sync_folder(path.parent)
    except InputError:  # wrong bytes are no beginning of the right ones
        discard(part)
        raise
    except OSError as error:
        raise explained(error, path.parent) from error


def _check(source: WeightsSource, found: str) -> None:
    """Raises InputError where what came does not have the hash that it must have."""
    expected = known_sha256(source) or source.sha256 or ""
    if found.startswith(expected):
        return
    if source.sha256 is not None and source.sha256.startswith(expected):
        advice = "try again, and if it comes again, tell us: the file was changed, on its way or by its publisher"
        raise InputError(
            f"{source.url} is not what was published: its sha256 is {found}, expected {expected}; removed; {advice}"
        )
    raise InputError(
        f"{source.url} has changed: its sha256 is {found}, and the first download had {expected}; removed; "
        f"if the new file is wanted, delete {_record_of(source)} and fetch it again"
    )


def _is_good(source: WeightsSource, path: Path) -> bool:
    expected = known_sha256(source)
    return expected is not None and path.is_file() and file_sha256(path) == expected


def _existing_file(backbone: str, sources: Sequence[WeightsSource], weights: str | Path) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    tags = [source.tag for source in sources]
    if not tags:
        raise ConfigError(
            f"the weights of the backbone {backbone!r} are not a file: {path}; this backbone has no published weights"
            " that could be named by a tag"
        )
    raise ConfigError(
        f"the weights of the backbone {backbone!r} are neither a file nor a tag: {path}; its tags are"
        f" {', '.join(tags)} ({nearest(path.name, tags)})"
    )


def _path_of(source: WeightsSource) -> Path:
    key = source.sha256 or f"url-{digest_of(source.url)}"
    return cache_folder() / f"{key[:_KEY_LENGTH]}-{_file_name(source)}"


def _record_of(source: WeightsSource) -> Path:
    path = _path_of(source)
    return path.with_name(f"{path.name}.sha256")


def _file_name(source: WeightsSource) -> str:
    """A plain name for the file, whatever the address holds: no folder, no dot at its head, no odd character."""
    last = re.split(r"[/\\]", unquote(source.filename or urlsplit(source.url).path))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-_NAME_LENGTH:].lstrip(".-")
    return plain or "weights"


def _silent(_done: int, _total: int | None) -> None:
    pass
