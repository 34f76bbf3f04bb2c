"""Questions: what can be known without the clip, and which answers a model chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.fuse import Tokens
from frameloom.train.evaluate import QuestionText, TextOnly, chosen_answers, intervals, redrawn_means

LEARNED = [QuestionText(question="what colour", answer=answer) for answer in ("red", "blue", "blue", None)] + [
    QuestionText(question="how many", answer=answer) for answer in ("three", "red", "three", "red", "red")
]


def test_the_majority_and_the_words_of_the_question() -> None:
    known = TextOnly(LEARNED)
    for words, guess in (("what colour", "blue"), ("how many", "red"), ("where", "red")):
        asked = QuestionText(question=words)
        assert (known.majority(asked), known.guess(asked)) == ("red", guess)


def test_among_options_the_most_frequent_of_them_or_the_first() -> None:
    known = TextOnly(LEARNED)
    asked = QuestionText(question="what colour", options=("three", "blue", "red"))
    assert (known.majority(asked), known.guess(asked)) == ("red", "blue")
    assert known.guess(QuestionText(question="what colour", options=("grey", "white"))) == "grey"


def test_nothing_known_is_refused() -> None:
    with pytest.raises(InputError, match="give some with answers"):
        TextOnly([QuestionText(question="what colour")])


class Reader(torch.nn.Module):
    """Scores as bright as the first pixel of a clip says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def question_scores(self, batch):
        brightest = batch["video"].values[:, 0, 0, 0, 0].long()
        return torch.nn.functional.one_hot(brightest, 5).float()


def test_a_model_chooses_of_the_list_alone_and_may_be_blinded() -> None:
    values = torch.zeros(3, 1, 3, 2, 2, dtype=torch.uint8)
    values[:, 0, 0, 0, 0] = torch.tensor([1, 4, 2])
    batches = [{"video": Tokens(values, torch.ones(3, 1).bool())}]
    assert chosen_answers(Reader(), batches, num_answers=None).tolist() == [1, 4, 2]
    assert chosen_answers(Reader(), batches, num_answers=3).tolist() == [1, 0, 2]
    assert chosen_answers(Reader(), batches, num_answers=None, blind=True).tolist() == [0, 0, 0]
    assert chosen_answers(Reader(), [], num_answers=None).tolist() == []


def test_intervals_of_means_draw_whole_videos() -> None:
    right = np.repeat([100.0, 0.0] * 20, 5)
    groups = np.repeat(np.arange(40), 5)
    wide = intervals(redrawn_means({"accuracy": right}, groups))["accuracy"]
    narrow = intervals(redrawn_means({"accuracy": right}, np.arange(200)))["accuracy"]
    assert wide[0] < narrow[0] < 50 < narrow[1] < wide[1]
    # 40 draws of 0 or 100: a standard deviation of 50 / sqrt(40), and 1.96 of it to each side.
    assert wide[1] - wide[0] == pytest.approx(4 * 50 / np.sqrt(40), rel=0.1)
    same = redrawn_means({"one": right, "other": right - 10}, groups)
    assert np.ptp(same["one"] - same["other"]) < 1e-9
    with pytest.raises(InputError):
        redrawn_means({"accuracy": right}, groups[1:])
