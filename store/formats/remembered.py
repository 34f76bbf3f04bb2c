"""What the sidecars of a store said, remembered on this machine, so that a store of very many small shards opens fast.

To parse one sidecar takes a millisecond, and a remote one a request; ten thousand of them take as long as a meal. What
they said is therefore kept in one file of the user's cache, each with the stamp of its sidecar, and a sidecar whose
stamp is another is read. The file is a convenience: missing, damaged or not writable, the sidecars are read, and who
wants to know what lies in the store (`verify`) reads them all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._files import cache_folder, temporary_path
from ..._vocabulary import FrameloomError, canonical_json, digest_of
from .sidecar import COLUMNS, SUFFIX, ShardInfo, Sidecar

# Of the sidecar, its size, and the shard's size.
Stamp = tuple[str, int, int]
Known = dict[Path, tuple[Stamp, Sidecar]]

FROM_SIDECARS = 256  # fewer are read faster than it is worth to remember them
SETTLED_SECONDS = 2.0  # a younger file may change again within one tick of its file system's clock
_FORMAT = 1
_DIGEST_BYTES = 32
_FACTS = ("num_samples", "num_bytes", "sha256", "dim", "dtype", "code_version")


def recall(root: Path | str, folder: Path) -> Known:
    """What is remembered of a store's sidecars, by their paths; nothing where the file is damaged or of another format.

    Args:
        root: the store's folder or address.
        folder: that its paths on this machine begin with.
    """
    import pyarrow as pa

    with suppress(OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException, FrameloomError):
        data = _path(root).read_bytes()
        if hashlib.blake2b(data[_DIGEST_BYTES:], digest_size=_DIGEST_BYTES).digest() != data[:_DIGEST_BYTES]:
            return {}
        with pa.ipc.open_stream(pa.BufferReader(memoryview(data)[_DIGEST_BYTES:])) as stream:
            table = stream.read_all()
        facts = json.loads(table.schema.metadata[b"frameloom"])
        return _known(table.to_pydict(), facts, folder) if facts["format"] == _FORMAT else {}
    return {}


def _known(columns: dict[str, list[Any]], facts: dict[str, Any], folder: Path) -> Known:
    found, first = Known(), 0
    for feature, name, suffix, stamp, spec, *rest in facts["shards"]:
        base = folder / feature
        own = dict(zip(_FACTS, rest, strict=True))
        shard = ShardInfo(feature=feature, name=name, path=base / (name + suffix), spec=facts["specs"][spec], **own)
        found[base / (name + SUFFIX)] = (tuple(stamp), Sidecar(shard, columns, first))
        first += shard.num_samples
    return found


def remember(root: Path | str, known: Mapping[Path, tuple[Stamp, Sidecar]]) -> None:
    """Keep what these sidecars say for the next time. Failing to is no failure."""
    import pyarrow as pa

    with suppress(OSError, FrameloomError, pa.ArrowException):
        path = _path(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = _encoded(known)
        aside = temporary_path(path, "memory")
        try:
            aside.write_bytes(hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def _encoded(known: Mapping[Path, tuple[Stamp, Sidecar]]) -> bytes:
    import pyarrow as pa

    rows = [sidecar.columns for _, sidecar in known.values()]
    specs: dict[str, int] = {}
    shards = []
    for stamp, sidecar in known.values():
        shard = sidecar.shard
        spec = specs.setdefault(shard.spec, len(specs))
        facts = [getattr(shard, name) for name in _FACTS]
        shards.append([shard.feature, shard.name, shard.path.suffix, list(stamp), spec, *facts])
    metadata = {b"frameloom": canonical_json({"format": _FORMAT, "shards": shards, "specs": list(specs)})}
    columns = {name: list(itertools.chain.from_iterable(columns[name] for columns in rows)) for name in COLUMNS}
    table = pa.table(columns, schema=pa.schema(list(COLUMNS.items()), metadata=metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _path(root: Path | str) -> Path:
    name = os.path.abspath(root) if isinstance(root, Path) else root  # noqa: PTH100 - a folder that need not exist
    return cache_folder("sidecars") / f"{digest_of(name)}.arrow"
