"""TODO door of train/evaluate."""

from .embed import embed_batch
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
from .metrics import COMPLETE_TEST_SETS, RetrievalMetrics, retrieval_metrics, retrieval_ranks, retrieval_table

__all__ = [
    "COMPLETE_TEST_SETS",
    "ClipEmbeddings",
    "LocalisationRecall",
    "Localised",
    "Localiser",
    "LongVideoStrategy",
    "LongVideos",
    "RetrievalMetrics",
    "StepVideo",
    "embed_batch",
    "embed_test_clips",
    "label_steps",
    "localisation_recall",
    "predict_steps",
    "retrieval_metrics",
    "retrieval_ranks",
    "retrieval_table",
]
