"""What a step of All-in-one draws: orders of patches, the clips of false pairs, and the numbers of orders of frames.

Legend: B batch, T frames, N patches of a frame, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..base import Tokens


class Drawn(NamedTuple):
    """What a step draws for the joint objectives.

    Attributes:
        masked: (B, W) token ids, some replaced.
        labels: (B, W) what they were, -100 elsewhere.
        mixed: clips, half of them replaced by others.
        matches: (B,) which are their own.
        order: (B, 3) of the frames; None: there is no objective of it.
        ranked: (B, K) samples whose texts are ranked for each clip, its own first; None: there is no objective of it.
    """

    masked: Tensor
    labels: Tensor
    mixed: Tokens
    matches: Tensor
    order: Tensor | None = None
    ranked: Tensor | None = None


def drawn_orders(shape: Sequence[int], num_patches: int, *, generator: torch.Generator) -> Int[Tensor, "B T N"]:
    """An order of patches for every frame, one call of multinomial each, as the authors' code."""
    count = shape[0] * shape[1]
    drawn = [torch.multinomial(torch.ones(num_patches), num_patches, generator=generator) for _ in range(count)]
    return torch.stack(drawn).view(*shape, num_patches) if drawn else torch.zeros(*shape, num_patches).long()


def matching_draws(num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which samples keep their clip (half of them, rounded down), and another sample for each.

    One sample alone keeps its clip: there is no other.
    """
    if num_samples < 2:
        return torch.ones(num_samples, dtype=torch.bool), torch.zeros(num_samples, dtype=torch.int64)
    matches = torch.arange(num_samples)[torch.randperm(num_samples, generator=generator)] < num_samples // 2
    away = torch.randint(1, num_samples, (num_samples,), generator=generator)
    return matches, (torch.arange(num_samples) + away) % num_samples


def order_labels(order: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The number of each order among all permutations, as `itertools.permutations` has them."""
    known = {each: number for number, each in enumerate(permutations(range(order.shape[1])))}
    return torch.tensor([known[tuple(each)] for each in order.tolist()], device=order.device)
