"""Questions: how often a model is right, and what is right without looking at the clip.

Legend: Q questions, A answers or options.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from ..._vocabulary import InputError

if TYPE_CHECKING:
    from ...fuse import FusionModel, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionText:
    """The words of a question, without its clip.

    Attributes:
        question: as it is asked.
        options: to choose from; none of an open-ended one.
        answer: the right one; None where it is unknown.
    """

    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None


class TextOnly:
    """What can be known from the training questions without a clip: which answers are frequent.

    Args:
        learned: training questions; those without a known answer say nothing.

    Raises:
        InputError: none of them has an answer.
    """

    def __init__(self, learned: Iterable[QuestionText]) -> None:
        self._counts: Counter[str] = Counter()
        self._of_words: dict[str, Counter[str]] = defaultdict(Counter)
        for one in learned:
            if one.answer is not None:
                self._counts[one.answer] += 1
                self._of_words[one.question][one.answer] += 1
        if not self._counts:
            raise InputError("none of the training questions has a known answer: give some with answers")

    def majority(self, asked: QuestionText) -> str:
        """The most frequent answer to any question; among options the most frequent of them."""
        return self._best(self._counts, asked)

    def guess(self, asked: QuestionText) -> str:
        """The most frequent answer to a question of these words; to new words the majority."""
        return self._best(self._of_words.get(asked.question, self._counts), asked)

    @staticmethod
    def _best(counts: Counter[str], asked: QuestionText) -> str:
        """Of equals the first: as it was learned, or among the options."""
        return max(asked.options, key=lambda one: counts[one]) if asked.options else counts.most_common(1)[0][0]


def chosen_answers(
    model: FusionModel, batches: Iterable[Mapping[str, Tokens]], *, num_answers: int | None, blind: bool = False
) -> Int[np.ndarray, " Q"]:
    """The number of the answer, or option, that a model gives to each question.

    Args:
        model: in evaluation mode.
        batches: of questions, see `QuestionDataset`.
        num_answers: of the list; outputs of the head beyond it are never an answer. None: options.
        blind: show black frames in the place of the clip.

    Raises:
        ConfigError: the model answers no questions.
    """
    import torch

    from ...fuse import Tokens

    device = next(model.parameters()).device

    def shown(batch: Mapping[str, Tokens]) -> Iterator[tuple[str, Tokens]]:
        for name, tokens in batch.items():
            values = torch.zeros_like(tokens.values) if blind and name == "video" else tokens.values
            yield name, Tokens(values.to(device), tokens.mask.to(device))

    found: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for batch in batches:
            scores = model.question_scores(dict(shown(batch)))
            found.append(scores[:, :num_answers].argmax(dim=1).cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0, np.int64)
