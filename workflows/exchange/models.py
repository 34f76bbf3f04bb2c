"""A published model, from its authors' file, as a checkpoint that `model.checkpoint` names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._settings import Settings
from ..._vocabulary import InputError
from ...train import load_official, save_checkpoint


class ImportedModel(Settings):
    """Where a model lies now."""

    folder: str
    model: str
    digest: str
    """Its identity in fingerprints of embeddings."""

    def lines(self) -> list[str]:
        return [f"{self.folder}: {self.model}", f"use it with model: {{checkpoint: {self.folder}}} in frameloom.yaml"]


def import_model(
    path: Path, folder: Path, *, model: str, config: Path | None = None, options: Sequence[str] = ()
) -> ImportedModel:
    """Take the weights of an authors' file.

    Args:
        path: a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file.
        folder: a new one, for the checkpoint.
        model: the registered name of the model.
        config: the authors' configuration as JSON, where the file does not hold it.
        options: of the model, ``NAME=VALUE``, for a file of weights alone: they say its shape.

    Raises:
        UnknownNameError: no such model.
        ConfigError: a configuration that the model does not have.
        InputError: a folder that is not empty, a file that cannot be read, or weights that are not the model's.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not an empty folder: name a new one")
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"option {option!r:.80}: give NAME=VALUE, such as video_dim=1024")
        with suppress(ValueError):
            value = json.loads(value)
        given[name] = value
    found = load_official(path, model=model, config=None if config is None else _read(config), **given)
    meta = save_checkpoint(found, folder, provenance={"imported_from": path.name})
    return ImportedModel(folder=str(folder), model=meta.model, digest=meta.digest)


def _read(config: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{config}: no JSON document can be read there ({error}): give the authors' config") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{config}: it holds no JSON object: give the authors' config.json")
    return found
