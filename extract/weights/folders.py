"""Folders of weights, as transformers saves them: a network, its configuration and its tokenizer together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..._vocabulary import ConfigError, InputError
from ..._weights import SUFFIXES
from .files import known_file_sha256

COUNTED_SUFFIXES = (*SUFFIXES, ".json", ".txt")
_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


def folder_sha256(folder: Path) -> str:
    """The SHA-256 of the lines ``<sha256>  <name>`` of the files that can decide numbers, in order of their names.

    Those are weights, configurations and vocabularies directly in the folder. Texts for people and weights for other
    libraries, which a download brings along, are not among them.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in COUNTED_SUFFIXES and path.is_file())
    if not files:
        raise ConfigError(f"the folder {folder} holds no weights: give a folder as transformers saves a model")
    lines = "".join(f"{known_file_sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def weights_digest_of(path: Path) -> str:
    """`folder_sha256` of a folder, the SHA-256 of a file."""
    return folder_sha256(path) if path.is_dir() else known_file_sha256(path)


def weights_file(path: Path) -> Path:
    """The file of weights in a folder; a file itself.

    Raises:
        ConfigError: the folder has none, or several of which none has a usual name.
    """
    if not path.is_dir():
        return path
    usual = [path / name for name in _USUAL_NAMES if (path / name).is_file()]
    found = usual or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if usual or len(found) == 1:
        return found[0]
    what = f"several weights ({', '.join(file.name for file in found[:3])}, ...)" if found else "no weights"
    raise ConfigError(f"the folder {path} holds {what}: it needs one {' or '.join(_USUAL_NAMES)}")


def check_configuration(path: Path, wanted: Mapping[str, Any], *, section: str | None = None) -> None:
    """Hold what shapes do not show of a network against the folder's ``config.json``, where it says it.

    Args:
        path: a folder; of a file there is nothing to check.
        wanted: what the network is built with.
        section: the part of the configuration that describes it.

    Raises:
        InputError: the configuration is damaged, or describes another network.
    """
    file = path / "config.json"
    if not file.is_file():
        return
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        stated = stated.get(section, stated) if section else stated
        differing = [name for name, value in wanted.items() if stated.get(name, value) != value]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file} is damaged: {error}; fetch the folder again") from error
    if differing:
        what = ", ".join(f"{name} is {stated[name]!r}, not {wanted[name]!r}" for name in differing)
        raise InputError(f"the weights in {path} are of another network: {what}")
