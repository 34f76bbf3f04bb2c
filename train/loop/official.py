"""Published models from the authors' own files. Nothing in a file is executed; no class of theirs is needed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._vocabulary import InputError

if TYPE_CHECKING:
    from ...fuse import FusionModel


def read_official(path: Path) -> dict[str, Any]:
    """A checkpoint file of the authors as `from_official` takes it, with its tensors on the CPU.

    Args:
        path: a ``.pt``, ``.pth`` or ``.bin`` file, weights alone or with what the authors keep beside them
            ("state_dict", "config", ...), or weights as ``.safetensors``.

    Raises:
        InputError: no such file, one of another kind, damaged, or with more in it than tensors, numbers and text.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise InputError(f"{path}: a published model is a .pt, .pth, .bin or .safetensors file")
    if not path.is_file():
        raise InputError(f"no published model at {path}: fetch it from its authors, and name the file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def load_official(
    path: Path,
    *,
    model: str = "everything_at_once",
    config: Mapping[str, Any] | None = None,
    device: str = "cpu",
    **options: Any,
) -> FusionModel:
    """A published model from its authors' file, in evaluation mode.

    Args:
        path: see `read_official`.
        model: the registered name of the model.
        config: the authors' configuration, see the model's `from_official`; None: the file's own.
        device: where the model is put.
        options: of the model, for a file of weights alone: they say its shape. See `create_model`.

    Raises:
        UnknownNameError: no such model.
        ConfigError: an option or a configuration that the model does not have.
        InputError: the file cannot be read, or its weights are not the model's.
    """
    import torch

    from ...fuse import create_model

    checkpoint = read_official(path)
    # A configuration builds a model of its own; the one that is asked to do so needs no memory then.
    brings_shape = config is not None or isinstance(checkpoint.get("config"), Mapping)
    with torch.device("meta" if brings_shape else "cpu"):
        asked = create_model(model, **options)
    return asked.from_official(checkpoint, config).to(device).eval()


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as problem:
        raise InputError(f"{path} is damaged ({problem}); fetch it again") from problem


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a pickle of another protocol is read, or refused, as any other
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # the bytes of a stranger may trip the reader anywhere
        reason = str(problem).split("\n", 1)[0]
        raise InputError(f"{path} is damaged, or holds more than tensors, numbers and text: {reason}") from problem
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds {type(loaded).__name__}; expected a mapping of names to tensors")
    return dict(loaded)
