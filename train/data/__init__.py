"""TODO door of train/data."""

from . import frame_indices
from .batch import FeatureBatch
from .clips import ClipDataset, ClipFeatures, ClipSample, ClipSamples, PreparedClip, TrainingData, collate
from .features import FeatureDataset, FeatureSample, collate_features
from .loader import FeatureLoader, feature_stream
from .narrated import NarratedDataset, NarratedVideo
from .narration import AudioShift
from .order import EpochOrder, ShardBatchSampler
from .published import PublishedClip, PublishedClips, read_published_clips
from .rows import UniformWindow
from .stored import StoredExamples, TrainingSet, training_data
from .tokens import frames_of_span, join_streams, rows_of_span

__all__ = [
    "AudioShift",
    "ClipDataset",
    "ClipFeatures",
    "ClipSample",
    "ClipSamples",
    "EpochOrder",
    "FeatureBatch",
    "FeatureDataset",
    "FeatureLoader",
    "FeatureSample",
    "NarratedDataset",
    "NarratedVideo",
    "PreparedClip",
    "PublishedClip",
    "PublishedClips",
    "ShardBatchSampler",
    "StoredExamples",
    "TrainingData",
    "TrainingSet",
    "UniformWindow",
    "collate",
    "collate_features",
    "feature_stream",
    "frame_indices",
    "frames_of_span",
    "join_streams",
    "read_published_clips",
    "rows_of_span",
    "training_data",
]
