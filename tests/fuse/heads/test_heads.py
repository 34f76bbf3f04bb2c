"""Heads of downstream tasks: lists of answers, accuracy, linear probes."""

from __future__ import annotations

import pytest
import torch
from frameloom import InputError
from frameloom.fuse.heads import UNKNOWN, AnswerList, FrameOrderHead, accuracy, choice_loss, fit_linear_probe


class TestAnswers:
    def test_the_most_frequent_have_numbers_and_others_are_unknown(self) -> None:
        answers = AnswerList.most_frequent(["b", "a", "b", "c", "a", "b"], most=2)
        assert (answers.names, len(answers)) == (("b", "a"), 2)
        assert answers.numbers(["a", "c", "b"]).tolist() == [1, UNKNOWN, 0]

    def test_none_or_one_twice(self) -> None:
        with pytest.raises(InputError, match="list of answers is empty"):
            AnswerList([])
        with pytest.raises(InputError, match="'a' is in the list twice"):
            AnswerList(["a", "b", "a"])

    def test_an_unknown_answer_teaches_nothing_and_counts_as_wrong(self) -> None:
        scores = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], requires_grad=True)
        answers = torch.tensor([0, UNKNOWN, 1])
        assert accuracy(scores, answers) == pytest.approx(1 / 3)
        loss = choice_loss(scores, answers)
        torch.testing.assert_close(loss, choice_loss(scores[[0, 2]], answers[[0, 2]]))
        loss.backward()
        assert torch.equal(scores.grad[1], torch.zeros(2))
        nothing = choice_loss(scores[1:2], answers[1:2])
        assert nothing.item() == 0.0
        with pytest.raises(InputError, match="no answers to be right about"):
            accuracy(scores[:0], answers[:0])


class TestProbe:
    def clips(self, num: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        classes = torch.arange(num) % 3
        centres = torch.eye(3, 5) * 4.0 + 100.0  # far from the origin, and of another scale in each direction
        noise = torch.randn(num, 5, generator=generator)
        return (centres[classes] + noise) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0]), classes

    def test_it_reads_classes_off_clips_that_it_did_not_see(self) -> None:
        probe = fit_linear_probe(*self.clips(60, seed=0), num_classes=3)
        vectors, classes = self.clips(90, seed=1)
        assert accuracy(probe(vectors), classes) > 0.9
        again = fit_linear_probe(*self.clips(60, seed=0), num_classes=3)
        assert torch.equal(again.weight, probe.weight)

    def test_unknown_classes_are_left_out(self) -> None:
        vectors, classes = self.clips(60, seed=0)
        some = classes.where(torch.arange(60) < 40, UNKNOWN)
        probe, fewer = (
            fit_linear_probe(*each, num_classes=3) for each in ((vectors, some), (vectors[:40], classes[:40]))
        )
        torch.testing.assert_close(probe.weight, fewer.weight)

    @pytest.mark.parametrize(("classes", "value"), [([0, 3], 0.0), ([-1, -1], 0.0), ([0, 1], torch.nan)])
    def test_what_cannot_be_learned(self, classes, value) -> None:
        with pytest.raises(InputError, match=r"classes 0 to 2|finite"):
            fit_linear_probe(torch.full((2, 4), value), torch.tensor(classes), num_classes=3)


def test_the_order_of_frames_has_as_many_scores_as_there_are_orders() -> None:
    head = FrameOrderHead(6, num_frames=4).eval()
    assert head(torch.randn(2, 4, 6)).shape == (2, 24)
