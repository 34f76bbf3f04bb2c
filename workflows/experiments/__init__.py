"""Experiments with a trained project: retrieval on held-out clips, the demo, plots, ablations."""

from .evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
