"""Judging a model: embeddings, retrieval metrics, step localisation, long videos, attention between modalities."""

from .attention import ModalityAttention, check_fuses, mean_attention
from .bootstrap import intervals, redrawn
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
from .long_videos import LongVideos, embed_test_clips
from .metrics import COMPLETE_TEST_SETS, RetrievalMetrics, retrieval_metrics, retrieval_ranks, retrieval_table
from .rerank import NOT_SCORED, Ensemble, candidates, pair_scorer, reordered, reranked, two_way_metrics

__all__ = [
    "COMPLETE_TEST_SETS",
    "NOT_SCORED",
    "Ensemble",
    "LocalisationRecall",
    "Localised",
    "Localiser",
    "LongVideos",
    "ModalityAttention",
    "RetrievalMetrics",
    "StepVideo",
    "candidates",
    "check_fuses",
    "embed_batch",
    "embed_test_clips",
    "intervals",
    "label_steps",
    "localisation_recall",
    "mean_attention",
    "pair_scorer",
    "predict_steps",
    "redrawn",
    "reordered",
    "reranked",
    "retrieval_metrics",
    "retrieval_ranks",
    "retrieval_table",
    "two_way_metrics",
]
