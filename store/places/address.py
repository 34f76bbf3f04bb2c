"""The place that a path or an address names: a folder, or a prefix of an object store that fsspec can reach."""

from __future__ import annotations

import re
from pathlib import Path

from ..._vocabulary import ConfigError
from .local import LocalPlace
from .remote import RemotePlace

Place = LocalPlace | RemotePlace
_LOCAL = ("file", "local")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.I | re.S)
_COLLAPSED = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]", re.I)


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
