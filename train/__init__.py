"""Learning and judging: clips as a model reads them, recipes, the training loop, checkpoints, metrics.

Importing it loads neither torch nor the models: each call that needs them loads them.
"""

from .checkpoints import CheckpointMeta, checkpoint_digest, load_checkpoint, read_checkpoint, save_checkpoint
from .dataset import ClipDataset, ClipSample, ClipSamples, PreparedClip, collate
from .embed import embed_batch
from .fit import DivergedError, FitResult, TrainProgress, fit
from .metrics import RetrievalMetrics, retrieval_metrics, retrieval_ranks
from .recipes import Recipe, get_recipe, list_recipes

__all__ = [
    "CheckpointMeta",
    "ClipDataset",
    "ClipSample",
    "ClipSamples",
    "DivergedError",
    "FitResult",
    "PreparedClip",
    "Recipe",
    "RetrievalMetrics",
    "TrainProgress",
    "checkpoint_digest",
    "collate",
    "embed_batch",
    "fit",
    "get_recipe",
    "list_recipes",
    "load_checkpoint",
    "read_checkpoint",
    "retrieval_metrics",
    "retrieval_ranks",
    "save_checkpoint",
]
