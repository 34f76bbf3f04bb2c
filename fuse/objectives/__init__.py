"""Training objectives: functions of embeddings or of their similarities."""

from .gather import first_sample, gathered, whole_batch
from .masked import RegressionLoss, masked_regression
from .masked_words import CLS_ID, MASK_ID, SEP_ID, UNKNOWN_ID, Replacement, focal_loss, mask_tokens, tokens_at_random
from .matching import (
    contrast_with_targets,
    drawn_negatives,
    frame_mean,
    matching_loss,
    negative_weights_by_similarity,
    shared_targets,
)
from .nce import combinatorial_loss, compared_samples, margin_softmax_loss, norm_softmax_loss, unit, zero_of
from .pairwise import (
    cluster_contrast,
    dot_products,
    margin_softmax_of_products,
    max_margin,
    max_margin_loss,
    mil_nce,
    mil_nce_loss,
    negative_weights,
    sum_over_pairs,
)
from .ranking import Reading, exclusive_nce, ranking_loss
from .transport import word_patch_distance

__all__ = [
    "CLS_ID",
    "MASK_ID",
    "SEP_ID",
    "UNKNOWN_ID",
    "Reading",
    "RegressionLoss",
    "Replacement",
    "cluster_contrast",
    "combinatorial_loss",
    "compared_samples",
    "contrast_with_targets",
    "dot_products",
    "drawn_negatives",
    "exclusive_nce",
    "first_sample",
    "focal_loss",
    "frame_mean",
    "gathered",
    "margin_softmax_loss",
    "margin_softmax_of_products",
    "mask_tokens",
    "masked_regression",
    "matching_loss",
    "max_margin",
    "max_margin_loss",
    "mil_nce",
    "mil_nce_loss",
    "negative_weights",
    "negative_weights_by_similarity",
    "norm_softmax_loss",
    "ranking_loss",
    "shared_targets",
    "sum_over_pairs",
    "tokens_at_random",
    "unit",
    "whole_batch",
    "word_patch_distance",
    "zero_of",
]
