"""Training a fusion model: the call, what it reports, and what it leaves.

The loop itself is in `trainer.py`, which imports torch and accelerate; this module does not, and is read fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .result import FitResult, TrainProgress

if TYPE_CHECKING:
    from ...fuse import FusionModel
    from ..data.clips import TrainingData
    from ..recipes.base import Recipe


def fit(
    model: FusionModel,
    dataset: TrainingData,
    *,
    recipe: Recipe,
    folder: str | Path,
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
        device: "cpu", "cuda" for the GPU (of each process, under `accelerate launch`), or "cuda:N" for one of several.
        provenance: data for JSON, kept in the checkpoint: what the model was trained on. Another provenance
            is another training.
        on_progress: called after every step.
        validate: called with the model after every epoch; gives metrics by name, finite numbers.
        resume: False begins anew; a checkpoint that the folder holds stays until the new one replaces it.
        num_workers: processes that read clips.

    Raises:
        ConfigError: no clips, a device or precision that is not there, a batch size that the processes cannot share
            evenly, or a folder that holds another training.
        InputError: a sample has numbers that are not finite, or rows of a wrong width; it is named. No step was taken
            with its batch, and the training goes on from its last saved state once the sample is repaired. Or a metric
            of `validate` is not finite.
        DivergedError: the loss or the weights are not finite; the last saved state is intact.
        IntegrityError: a saved state, or its loss curve, is damaged.
        OutOfSpaceError: the disk is full; the last saved state is intact.
    """
    from .trainer import Trainer

    trainer = Trainer(
        model,
        dataset,
        recipe=recipe,
        folder=Path(folder),
        device=device,
        provenance=provenance or {},
        on_progress=on_progress,
        validate=validate,
        num_workers=num_workers,
    )
    return trainer.run(resume=resume)
