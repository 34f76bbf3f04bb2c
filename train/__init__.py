"""Learning and judging: clips as a model reads them, recipes, the training loop, checkpoints, metrics.

Importing it loads neither torch nor the models: each call that needs them loads them.
"""

from ._crosstask import (
    CrossTaskTask,
    StepLabels,
    read_crosstask_annotation,
    read_crosstask_tasks,
    read_crosstask_videos,
    read_step_set,
)
from ._feature_batch import FeatureBatch
from ._feature_data import FeatureDataset, FeatureSample, collate_features
from ._feature_loader import FeatureLoader, feature_stream
from ._feature_plan import FeatureClip
from ._feature_rows import UniformWindow
from ._fit_result import DivergedError, FitResult, TrainProgress
from ._order import EpochOrder, ShardBatchSampler
from .checkpoints import CheckpointMeta, checkpoint_digest, load_checkpoint, read_checkpoint, save_checkpoint
from .dataset import ClipDataset, ClipSample, ClipSamples, PreparedClip, TrainingData, collate
from .embed import embed_batch
from .fit import fit
from .localisation import (
    LocalisationRecall,
    Localised,
    Localiser,
    StepVideo,
    label_steps,
    localisation_recall,
    predict_steps,
)
from .long_videos import ClipEmbeddings, LongVideos, LongVideoStrategy, embed_test_clips
from .losses import StepLoss, read_losses
from .metrics import COMPLETE_TEST_SETS, RetrievalMetrics, retrieval_metrics, retrieval_ranks, retrieval_table
from .narrated import NarratedDataset, NarratedVideo, StoredWords
from .official import load_official, read_official
from .published import PublishedClip, PublishedClips, read_published_clips
from .recipes import Recipe, get_recipe, list_recipes

__all__ = [
    "COMPLETE_TEST_SETS",
    "CheckpointMeta",
    "ClipDataset",
    "ClipEmbeddings",
    "ClipSample",
    "ClipSamples",
    "CrossTaskTask",
    "DivergedError",
    "EpochOrder",
    "FeatureBatch",
    "FeatureClip",
    "FeatureDataset",
    "FeatureLoader",
    "FeatureSample",
    "FitResult",
    "LocalisationRecall",
    "Localised",
    "Localiser",
    "LongVideoStrategy",
    "LongVideos",
    "NarratedDataset",
    "NarratedVideo",
    "PreparedClip",
    "PublishedClip",
    "PublishedClips",
    "Recipe",
    "RetrievalMetrics",
    "ShardBatchSampler",
    "StepLabels",
    "StepLoss",
    "StepVideo",
    "StoredWords",
    "TrainProgress",
    "TrainingData",
    "UniformWindow",
    "checkpoint_digest",
    "collate",
    "collate_features",
    "embed_batch",
    "embed_test_clips",
    "feature_stream",
    "fit",
    "get_recipe",
    "label_steps",
    "list_recipes",
    "load_checkpoint",
    "load_official",
    "localisation_recall",
    "predict_steps",
    "read_checkpoint",
    "read_crosstask_annotation",
    "read_crosstask_tasks",
    "read_crosstask_videos",
    "read_losses",
    "read_official",
    "read_published_clips",
    "read_step_set",
    "retrieval_metrics",
    "retrieval_ranks",
    "retrieval_table",
    "save_checkpoint",
]
