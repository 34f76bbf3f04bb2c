"""Folders that hold a whole model, as transformers saves it: weights, configuration and what prepares its inputs.

Nothing of a folder runs: tensors are read from ``.safetensors`` alone, and a configuration that asks for code, for
another model's weights or for kernels of the Hub is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._vocabulary import ConfigError, InputError
from .folders import folder_sha256
from .published import cached_weights, find_source, weights_sha256

_OWN_ATTENTION = (None, "eager", "sdpa")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with a model, at the time when it had this digest.

    Attributes:
        path: where it lies.
        digest: `folder_sha256`.
        revision: of the model on the Hub; None for a folder that a user names.
    """

    path: Path
    digest: str
    revision: str | None = None


def model_folder(backbone: str, weights: str | Path) -> ModelFolder:
    """The folder that a user's words name, which must be here. Fetches nothing.

    Raises:
        ConfigError: no folder, a model of the Hub that was not fetched, or no weights that can be read.
        InputError: a configuration that is damaged, or asks for more than this module reads.
    """
    source = find_source((), weights)
    if source is not None:
        digest = weights_sha256(backbone, (), weights)
        path = cached_weights(source)
        if path is None:
            raise ConfigError(
                f"the weights {weights} are not on this machine any more: run `frameloom weights fetch {backbone}"
                f" {weights}`"
            )
        found = ModelFolder(path, digest, source.url.rpartition("@")[2])
    else:
        path = Path(weights)
        if not path.is_dir():
            raise ConfigError(
                f"the weights of the backbone {backbone!r} are not a folder: {path}; give a folder as transformers"
                " saves a model, or hf://OWNER/NAME@REVISION"
            )
        found = ModelFolder(path, folder_sha256(path))
    check_model_folder(found.path)
    return found


def check_model_folder(path: Path) -> None:
    """Raise ConfigError or InputError, in one line, for a folder that is not read."""
    if not (path / "config.json").is_file():
        raise ConfigError(f"the folder {path} holds no config.json: give a folder as transformers saves a model")
    if (path / "adapter_config.json").is_file():
        raise ConfigError(f"the folder {path} holds an adapter, not a model: merge it into its model, and save that")
    for file in sorted(path.glob("*config.json")):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is damaged: {error}; fetch the folder again") from error
        if not isinstance(data, dict):
            raise InputError(f"{file} is damaged: it holds no settings; fetch the folder again")
        for key, value in settings_of(data):
            if key == "auto_map":
                raise InputError(
                    f"{file} asks for code of its own (auto_map), which is never run: give a model of transformers' own"
                )
            if key.strip("_").startswith("attn_implementation") and value not in _OWN_ATTENTION:
                raise InputError(f"{file} asks for {key} {value!r}, which may be code of others: take that line out")
    if not any(path.glob("*.safetensors")):
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
        what = f"weights as pickles alone ({', '.join(others[:3])})" if others else "no weights"
        raise ConfigError(
            f"the folder {path} holds {what}: only .safetensors are read, which transformers' save_pretrained writes"
        )


def settings_of(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested settings, with its value."""
    if isinstance(data, dict):
        yield from data.items()
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from settings_of(value)
