"""Contrast with frames and matching: padded frames, shared answers, negatives that belong together, the generator."""

from __future__ import annotations

import torch
from frameloom.fuse.objectives import (
    contrast_with_targets,
    drawn_negatives,
    frame_mean,
    matching_loss,
    negative_weights_by_similarity,
    shared_targets,
)


def test_padded_frames_are_not_in_the_mean() -> None:
    frames = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    mean = frame_mean(frames, mask)
    torch.testing.assert_close(mean[0], frame_mean(frames[:1, :2])[0])
    assert not mean[1].any()


def test_the_mean_of_cosines_is_not_the_cosine_with_the_mean() -> None:
    frames = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    assert torch.equal(frame_mean(frames), torch.tensor([[0.5, 0.5]]))


def test_captions_of_one_video_share_the_answer() -> None:
    targets = shared_targets(torch.tensor([7, 3, 7]))
    assert torch.equal(targets, torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]))
    similarities = torch.zeros(3, 3)
    torch.testing.assert_close(contrast_with_targets(similarities, targets), torch.tensor(3.0).log())


def test_pairs_that_belong_together_are_never_drawn() -> None:
    same = shared_targets(torch.tensor([0, 0, 1])) > 0
    weights = negative_weights_by_similarity(10 * torch.eye(3), same)
    assert not weights[same].any()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([drawn_negatives(weights, generator=generator) for _ in range(50)])
    assert (drawn[:, :2] == 2).all()
    assert set(drawn[:, 2].tolist()) == {0, 1}


def test_the_more_similar_is_drawn_more_often_and_no_number_may_be() -> None:
    similarities = torch.tensor([[9.0, 4.0, 0.0], [0.0, torch.nan, 0.0]])
    weights = negative_weights_by_similarity(similarities, torch.tensor([[True, False, False], [True, False, False]]))
    assert weights[0, 1] > 50 * weights[0, 2] > 0
    assert weights.isfinite().all()
    assert (weights[1, 1:] > 0).all()


def test_draws_follow_the_generator_and_leave_the_global_one_alone() -> None:
    weights, state = torch.rand(6, 9), torch.get_rng_state()
    first, second, other = (
        drawn_negatives(weights, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_pairs_are_those_that_match() -> None:
    logits = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [9.0, -9.0]])
    assert matching_loss(logits, num_matching=1) < 1e-6
    assert matching_loss(logits, num_matching=2) > 5
