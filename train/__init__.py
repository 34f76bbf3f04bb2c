"""Learning and judging: clips as a model reads them, recipes, the training loop, checkpoints, metrics.

Importing it loads neither torch nor the models: each call that needs them loads them.
"""

from ._feature_data import FeatureDataset, FeatureSample, collate_features
from ._feature_loader import FeatureLoader, feature_stream
from ._feature_plan import FeatureClip
from ._feature_rows import UniformWindow
from ._order import EpochOrder, ShardBatchSampler
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
    "EpochOrder",
    "FeatureClip",
    "FeatureDataset",
    "FeatureLoader",
    "FeatureSample",
    "FitResult",
    "PreparedClip",
    "Recipe",
    "RetrievalMetrics",
    "ShardBatchSampler",
    "TrainProgress",
    "UniformWindow",
    "checkpoint_digest",
    "collate",
    "collate_features",
    "embed_batch",
    "feature_stream",
    "fit",
    "get_recipe",
    "list_recipes",
    "load_checkpoint",
    "read_checkpoint",
    "retrieval_metrics",
    "retrieval_ranks",
    "save_checkpoint",
]
