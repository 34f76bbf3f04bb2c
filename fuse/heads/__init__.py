"""Heads of downstream tasks: answers, options, order of frames."""

from .classifiers import AnswerHead, FrameOrderHead, Pooler, choice_loss

__all__ = ["AnswerHead", "FrameOrderHead", "Pooler", "choice_loss"]
