"""Training data: clips of a feature store or in memory, narrated videos, their order, and the loader."""

from .clips import ClipDataset, ClipFeatures, ClipSample, PreparedClip, QuestionFeatures, TrainingData, collate
from .features import FeatureDataset
from .frames import FrameBatch, FrameClip, FrameLoader, FrameOptions
from .loader import FeatureLoader, Positioned, Together
from .narrated import NarratedDataset, NarratedVideo
from .narration import AudioShift
from .order import EpochOrder, ShardBatchSampler
from .rows import UniformWindow
from .stored import TrainingSet, clip_data, question_data, sample_batch, stored_clips, training_data
from .tokens import frames_of_span, join_streams, rows_of_span

__all__ = [
    "AudioShift",
    "ClipDataset",
    "ClipFeatures",
    "ClipSample",
    "EpochOrder",
    "FeatureDataset",
    "FeatureLoader",
    "FrameBatch",
    "FrameClip",
    "FrameLoader",
    "FrameOptions",
    "NarratedDataset",
    "NarratedVideo",
    "Positioned",
    "PreparedClip",
    "QuestionFeatures",
    "ShardBatchSampler",
    "Together",
    "TrainingData",
    "TrainingSet",
    "UniformWindow",
    "clip_data",
    "collate",
    "frames_of_span",
    "join_streams",
    "question_data",
    "rows_of_span",
    "sample_batch",
    "stored_clips",
    "training_data",
]
