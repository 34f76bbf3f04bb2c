"""Experiments with a trained project: retrieval on held-out clips, the demo, plots, ablations."""

from .classes import ClassEvaluation, evaluate_classes
from .evaluate import Evaluation, evaluate
from .tasks import TaskEvaluation, evaluate_task

__all__ = ["ClassEvaluation", "Evaluation", "TaskEvaluation", "evaluate", "evaluate_classes", "evaluate_task"]
