"""The training loop: fitting a model, what a training leaves, checkpoints, loss curves, published models."""

from .checkpoints import CheckpointMeta, checkpoint_digest, load_checkpoint, read_checkpoint, save_checkpoint
from .fit import fit
from .losses import StepLoss, read_losses
from .official import load_official, read_official
from .result import DivergedError, FitResult, TrainProgress

__all__ = [
    "CheckpointMeta",
    "DivergedError",
    "FitResult",
    "StepLoss",
    "TrainProgress",
    "checkpoint_digest",
    "fit",
    "load_checkpoint",
    "load_official",
    "read_checkpoint",
    "read_losses",
    "read_official",
    "save_checkpoint",
]
