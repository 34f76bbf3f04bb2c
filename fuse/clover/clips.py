"""Clips through Video Swin: of different numbers of frames, in views, complete and masked.

A clip's padding would be attended to, so clips of each number of frames go through the encoder by themselves. In
training all have the same, and that is one pass.

Legend: B batch, V views, F frames, T times, H W grid of patches, C channels of the video encoder.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..._vocabulary import InputError
from ..base import Tokens
from ..layers import VideoSwin


def encoded_clips(
    backbone: VideoSwin, video: Tokens, *, cells: Float[Tensor, "B 1 h w"] | None = None, num_views: int = 1
) -> list[Tokens]:
    """The grids of patches (B, T, H, W, C) of clips, and which of their times are real (B, T).

    Args:
        backbone: the encoder.
        video: (B, F, 3, rows, columns), and the masks of the frames. A clip without a frame is one picture of zeros.
        cells: nonzero where a cell is masked; the masked clips are then a second answer, of patches embedded once.
        num_views: equal parts of the frames that are encoded apart, and whose grids are averaged.

    Raises:
        InputError: frames that are no whole number of views.
    """
    num_clips, num_frames = video.mask.shape
    if num_frames % num_views:
        raise InputError(f"{num_frames} frames cannot be {num_views} equal parts; give a multiple")
    pictures = video.values.reshape(-1, num_frames // num_views, *video.values.shape[2:])
    real = video.mask.bool().reshape(pictures.shape[:2])
    cells = None if cells is None else cells.repeat_interleave(num_views, dim=0)
    counts = real.sum(dim=1).clamp(min=1)
    rows_of, grids_of = [], []
    for count in sorted(set(counts.tolist())) or [1]:
        rows = (counts == count).nonzero().flatten()
        patches = backbone.patches(first_real(pictures[rows], real[rows], count))
        if cells is not None:
            patches = torch.cat([patches, backbone.masked(patches, cells[rows])])
        grid = backbone.from_patches(patches)
        rows_of.append(rows)
        grids_of.append(grid.view(1 if cells is None else 2, len(rows), *grid.shape[1:]))
    longest = max(grid.shape[2] for grid in grids_of)
    order = torch.cat(rows_of).argsort()
    padded = [functional.pad(grid, (0, 0, 0, 0, 0, 0, 0, longest - grid.shape[2])) for grid in grids_of]
    lengths = torch.cat([torch.full_like(rows, grid.shape[2]) for rows, grid in zip(rows_of, grids_of, strict=True)])
    times = (torch.arange(longest, device=order.device) < lengths[order, None]).view(num_clips, num_views, longest)
    values = padded[0] if len(padded) == 1 else torch.cat(padded, dim=1)[:, order]
    answers = []
    for grid in values:
        by_view = grid.view(num_clips, num_views, *grid.shape[1:])
        if num_views > 1:
            weights = times[..., None, None, None].to(grid.dtype)
            mean = (by_view * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        else:
            mean = by_view[:, 0]
        answers.append(Tokens(mean, times.any(dim=1)))
    return answers


def first_real(
    pictures: Float[Tensor, "B F 3 H W"], real: Bool[Tensor, "B F"], count: int
) -> Float[Tensor, "B 3 K H W"]:
    """The real frames of clips that have `count` of them, in their order; zeros in the place of one that is not."""
    if not bool(real.all()):
        places = real.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        rows = torch.arange(len(pictures), device=pictures.device)[:, None]
        pictures = torch.where(real[rows, places][..., None, None, None], pictures[rows, places], 0.0)
    return pictures.transpose(1, 2)
