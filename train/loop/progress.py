"""The saved state of a training that is under way: all that the next step depends on, in safetensors and JSON.

A state is a folder ``progress/step-<number>`` that appears whole or not at all; older ones are removed after that.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from ..._files import publish_folder, temporary_path
from ..._vocabulary import ConfigError, IntegrityError
from ...fuse import FusionModel
from .checkpoints import load_weights, read_weights, sweep, weights_bytes

FOLDER_NAME = "progress"
_STATE, _MODEL, _OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"


@dataclass(kw_only=True)
class Position:
    """The position of a training.

    Attributes:
        identity: what makes it this training: recipe, model, clips, processes.
        step: steps done.
        loader: what was read of the data, see `FeatureLoader.state_dict`.
        epoch_losses: mean loss of every epoch that is done.
        loss_sum: of the steps of the epoch under way.
        metrics: of the last validation.
        scaler: state of the gradient scaler of fp16 training.
        losses_bytes: of the loss curve, up to this step.
        losses_sha256: of those bytes.
    """

    identity: dict[str, Any]
    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    epoch_losses: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)
    losses_bytes: int = 0
    losses_sha256: str = ""


def save_progress(
    folder: Path, position: Position, *, model: FusionModel, optimizer: Optimizer, groups: NDArray[np.int64]
) -> None:
    """Save a state and remove the older ones. Raises IntegrityError when the weights are not finite.

    It keeps the shard of each clip, (N,), from which the order follows: a compaction may give the clips other shards.
    """
    saved = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": value.detach().cpu().contiguous()
        for index, values in saved["state"].items()
        for name, value in values.items()
    }
    tensors["order.groups"] = torch.from_numpy(groups.astype(np.int32))
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    files = {_MODEL: weights_bytes(model), _OPTIMIZER: save(tensors)}
    state = {
        "position": asdict(position),
        "groups": saved["param_groups"],
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    final = folder / FOLDER_NAME / f"step-{position.step:09d}"
    if not final.exists():
        publish_folder(final, {**files, _STATE: json.dumps(state).encode()}, kind="progress")
    sweep(final.parent, "step-*", keep=final.name)


def load_progress(
    folder: Path, identity: Mapping[str, Any], *, model: FusionModel, optimizer: Optimizer
) -> tuple[Position, NDArray[np.int32]] | None:
    """Restore the last saved state, and the shard of each clip then; None when nothing was saved.

    Raises:
        ConfigError: the state is of another training.
        IntegrityError: it is damaged.
    """
    saved = max((folder / FOLDER_NAME).glob("step-*"), default=None)
    if saved is None:
        return None
    try:
        state = json.loads((saved / _STATE).read_text())
        position, groups, sha256 = Position(**state["position"]), state["groups"], state["sha256"]
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise IntegrityError(
            f"the saved training in {saved} is damaged ({problem!r}). Remove it, or begin anew with resume=False"
        ) from problem
    check_identity(position.identity, identity, folder=folder)
    load_weights(model, read_weights(saved / _MODEL, sha256=sha256[_MODEL]), where=saved)
    tensors = read_weights(saved / _OPTIMIZER, sha256=sha256[_OPTIMIZER])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    values: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            values.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": values, "param_groups": groups})
    return position, tensors["order.groups"].numpy()


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], *, folder: Path) -> None:
    """Raise ConfigError unless a folder's training is the one that is asked for."""
    differing = sorted(key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key))
    if differing:
        raise ConfigError(
            f"{folder} holds a training with another {', '.join(differing)}. "
            "Use another folder, or resume=False to begin anew"
        )


def forget_progress(folder: Path) -> None:
    """Remove every saved state, and the growing loss curve: in one step, for their folder says that training lasts."""
    if (folder / FOLDER_NAME).exists():
        shutil.rmtree((folder / FOLDER_NAME).rename(temporary_path(folder / FOLDER_NAME)), ignore_errors=True)
