"""Judging a model: embeddings, retrieval metrics, step localisation, long videos, attention between modalities."""

from .attention import ModalityAttention, check_fuses, mean_attention
from .bootstrap import intervals, redrawn, redrawn_means
from .captions import bleu4, cider, meteor
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
from .qa import QuestionText, TextOnly, chosen_answers
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
    "QuestionText",
    "RetrievalMetrics",
    "StepVideo",
    "TextOnly",
    "bleu4",
    "candidates",
    "check_fuses",
    "chosen_answers",
    "cider",
    "embed_batch",
    "embed_test_clips",
    "intervals",
    "label_steps",
    "localisation_recall",
    "mean_attention",
    "meteor",
    "pair_scorer",
    "predict_steps",
    "redrawn",
    "redrawn_means",
    "reordered",
    "reranked",
    "retrieval_metrics",
    "retrieval_ranks",
    "retrieval_table",
    "two_way_metrics",
]
