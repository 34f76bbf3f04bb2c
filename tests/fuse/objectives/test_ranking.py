"""Tri-modal alignment and masked words, against the equations written out sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from frameloom.fuse.objectives.masked_words import MASK_ID, focal_loss, mask_tokens, tokens_at_random
from frameloom.fuse.objectives.ranking import exclusive_nce, ranking_loss
from torch.nn import functional

TAU = 0.5


def vectors(num: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num)
    return [torch.randn(num, 6, generator=generator, dtype=torch.float64) for _ in range(4)]


def written_out(anchor: torch.Tensor, positives: list[torch.Tensor]) -> tuple[float, list[float]]:
    """Equation 2 summed over samples, and of equation 3 the sum over samples for each kind of positive."""
    first, second = 0.0, []
    num = len(anchor)
    for own in positives:
        for i in range(num):
            others = sum(math.exp(anchor[i] @ each[j] / TAU) for each in positives for j in range(num) if j != i)
            score = math.exp(anchor[i] @ own[i] / TAU)
            first -= math.log(score / (score + others))
        columns = [[math.exp(own[i] @ anchor[j] / TAU) for j in range(num)] for i in range(num)]
        second.append(-sum(math.log(row[i] / sum(row)) for i, row in enumerate(columns)))
    return first, second


def test_the_paper_sums_dot_products() -> None:
    anchor, *positives = vectors()
    first, second = written_out(anchor, positives)
    loss = exclusive_nce(anchor, positives, temperature=TAU, reading="paper")
    assert loss.item() == pytest.approx(first + sum(second), rel=1e-9)


def test_the_code_averages_cosines_and_the_kinds_of_equation_3() -> None:
    given = vectors()
    anchor, *positives = (functional.normalize(each, dim=1) for each in given)
    first, second = written_out(anchor, positives)
    loss = exclusive_nce(given[0], given[1:], temperature=TAU)
    assert loss.item() == pytest.approx(first / 5 + sum(second) / 15, rel=1e-9)


def test_one_sample_has_nothing_to_be_told_from() -> None:
    given = [each.requires_grad_() for each in vectors(1)]
    loss = exclusive_nce(given[0], given[1:], temperature=TAU)
    loss.backward()
    assert loss.item() == 0.0
    assert all(each.grad.isfinite().all() for each in given)


def test_a_positive_is_no_negative_of_the_other_positives() -> None:
    anchor, first, second, third = (each.requires_grad_() for each in vectors())
    exclusive_nce(anchor, [first, second, third], temperature=TAU).backward()
    # Moving any positive of a sample towards its anchor never raises the loss.
    for each in (first, second, third):
        assert ((each.grad * anchor.detach()).sum(dim=1) <= 1e-12).all()


@pytest.mark.parametrize("reading", ["code", "paper"])
def test_ranking_is_a_hinge_of_each_pair(reading) -> None:
    anchor, complete, masked, _ = vectors()
    if reading == "code":
        x, y, z = (functional.normalize(each, dim=1) for each in (anchor, complete, masked))
    else:
        x, y, z = anchor, complete, masked
    hinges = [max(0.0, 5 - (x[i] @ y[i] - x[i] @ z[i]).item() / TAU) for i in range(5)]
    wanted = sum(hinges) / (5 if reading == "code" else 1)
    loss = ranking_loss(anchor, complete, masked, margin=5.0, temperature=TAU, reading=reading)
    assert loss.item() == pytest.approx(wanted, rel=1e-9)


class TestFocal:
    def test_without_gamma_it_is_cross_entropy(self) -> None:
        scores, words = torch.randn(6, 9), torch.arange(6)
        torch.testing.assert_close(focal_loss(scores, words, gamma=0.0), functional.cross_entropy(scores, words))
        sums = focal_loss(scores, words, gamma=0.0, reduction="sum")
        torch.testing.assert_close(sums, functional.cross_entropy(scores, words, reduction="sum"))

    def test_no_masked_word_is_zero_with_a_gradient(self) -> None:
        scores = torch.randn(0, 9, requires_grad=True)
        loss = focal_loss(scores, torch.zeros(0, dtype=torch.int64))
        loss.backward()
        assert loss.item() == 0.0
        assert scores.grad.shape == (0, 9)

    def test_a_sure_guess_has_a_finite_gradient(self) -> None:
        scores = torch.tensor([[200.0, -200.0]], requires_grad=True)
        for words in (torch.tensor([0]), torch.tensor([1])):
            loss = focal_loss(scores, words)
            (grad,) = torch.autograd.grad(loss, scores)
            assert loss.isfinite()
            assert grad.isfinite().all()


class TestMaskedWords:
    def test_eight_in_ten_are_masked_one_is_any_word_one_stays(self) -> None:
        ids = torch.full((200, 100), 7)
        chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        made = mask_tokens(ids, chosen, vocabulary=1000, generator=torch.Generator().manual_seed(0))
        assert torch.equal(made[~chosen], ids[~chosen])
        shares = [(made[chosen] == value).float().mean().item() for value in (MASK_ID, 7)]
        assert shares == pytest.approx([0.8, 0.1], abs=0.02)
        assert len(made[chosen].unique()) > 500

    def test_always_masked_is_an_option(self) -> None:
        ids = torch.arange(12).view(2, 6)
        assert torch.equal(mask_tokens(ids, ids > 3, vocabulary=20, replacement="mask"), ids.where(ids <= 3, MASK_ID))

    def test_marks_of_beginning_and_end_are_never_chosen(self) -> None:
        mask = torch.arange(8) < torch.tensor([8, 5, 2, 1, 0])[:, None]
        chosen = torch.stack(
            [tokens_at_random(mask, share=0.9, generator=torch.Generator().manual_seed(seed)) for seed in range(50)]
        )
        wanted = (torch.arange(8) < torch.tensor([8, 5, 2, 1, 0])[:, None] - 1) & (torch.arange(8) > 0)
        assert torch.equal(chosen.any(dim=0), wanted)
        none = tokens_at_random(mask, share=1e-9, generator=torch.Generator().manual_seed(0))
        assert not none.any()
