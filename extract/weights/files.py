"""Reading a file of weights and putting them into a network. Every mismatch is named; nothing in a file is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..._files import file_sha256, file_stamp, is_settled
from ..._vocabulary import InputError
from ..._weights import read_weights_file

_SHOWN = 5
_KNOWN: dict[str, tuple[str, str]] = {}
# Names under which containers hold the weights, and the prefix that a wrapper for several devices adds to each key.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, by name, on the CPU.

    Raises:
        InputError: the file is of another kind, damaged, or holds anything but tensors.
    """
    loaded: Mapping[str, Any] = read_weights_file(path)
    for name in _WRAPPERS:
        if isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    import torch

    tensors = {str(key).removeprefix(_PREFIX): value for key, value in loaded.items() if torch.is_tensor(value)}
    if not tensors:
        raise InputError(f"weights in {path}: the file holds no tensors")
    return tensors


def known_file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read once by this process as long as the file does not change."""
    name, before = str(path.absolute()), path.stat()
    stamp, known = _KNOWN.get(name, ("", ""))
    if stamp != file_stamp(before):
        known = file_sha256(path)
        if is_settled(before) and file_stamp(path.stat()) == file_stamp(before):
            _KNOWN[name] = (file_stamp(before), known)
    return known


def load_into(network: Any, state_dict: Mapping[str, Any], *, ignored_prefixes: Collection[str] = ()) -> None:
    """Copy weights into a network.

    Args:
        network: a torch module.
        state_dict: tensors by the network's key names, with or without ``module.`` before them.
        ignored_prefixes: keys that the network has no use for, such as a classifier's.

    Raises:
        InputError: keys are missing or not expected, shapes differ, or values are not finite.
    """
    given = {key.removeprefix(_PREFIX): value for key, value in state_dict.items()}
    given = {key: value for key, value in given.items() if not key.startswith(tuple(ignored_prefixes))}
    wanted = network.state_dict()
    # A count of training batches is not a weight, and old checkpoints do not have it.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    problems = [f"{key} is missing" for key in missing]
    problems += [f"{key} is not expected" for key in given if key not in wanted]
    for key in sorted(given.keys() & wanted.keys()):
        if given[key].shape != wanted[key].shape:
            problems.append(f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}")
        elif given[key].is_floating_point() and given[key].numel() and not _is_finite(given[key]):
            problems.append(f"{key} holds values that are not finite")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"these weights are not for {type(network).__name__}: {'; '.join(problems[:_SHOWN])}{more}")
    network.load_state_dict(given, strict=False)


def _is_finite(values: Any) -> bool:
    """Whether all values are: the extremes say so without a mask as large as the values."""
    least, largest = values.aminmax()
    return bool(least.isfinite() and largest.isfinite())


def digest_of_weights(state_dict: Mapping[str, Any]) -> str:
    """The identity of weights given as tensors and not as a file: ``state_dict:<SHA-256 of names and values>``."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return f"state_dict:{digest.hexdigest()}"
