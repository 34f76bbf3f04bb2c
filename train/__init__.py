"""Learning and judging: recipes, the training loop, checkpoints. Its other doors: `data`, `evaluate` and `protocols`.

Importing it loads neither torch nor the models: each call that needs them loads them.
"""

from .loop import (
    CheckpointMeta,
    DivergedError,
    FitResult,
    StepLoss,
    TrainProgress,
    checkpoint_digest,
    fit,
    load_checkpoint,
    load_official,
    read_checkpoint,
    read_losses,
    read_official,
    save_checkpoint,
)
from .recipes import FrameRecipe, Recipe, get_recipe, list_recipes

__all__ = [
    "CheckpointMeta",
    "DivergedError",
    "FitResult",
    "FrameRecipe",
    "Recipe",
    "StepLoss",
    "TrainProgress",
    "checkpoint_digest",
    "fit",
    "get_recipe",
    "list_recipes",
    "load_checkpoint",
    "load_official",
    "read_checkpoint",
    "read_losses",
    "read_official",
    "save_checkpoint",
]
