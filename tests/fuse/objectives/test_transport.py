"""Optimal transport of words onto patches: what holds whatever the numbers. The golden cases hold the authors'."""

from __future__ import annotations

import torch
from frameloom.fuse.objectives.transport import transport_costs, transport_plan, word_patch_distance


def real(*lengths: int, width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_every_word_gives_and_every_patch_receives_the_same() -> None:
    torch.manual_seed(0)
    words_real, patches_real = real(4, 2, width=4), real(6, 3, width=6)
    costs = transport_costs(torch.randn(2, 4, 8), torch.randn(2, 6, 8))
    plan = transport_plan(costs, words_real=words_real, patches_real=patches_real, beta=0.5, num_iterations=2000)
    torch.testing.assert_close(plan.sum(dim=2), words_real / words_real.sum(dim=1, keepdim=True), atol=2e-3, rtol=0.0)
    torch.testing.assert_close(plan.sum(dim=1), patches_real / patches_real.sum(dim=1, keepdim=True))


def test_what_is_the_same_costs_nothing_and_what_is_opposite_two() -> None:
    x = torch.eye(3)[None]
    everything = real(3, width=3)
    same = word_patch_distance(x, x, words_real=everything, patches_real=everything)
    opposite = word_patch_distance(x[:, :1], -x[:, :1], words_real=everything[:, :1], patches_real=everything[:, :1])
    torch.testing.assert_close(same, torch.zeros(1), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(opposite, torch.full((1,), 2.0))


def test_padding_neither_gives_nor_receives() -> None:
    torch.manual_seed(0)
    words, patches = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    alone = word_patch_distance(
        words[:, :2], patches[:, :4], words_real=real(2, width=2), patches_real=real(4, width=4)
    )
    padded = word_patch_distance(words, patches, words_real=real(2, width=3), patches_real=real(4, width=5))
    torch.testing.assert_close(padded, alone)


def test_a_text_without_words_costs_nothing() -> None:
    words = torch.randn(2, 3, 8, requires_grad=True)
    distances = word_patch_distance(
        words, torch.randn(2, 4, 8), words_real=real(0, 2, width=3), patches_real=real(4, 4, width=4)
    )
    distances.sum().backward()
    assert distances[0] == 0.0
    assert words.grad.isfinite().all()
