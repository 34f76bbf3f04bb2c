"""Answers and classes as numbers: which a head knows, and how often it is right.

Legend: B batch, A answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..._vocabulary import InputError

UNKNOWN = -1
"""The number of an answer that a head does not know: it teaches nothing, and every guess at it is wrong."""


class AnswerList:
    """The answers, or names of classes, that a head chooses from.

    Args:
        names: in the order of the head's outputs.

    Raises:
        InputError: no name, or one that is there twice.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise InputError("the list of answers is empty: a head needs at least one to choose from")
        self.names = tuple(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if len(self._numbers) < len(self.names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"the answer {twice!r} is in the list twice; give each once")

    @classmethod
    def most_frequent(cls, answers: Iterable[str], *, most: int) -> AnswerList:
        """The `most` answers that come most often, as published for open-ended questions; of equals the first one."""
        return cls([name for name, _ in Counter(answers).most_common(most)])

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, answers: Iterable[str]) -> Int[Tensor, " B"]:
        """The number of each answer; -1 where the head does not know it."""
        return torch.tensor([self._numbers.get(each, UNKNOWN) for each in answers], dtype=torch.int64)


def accuracy(scores: Float[Tensor, "B A"], answers: Int[Tensor, " B"]) -> float:
    """The share of right answers, from 0 to 1; unknown ones count, as wrong.

    Raises:
        InputError: no answer at all.
    """
    if not len(answers):
        raise InputError("there are no answers to be right about: give at least one")
    return float((scores.argmax(dim=1) == answers).double().mean())
