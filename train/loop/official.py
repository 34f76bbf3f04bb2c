"""Published models from the authors' own files. Nothing in a file is executed; no class of theirs is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._weights import check_device, read_weights_file

if TYPE_CHECKING:
    from ...fuse import FusionModel


def read_official(path: str | Path) -> dict[str, Any]:
    """A checkpoint file of the authors as `from_official` takes it, with its tensors on the CPU.

    Args:
        path: a ``.pt``, ``.pth`` or ``.bin`` file, weights alone or with what the authors keep with them
            ("state_dict", "config", ...), or weights as ``.safetensors``.

    Raises:
        InputError: no such file, one of another kind, damaged, or with more in it than tensors, numbers and text.
    """
    return read_weights_file(Path(path))


def load_official(
    path: str | Path,
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
        ConfigError: an option or a configuration that the model does not have, or a device that is not there.
        InputError: the file cannot be read, or its weights are not the model's.
    """
    import torch

    from ...fuse import create_model

    check_device(device)
    checkpoint = read_official(path)
    # A configuration builds a model of its own; the one that is asked to do so needs no memory then.
    brings_shape = config is not None or isinstance(checkpoint.get("config"), Mapping)
    with torch.device("meta" if brings_shape else "cpu"):
        asked = create_model(model, **options)
    return asked.from_official(checkpoint, config).to(device).eval()
