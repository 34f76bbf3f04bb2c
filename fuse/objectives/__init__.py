"""Training objectives: functions of embeddings or of their similarities."""

from .gather import first_sample, gathered, whole_batch
from .masked import RegressionLoss, masked_regression, masked_words_loss
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
    "RegressionLoss",
    "cluster_contrast",
    "combinatorial_loss",
    "compared_samples",
    "dot_products",
    "first_sample",
    "gathered",
    "margin_softmax_loss",
    "margin_softmax_of_products",
    "masked_regression",
    "masked_words_loss",
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
