"""The numbers behind the plots: loss curves, and attention between modalities in a project's model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError
from ...train import read_checkpoint
from ...train.data import stored_clips
from ...train.evaluate import ModalityAttention, check_fuses, mean_attention
from ..project import Project, in_split
from ..search import trained
from ..sync import ClipState, loaded_model, take_state


class Losses(Settings):
    """A training's loss."""

    folder: Path
    steps: tuple[tuple[int, float], ...]
    """(Step from 1, loss) of every step; empty for a checkpoint that kept only the means of its epochs."""
    terms: Mapping[str, tuple[tuple[int, float], ...]]
    """The loss of every step by term."""
    epoch_means: tuple[float, ...]
    """Mean loss of every epoch that is done."""
    steps_per_epoch: float


def training_losses(folder: Path) -> Losses:
    """The loss curve of a checkpoint's folder, or of the training that is under way there.

    Raises:
        ConfigError: there is no training, or none that kept its losses.
    """
    from ...train import read_losses

    read = None
    with suppress(ConfigError):
        read = read_losses(folder)
    if not read:
        return epoch_losses(folder)
    by_epoch: dict[int, list[float]] = {}
    terms: dict[str, list[tuple[int, float]]] = {}
    for one in read:
        by_epoch.setdefault(one.epoch, []).append(one.loss)
        for name, value in one.terms.items():
            terms.setdefault(name, []).append((one.step, value))
    longest = max(map(len, by_epoch.values()))
    return Losses(
        folder=folder,
        steps=tuple((one.step, one.loss) for one in read),
        terms={name: tuple(points) for name, points in terms.items()},
        epoch_means=tuple(float(np.mean(losses)) for losses in by_epoch.values() if len(losses) == longest),
        steps_per_epoch=longest,
    )


def epoch_losses(folder: Path) -> Losses:
    """The mean loss of each epoch, which a finished checkpoint keeps.

    Raises:
        ConfigError: no checkpoint, or one that was not trained here.
    """
    run = read_checkpoint(folder).provenance.get("training") or {}
    epochs = tuple(run.get("epoch_losses", ()))
    if not epochs:
        raise ConfigError(f"the checkpoint in {folder} was not trained here: it keeps no losses")
    return Losses(folder=folder, steps=(), terms={}, epoch_means=epochs, steps_per_epoch=run["step"] / len(epochs))


def project_attention(project: Project, *, num_clips: int, split: str | None, block: int = 1) -> ModalityAttention:
    """Attention in the project's model over the first clips (by hash of their names) that have all modalities.

    Raises:
        FrameloomError: no model yet.
        InputError: a model without fused attention, no such block, or no clip that has all its modalities.
    """
    from ...train.data import ClipDataset, collate

    if split not in (None, "train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    checkpoint = trained(project)
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)
    check_fuses(model, block)

    def has_all(clip: ClipState) -> bool:
        return all(clip.inputs.has(name) for name in model.modalities)

    state = take_state(project)
    having = [clip for clip in state.clips if (split is None or in_split(clip.clip.split, split)) and has_all(clip)]
    if not having:
        where = "" if split is None else f" of the split {split!r}"
        raise InputError(f"no clip{where} has all of {', '.join(model.modalities)}: attention needs at least one")
    chosen = sorted(having, key=lambda clip: clip.clip.clip_id)[:num_clips]
    examples = stored_clips(project.store, [clip.inputs for clip in chosen])
    dataset = ClipDataset(examples, **state.resolved.limits, training=False)
    # A batch of one clip each, so that no token is padding.
    batches = (collate([dataset[index]]) for index in range(len(dataset)))
    return mean_attention(model, batches, block=block)
