"""Masks of patches. The golden cases hold the draws of the authors' generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from frameloom.fuse.miles.masks import batch_mask, clip_mask

HOW = {"grid": (14, 14), "masking": "block", "ratio": 0.75, "tube": True, "min_patches": 16, "fill_up": False}


def clip(seed: int = 0, num_frames: int = 4, **how: object) -> np.ndarray:
    return clip_mask(random.Random(seed), num_frames=num_frames, **{**HOW, **how})


@pytest.mark.parametrize("masking", ["block", "random"])
def test_a_tube_is_the_same_in_each_frame_and_without_it_they_differ(masking) -> None:
    tube, apart = clip(masking=masking), clip(masking=masking, tube=False)
    assert (tube == tube[0]).all()
    assert len({frame.tobytes() for frame in apart}) == 4


@pytest.mark.parametrize(("ratio", "num_masked"), [(0.65, 127), (0.75, 147), (0.85, 166)])
def test_how_many_patches_are_masked(ratio, num_masked) -> None:
    assert (clip(masking="random", ratio=ratio).sum(axis=1) == num_masked).all()
    counts = [clip(seed, ratio=ratio).sum(axis=1)[0] for seed in range(40)]
    assert max(counts) == num_masked
    assert min(counts) < num_masked
    assert {clip(seed, ratio=ratio, fill_up=True).sum(axis=1)[0] for seed in range(40)} == {num_masked}


@pytest.mark.parametrize(("ratio", "num_frames", "num_masked"), [(0.25, 4, 1), (0.5, 4, 2), (0.1, 4, 1), (0.9, 2, 1)])
def test_whole_frames_are_masked_and_one_is_left(ratio, num_frames, num_masked) -> None:
    mask = clip(masking="frame", ratio=ratio, num_frames=num_frames)
    assert sorted(mask.all(axis=1)) == sorted([True] * num_masked + [False] * (num_frames - num_masked))
    assert (mask == mask[:, :1]).all()


def batch(frames: torch.Tensor, *, step: int = 0, first_sample: int = 0, **how: object) -> torch.Tensor:
    return batch_mask(frames, seed=3, step=step, first_sample=first_sample, **{**HOW, **how})


def test_a_sample_keeps_its_mask_in_any_share_of_the_batch() -> None:
    frames = torch.ones(4, 4, dtype=torch.bool)
    whole = batch(frames)
    assert torch.equal(torch.cat([batch(frames[:2]), batch(frames[:2], first_sample=2)]), whole)
    assert not torch.equal(batch(frames, step=1), whole)
    assert len({mask.numpy().tobytes() for mask in whole}) == 4


def test_padding_is_not_masked_and_one_frame_has_single_patches() -> None:
    frames = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert not batch(frames)[0, 2:].any()
    counts = batch(torch.ones(40, 1, dtype=torch.bool)).sum(dim=(1, 2))
    assert set(counts.tolist()) == {147}


def test_no_sample_has_no_mask() -> None:
    assert batch(torch.ones(0, 4, dtype=torch.bool)).shape == (0, 4, 196)
