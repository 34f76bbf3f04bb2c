"""TODO door of train/data."""

from . import frame_indices
from .batch import FeatureBatch
from .clips import ClipDataset, ClipSample, ClipSamples, PreparedClip, TrainingData, collate
from .features import FeatureDataset, FeatureSample, collate_features
from .loader import FeatureLoader, feature_stream
from .narrated import NarratedDataset, NarratedVideo, StoredWords
from .narration import AudioShift
from .order import EpochOrder, ShardBatchSampler
from .plan import FeatureClip
from .published import PublishedClip, PublishedClips, read_published_clips
from .rows import UniformWindow
from .tokens import frames_of_span, join_streams, rows_of_span

__all__ = [
    "AudioShift",
    "ClipDataset",
    "ClipSample",
    "ClipSamples",
    "EpochOrder",
    "FeatureBatch",
    "FeatureClip",
    "FeatureDataset",
    "FeatureLoader",
    "FeatureSample",
    "NarratedDataset",
    "NarratedVideo",
    "PreparedClip",
    "PublishedClip",
    "PublishedClips",
    "ShardBatchSampler",
    "StoredWords",
    "TrainingData",
    "UniformWindow",
    "collate",
    "collate_features",
    "feature_stream",
    "frame_indices",
    "frames_of_span",
    "join_streams",
    "read_published_clips",
    "rows_of_span",
]
