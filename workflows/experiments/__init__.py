"""TODO door of workflows/experiments."""

from .evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
