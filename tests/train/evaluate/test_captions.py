"""Metrics of captions against values that were computed by hand from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from frameloom import InputError
from frameloom.train.evaluate import bleu4, cider, meteor


class TestBleu:
    def test_the_same_words_are_one_and_others_nothing(self) -> None:
        assert bleu4(["a dog runs over grass"], [["A dog runs over grass."]]) == pytest.approx(1.0)
        assert bleu4(["a dog runs over grass"], [["the cat sleeps there now"]]) == 0.0

    def test_by_hand(self) -> None:
        # 1 to 4 words in a row; of the first reference alone 5/6, 3/5, 1/4 and none are right. All have 6 words.
        found = bleu4(["the cat is on the mat"], [["the cat lay on the mat", "there is the cat is on"]])
        grams = [6 / 6, 5 / 5, 3 / 4, 1 / 3]  # with the second: "is", "cat is", "is on", "the cat is", "the cat is on"
        assert found == pytest.approx(math.prod(grams) ** 0.25)

    def test_a_word_counts_as_often_as_one_reference_has_it_and_short_captions_pay(self) -> None:
        # "a" is right twice of five times; 2 in a row: "a a" never. Without the fourth length all is 0.
        assert bleu4(["a a a a a"], [["a b a c d"]]) == 0.0
        found = bleu4(["a b c d"], [["a b c d e f g h"]])
        assert found == pytest.approx(math.exp(1 - 8 / 4))

    def test_counts_are_of_all_captions_together(self) -> None:
        found = bleu4(["a b c d e", "v w x y z"], [["a b c d e"], ["v w x y q"]])
        assert found == pytest.approx(((9 / 10) * (7 / 8) * (5 / 6) * (3 / 4)) ** 0.25)


class TestMeteor:
    def test_by_hand(self) -> None:
        # All six words match in three pieces: "on the mat", "sat", "the cat".
        (found,) = meteor(["on the mat sat the cat"], [["the cat sat on the mat"]])
        assert found == pytest.approx(1 - 0.5 * (3 / 6) ** 3)
        # Four of five words, of a reference of four; in one piece and one alone.
        (found,) = meteor(["a red ball rolls away"], [["a red ball away"]])
        precision, recall = 4 / 5, 1.0
        mean = 10 * precision * recall / (recall + 9 * precision)
        assert found == pytest.approx(mean * (1 - 0.5 * (2 / 4) ** 3))

    def test_the_best_reference_counts_and_nothing_in_common_is_nothing(self) -> None:
        found = meteor(["a dog", "a dog"], [["one cat", "a dog"], ["one cat", "two"]])
        assert found.tolist() == pytest.approx([1 - 0.5 / 8, 0.0])


class TestCider:
    def test_by_hand(self) -> None:
        # Two clips. "a" is said of both and weighs nothing; every other piece weighs log 2.
        found = cider(["a dog", "a cat"], [["a dog"], ["a cow"]])
        # First: one word and one pair agree wholly, there are no longer ones: (1 + 1 + 0 + 0) / 4. Second: none.
        assert found.tolist() == pytest.approx([10 * 0.5, 0.0])

    def test_lengths_and_repetitions_are_paid_for(self) -> None:
        found = cider(["dog dog dog", "cat"], [["dog"], ["cat"]])
        # One word: min(3, 1) * 1 / (3 * 1) = 1/3 of 1, the others nothing; two words longer.
        assert found[0] == pytest.approx(10 * (1 / 3) / 4 * math.exp(-4 / 72))
        assert found[1] == pytest.approx(10 / 4)

    def test_references_are_averaged(self) -> None:
        found = cider(["red dog", "cat"], [["red dog", "blue cow"], ["cat"]])
        assert found[0] == pytest.approx(10 * 0.5 / 2)

    def test_one_caption_alone_cannot_be_weighed(self) -> None:
        with pytest.raises(InputError, match="two captions or more"):
            cider(["a"], [["a"]])


@pytest.mark.parametrize("metric", [bleu4, meteor, cider])
@pytest.mark.parametrize(
    ("captions", "references"),
    [([], []), (["a", "b"], [["a"]]), (["a", "b"], [["a"], []]), (["a", "b"], [["a"], ["!"]])],
)
def test_what_cannot_be_compared_is_refused(metric, captions, references) -> None:
    with pytest.raises(InputError):
        metric(captions, references)


@pytest.mark.parametrize("metric", [meteor, cider])
def test_an_empty_caption_is_nothing(metric) -> None:
    assert np.asarray(metric(["", "b"], [["a"], ["b"]]))[0] == 0.0
