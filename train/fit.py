"""Training a fusion model: the call, what it reports, and what it leaves.

The loop itself is in `_loop.py`, which imports torch and accelerate; this module does not, so that it can be read fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._vocabulary import ExitCode, FrameloomError

if TYPE_CHECKING:
    from ..fuse import FusionModel
    from .dataset import TrainingData
    from .recipes import Recipe


class DivergedError(FrameloomError):
    """The loss or the weights are no longer finite numbers. The last saved state is intact."""

    exit_code = ExitCode.FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """Where a training stands, after one step. `read_losses` gives the same numbers of every step, afterwards too.

    Attributes:
        epoch: epochs begun, from 1.
        epochs: epochs in all.
        step: steps done, over all epochs.
        steps: steps in all.
        loss: of this step: of the whole batch, also where several processes share it.
        terms: of the loss, by name.
        learning_rate: of this step.
        seconds_left: at the mean pace of this call.
        metrics: what `validate` gave after the last epoch; empty before.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    terms: Mapping[str, float]
    learning_rate: float
    seconds_left: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a training left.

    Attributes:
        folder: of the checkpoint, which keeps the loss of every step (`read_losses`).
        digest: of the checkpoint, see `checkpoint_digest`.
        steps: steps done, over all calls that it took.
        loss: mean loss of the last epoch, over whole batches.
        epoch_losses: mean loss of every epoch.
        metrics: what `validate` gave after the last epoch.
        resumed_at: the step that this call began at: 0 for a fresh start, `steps` when there was nothing left to do.
    """

    folder: Path
    digest: str
    steps: int
    loss: float
    epoch_losses: tuple[float, ...]
    metrics: Mapping[str, float]
    resumed_at: int


def fit(
    model: FusionModel,
    dataset: TrainingData,
    *,
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    provenance: Mapping[str, Any] | None = None,
    on_progress: Callable[[TrainProgress], None] | None = None,
    validate: Callable[[FusionModel], Mapping[str, float]] | None = None,
    resume: bool = True,
    num_workers: int = 0,
) -> FitResult:
    """Train a model and leave a checkpoint in `folder`.

    A training that was stopped, by whatever, goes on from its last saved state when it is called again in the same way,
    and on a CPU ends with the same bits as one that was never stopped, the loss of every step included; one that was
    finished returns at once, its weights in `model`. The order of clips and the captions drawn depend on the recipe's
    seed and the epoch alone. The caller's random generators are left as they were. An incomplete last batch is dropped,
    unless it is the only one.

    Several processes, each with an equal share of every batch, compute what one computes with the whole batch, to
    rounding: negatives are gathered, batch statistics and padding are those of the whole batch.

    Args:
        model: trained in place.
        dataset: the clips, with `training=True`.
        recipe: how. Its model and limits are the caller's business.
        folder: of the checkpoint, and of the saved states in `progress/` while training lasts.
        device: "cpu", or "cuda" for the GPU (of each process, under `accelerate launch`).
        provenance: JSON-ready data kept in the checkpoint: what the model was trained on. Another provenance
            is another training.
        on_progress: called after every step.
        validate: called with the model after every epoch.
        resume: False forgets what the folder holds.
        num_workers: processes that read clips.

    Raises:
        ConfigError: no clips, a device or precision that is not there, or a folder that holds another training.
        InputError: a sample has numbers that are not finite, or rows of a wrong width; it is named. No step was taken
            with its batch, and the training goes on from its last saved state once the sample is repaired.
        DivergedError: the loss or the weights are not finite; the last saved state is intact.
        IntegrityError: a saved state, or its loss curve, is damaged.
        OutOfSpaceError: the disk is full; the last saved state is intact.
    """
    from ._loop import Trainer

    trainer = Trainer(
        model,
        dataset,
        recipe=recipe,
        folder=folder,
        device=device,
        provenance=provenance or {},
        on_progress=on_progress,
        validate=validate,
        num_workers=num_workers,
    )
    return trainer.run(resume=resume)
