"""Training objectives: functions of embeddings or of their similarities."""

from .gather import gathered, whole_batch
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

__all__ = [
    "cluster_contrast",
    "combinatorial_loss",
    "compared_samples",
    "dot_products",
    "gathered",
    "margin_softmax_loss",
    "margin_softmax_of_products",
    "max_margin",
    "max_margin_loss",
    "mil_nce",
    "mil_nce_loss",
    "negative_weights",
    "norm_softmax_loss",
    "sum_over_pairs",
    "unit",
    "whole_batch",
    "zero_of",
]
