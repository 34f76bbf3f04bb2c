"""Experiments with a trained project: retrieval on held-out clips, the demo, plots, ablations."""

from .evaluate import Evaluation, evaluate
from .tasks import TaskEvaluation, evaluate_task

__all__ = ["Evaluation", "TaskEvaluation", "evaluate", "evaluate_task"]
