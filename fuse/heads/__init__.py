"""Heads of downstream tasks: answers, options, order of frames, linear probes."""

from .answers import UNKNOWN, AnswerList, accuracy
from .classifiers import AnswerHead, FrameOrderHead, Pooler, choice_loss
from .probe import fit_linear_probe

__all__ = [
    "UNKNOWN",
    "AnswerHead",
    "AnswerList",
    "FrameOrderHead",
    "Pooler",
    "accuracy",
    "choice_loss",
    "fit_linear_probe",
]
