"""Published weights by their tags: from what a user writes under ``weights:`` to a file on this machine.

A tag names a `WeightsSource` of the backbone. Its file is downloaded once into the cache folder, as
``<first 16 digits of the hash>-<name>`` and with ``<that>.sha256`` next to it, in the form that ``sha256sum -c`` reads.
Its name appears there only after its bytes were found to have the published hash. Where only the first digits of a hash
are published, those are compared; where none are, the first download is trusted and its hash is kept next to it, which
every later download must have, also after the file itself was deleted. Weights that come as a Python package are copied
from it, and checked, in the same way.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..._files import cache_folder, file_lock, publish_text, sync_folder, sync_path, write_errors
from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, WeightsSource, digest_of
from .download import CACHE_ADVICE, HUB_MODEL, OnProgress, download
from .files import known_file_sha256
from .folders import weights_digest_of
from .packages import SCHEME, copy_from_package, package_file

_NAME_LENGTH = 120
_KEY_LENGTH = 16
_SHA256_LENGTH = 64


def find_source(sources: Sequence[WeightsSource], weights: str | Path) -> WeightsSource | None:
    """The published weights that a user's words name: by tag, or a model of the Hub by ``hf://owner/name@revision``.

    A `Path`, or another string with a slash, is never a tag.

    Raises:
        ConfigError: an address of the Hub without a revision, or of something else than a model.
    """
    if isinstance(weights, str) and weights.startswith("hf://"):
        if (match := HUB_MODEL.fullmatch(weights)) is None:
            raise ConfigError(
                f"weights {weights!r}: a model of the Hugging Face Hub is named hf://OWNER/NAME@REVISION, the revision"
                " a commit's hash or a tag, so that it stays the same model"
            )
        licence = f"see https://huggingface.co/{match['repo']}"
        return WeightsSource(tag=weights, url=weights, sha256=None, licence=licence)
    return next((source for source in sources if isinstance(weights, str) and source.tag == weights), None)


_ORIGINS = {
    "bert_base_uncased": "hf://google-bert/bert-base-uncased@REVISION",
    "clip_vit_b32": "hf://openai/clip-vit-base-patch32@REVISION",
    "clip_vit_l14": "hf://openai/clip-vit-large-patch14@REVISION",
    "distilbert_base_uncased": "hf://distilbert/distilbert-base-uncased@REVISION",
    "word2vec": "the path of GoogleNews-vectors-negative300.bin, from https://code.google.com/archive/p/word2vec",
}


def origin(backbone: str) -> str:
    """What to give as the weights of a backbone that no tag names any for."""
    known = _ORIGINS.get(backbone.removesuffix("_text"), "")
    if known.startswith("hf:"):
        return f"{known} (a commit's hash, or a tag), or the path of that model's folder on this machine"
    return known or "the path of weights on this machine"


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
        return known_file_sha256(_existing_file(backbone, sources, weights))
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
        kept = record_path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.match(r"([0-9a-f]{64})  ", kept)
    return match.group(1) if match and match.group(1).startswith(source.sha256 or "") else None


def is_at_hand(source: WeightsSource) -> bool:
    """Whether weights can be had without a connection: fetched before, or in a package that is installed."""
    return cached_weights(source) is not None or (source.url.startswith(SCHEME) and package_file(source) is not None)


def cached_weights(source: WeightsSource) -> Path | None:
    """The file in the cache, None where it was not fetched. It is not read; `fetch_weights` checks its hash."""
    path = cached_path(source)
    return path if known_sha256(source) is not None and path.exists() else None


def fetch_weights(source: WeightsSource, *, on_progress: OnProgress | None = None) -> Path:
    """The file in the cache, with the hash that it must have; downloaded where it is missing or damaged.

    Args:
        source: what to fetch.
        on_progress: called with the bytes that are here and, where the server says it, the bytes in all.

    Raises:
        ConfigError: no connection, or the server does not give the file; the message says how to do without.
        InputError: what came is not what was published.
        OutOfSpaceError: the disk is full.
    """
    path = cached_path(source)
    if _is_good(source, path):  # without the lock, so that a cache that others filled may be read-only
        return path
    with write_errors(path.parent, advice=CACHE_ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f".{path.name}.lock")):
            if not _is_good(source, path):
                _download(source, path, on_progress or (lambda _done, _total: None))
    return path


def _download(source: WeightsSource, path: Path, on_progress: OnProgress) -> None:
    """Bring the file, and give it its name once it has the hash that it must have."""
    part = path.with_name(f".{path.name}.part")
    remove(part)
    try:
        if source.url.startswith(SCHEME):
            copy_from_package(source, part)
            size = num_bytes(part)
            on_progress(size, size)
        else:
            download(source, part, on_progress=on_progress)
        found = weights_digest_of(part)
        expected = known_sha256(source) or source.sha256 or ""
        if not found.startswith(expected):
            if source.sha256 is None or not source.sha256.startswith(expected):
                raise InputError(
                    f"{source.url} has changed: its sha256 is {found}, and the first download had {expected}; removed;"
                    f" if the new file is wanted, delete {record_path(source)} and fetch it again"
                )
            raise InputError(
                f"{source.url} is not what was published: its sha256 is {found}, expected {expected}; removed; try"
                " again, and if it comes again, tell us: the file was changed, on its way or by its publisher"
            )
        for file in part.iterdir() if part.is_dir() else (part,):
            sync_path(file)
        if path.is_dir() or part.is_dir():  # what is damaged gives way to a file by itself, to a folder it does not
            remove(path)
        publish_text(record_path(source), f"{found}  {path.name}\n")
        part.replace(path)
        sync_folder(path.parent)
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def num_bytes(path: Path) -> int:
    """The size of a file, or of the files of a folder."""
    return sum(each.stat().st_size for each in (path.iterdir() if path.is_dir() else (path,)))


def _is_good(source: WeightsSource, path: Path) -> bool:
    expected = known_sha256(source)
    try:
        return expected is not None and path.exists() and weights_digest_of(path) == expected
    except (ConfigError, FileNotFoundError):  # a folder that another process is removing, or whose removal was cut
        return False


def _existing_file(backbone: str, sources: Sequence[WeightsSource], weights: str | Path) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    tags = [source.tag for source in sources]
    if not tags:
        raise ConfigError(
            f"the weights of the backbone {backbone!r} are not a file: {path}; no tag names published weights of it:"
            f" give {origin(backbone)}"
        )
    raise ConfigError(
        f"the weights of the backbone {backbone!r} are neither a file nor a tag: {path}; its tags are"
        f" {', '.join(tags)} ({nearest(path.name, tags)})"
    )


def cached_path(source: WeightsSource) -> Path:
    """Where a source's file lies in the cache, once it was fetched.

    The name is plain, whatever the address holds: no folder, no dot at its head, no odd character.
    """
    key = source.sha256 or f"url-{digest_of(source.url)}"
    last = re.split(r"[/\\]", unquote(source.filename or urlsplit(source.url).path))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-_NAME_LENGTH:].lstrip(".-")
    return cache_folder("weights") / f"{key[:_KEY_LENGTH]}-{plain or 'weights'}"


def record_path(source: WeightsSource) -> Path:
    """The file next to it that keeps its hash."""
    path = cached_path(source)
    return path.with_name(f"{path.name}.sha256")
