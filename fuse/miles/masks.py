"""Which patches of a clip are masked: block-wise, at random or by whole frames, the same in each frame ("tube") or not.

MILES (arXiv 2204.12408), sections 3.2 and 4.3 and table 9. Blocks: Bao et al., "BEiT", microsoft/unilm@768a3c8,
beit/masking_generator.py, with its order of draws. A mask of blocks may hold fewer patches than wanted, and never more:
of 147 of 196 patches it reaches 147 in 82 % of the draws where blocks have 4 patches or more, in 65 % with 16.

Legend: B batch, T frames, N patches of a frame in a grid of h rows and w columns.
"""

from __future__ import annotations

import math
import random
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

Masking = Literal["block", "random", "frame"]
_ATTEMPTS = 10
"""Blocks that are tried before a mask is left as it is."""


def block_mask(
    draws: random.Random,
    *,
    grid: tuple[int, int],
    num_masked: int,
    min_patches: int = 4,
    max_patches: int | None = None,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> NDArray[np.bool_]:
    """A mask (h, w) of rectangles put down until `num_masked` patches are masked, or ten in a row do not fit.

    Args:
        draws: where the draws come from; `random.Random(seed)` gives those of the authors after `random.seed(seed)`.
        grid: h and w.
        num_masked: patches wanted.
        min_patches: smallest area that is drawn for a rectangle.
        max_patches: patches that a rectangle may add; None: `num_masked`.
        aspect: least and largest of height over width.
    """
    height, width = grid
    mask = np.zeros(grid, bool)
    low, high = (math.log(each) for each in aspect)
    while (missing := num_masked - int(mask.sum())) > 0:
        most = min(missing, num_masked if max_patches is None else max_patches)
        for _ in range(_ATTEMPTS):
            area = draws.uniform(min_patches, most)
            ratio = math.exp(draws.uniform(low, high))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w >= width or h >= height:
                continue
            top, left = draws.randint(0, height - h), draws.randint(0, width - w)
            block = mask[top : top + h, left : left + w]
            if 0 < block.size - int(block.sum()) <= most:
                block[:] = True
                break
        else:
            return mask
    return mask


def random_mask(noise: NDArray[np.floating], *, ratio: float) -> NDArray[np.bool_]:
    """The int(ratio N) places of the smallest noise, in its shape."""
    mask = np.zeros(noise.size, bool)
    mask[np.argsort(noise.ravel(), kind="stable")[: int(ratio * noise.size)]] = True
    return mask.reshape(noise.shape)


def clip_mask(
    draws: random.Random,
    *,
    num_frames: int,
    grid: tuple[int, int],
    masking: Masking,
    ratio: float,
    tube: bool,
    min_patches: int,
    fill_up: bool,
) -> NDArray[np.bool_]:
    """The mask (T, N) of one clip.

    Args:
        draws: where the draws come from.
        num_frames: T.
        grid: h and w.
        masking: blocks, single patches, or whole frames (a clip of one frame: patches).
        ratio: share of the patches, or of the frames, that is masked; of frames one at least, and one is left.
        tube: whether all frames have the same mask.
        min_patches: of a block.
        fill_up: mask further patches at random where blocks are fewer than wanted.
    """
    h, w = grid
    if masking == "frame" and num_frames > 1:
        num_masked = min(max(round(ratio * num_frames), 1), num_frames - 1)
        chosen = draws.sample(range(num_frames), num_masked)
        return np.isin(np.arange(num_frames), chosen)[:, None].repeat(h * w, axis=1)

    def drawn() -> NDArray[np.bool_]:
        wanted = int(ratio * h * w)
        if masking != "block":
            return random_mask(np.array([draws.random() for _ in range(h * w)]), ratio=ratio)
        mask = block_mask(draws, grid=grid, num_masked=wanted, min_patches=min_patches).ravel()
        if fill_up and (missing := wanted - int(mask.sum())):
            mask[draws.sample(np.flatnonzero(~mask).tolist(), missing)] = True
        return mask

    return np.stack([drawn()] * num_frames if tube else [drawn() for _ in range(num_frames)])


def batch_mask(
    frames: Bool[Tensor, "B T"],
    *,
    seed: int,
    step: int,
    first_sample: int,
    grid: tuple[int, int],
    masking: Masking,
    ratio: float,
    tube: bool,
    min_patches: int,
    fill_up: bool,
) -> Bool[Tensor, "B T N"]:
    """The masks of a batch, of its real frames. Each sample's draws follow from seed, step and its place alone.

    Args:
        frames: which frames are real.
        seed: of the training.
        step: of the training.
        first_sample: place of the first sample in the batch of all processes.
        grid: see `clip_mask`, as all that follow.
        masking: with single patches where the clip has one frame (section 4.3).
        ratio: share that is masked.
        tube: whether all frames have the same mask.
        min_patches: of a block.
        fill_up: whether all masks have the number of patches that `ratio` says.
    """
    num_frames = frames.shape[1]
    masks = [
        clip_mask(
            random.Random(f"{seed}/{step}/{sample}"),  # noqa: S311 - masks, not secrets
            num_frames=num_frames,
            grid=grid,
            masking=masking if num_frames > 1 else "random",
            ratio=ratio,
            tube=tube,
            min_patches=min_patches,
            fill_up=fill_up,
        )
        for sample in range(first_sample, first_sample + len(frames))
    ]
    drawn = np.stack(masks) if masks else np.zeros((0, num_frames, grid[0] * grid[1]), bool)
    return torch.from_numpy(drawn).to(frames.device) & frames[..., None]
