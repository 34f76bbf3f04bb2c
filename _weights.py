"""Read files of weights without executing anything in them, and choose the device that a network computes on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._vocabulary import ConfigError, InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def read_weights_file(path: Path) -> dict[str, Any]:
    """The content of a file of weights, its tensors on the CPU.

    Args:
        path: weights as ``.safetensors``, or a ``.pt``, ``.pth`` or ``.bin`` file: weights alone or with what their
            authors keep with them ("state_dict", "config", ...).

    Raises:
        InputError: no such file, one of another kind, damaged, or with more in it than tensors, numbers and text.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"weights in {path}: allowed are {', '.join(SUFFIXES)} files")
    if not path.is_file():
        raise InputError(f"no weights at {path}: fetch the file, and name it")
    import torch
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a pickle of another protocol is read, or refused, as any other
            is_safe = path.suffix == ".safetensors"
            found = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as problem:  # the bytes of a stranger may trip the reader anywhere
        reason = str(problem).split("\n", 1)[0]
        raise InputError(
            f"weights in {path} are damaged, or more than tensors, numbers and text: {reason}; fetch the file again"
        ) from problem
    if not isinstance(found, Mapping):
        raise InputError(f"weights in {path}: expected a mapping of names to tensors, found {type(found).__name__}")
    return dict(found)


def check_device(name: str, *, where: str = "device") -> str:
    """A device that a network can compute on: "cpu", "cuda" (the first GPU) or "cuda:N".

    Args:
        name: of the device.
        where: what the message calls it.

    Raises ConfigError for another name, or a GPU that is not there.
    """
    if name == "cpu":
        return name
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError(f"{where} {name!r}: allowed are cpu, cuda and cuda:N (the GPU with that number)")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) >= count:
        there = f"GPUs 0 to {count - 1}" if count > 1 else "one GPU, cuda:0" if count else "no GPU that torch can use"
        raise ConfigError(f"{where} {name}: this machine has {there}; choose another, or cpu")
    return name
