"""Progress reports of a training, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..._vocabulary import ExitCode, FrameloomError
from .losses import StepLoss


class DivergedError(FrameloomError):
    """The loss or the weights are no longer finite numbers. The last saved state is intact."""

    exit_code = ExitCode.FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress(StepLoss):
    """The progress of a training after one step, whose own numbers `read_losses` gives afterwards too.

    Attributes:
        epochs: epochs in all.
        steps: steps in all.
        seconds_left: at the mean pace of this call.
        samples_per_second: items of the training data, over all processes: reading, the step and all else included.
        metrics: what `validate` gave after the last epoch; empty before.
    """

    epochs: int
    steps: int
    seconds_left: float
    samples_per_second: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The result of a training.

    Attributes:
        folder: of the checkpoint, which keeps the loss of every step (`read_losses`).
        digest: of the checkpoint, see `checkpoint_digest`.
        steps: steps done, over all calls that it took.
        loss: mean loss of the last epoch, over whole batches.
        epoch_losses: mean loss of every epoch.
        metrics: what `validate` gave after the last epoch.
        resumed_at: the step that this call began at: 0 for a fresh start, `steps` when there was nothing left to do.
        samples_per_second: the mean of this call, see `TrainProgress`; 0 where it did no step.
    """

    folder: Path
    digest: str
    steps: int
    loss: float
    epoch_losses: tuple[float, ...]
    metrics: Mapping[str, float]
    resumed_at: int
    samples_per_second: float
