"""The order of clips and the learning rate, as functions of the recipe and the step: nothing to save."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import EpochOrder
from ..recipes import Recipe

BATCHES_MIXED = 32
"""Batches whose clips are mixed with each other at least: contrast needs neighbours that are no neighbours."""


def epoch_order(groups: NDArray[Any], *, batch_size: int, seed: int) -> EpochOrder:
    """The order of clips that lie in shards: at random over all of them, or, of many shards, over many at a time.

    Args:
        groups: (N,) the number of each clip's shard.
        batch_size: clips of a batch; `BATCHES_MIXED` of them or more are mixed with each other.
        seed: of the order.
    """
    clips_of_shard = len(groups) / max(1, len(np.unique(groups)))
    window_shards = max(16, math.ceil(BATCHES_MIXED * batch_size / max(1.0, clips_of_shard)))
    return EpochOrder(groups=groups, seed=seed, window_shards=window_shards)


def num_epochs(recipe: Recipe, *, steps_per_epoch: int) -> int:
    """The recipe's epochs, or as many as its fewest steps need."""
    return max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))


def learning_rate(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up times the recipe's schedule."""
    warmup_steps = recipe.warmup_steps + round(recipe.warmup_epochs * steps_per_epoch)
    rate = recipe.learning_rate * (min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0)
    if recipe.schedule == "exponential":
        return rate * float(recipe.decay ** (step // steps_per_epoch))
    if recipe.schedule == "steps":
        return rate * float(recipe.decay ** sum(step // steps_per_epoch >= epoch for epoch in recipe.decay_epochs))
    steps = num_epochs(recipe, steps_per_epoch=steps_per_epoch) * steps_per_epoch
    if recipe.schedule == "cosine_after_warmup":
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        share = step / warmup_steps if step < warmup_steps else 0.5 * (1.0 + math.cos(math.pi * done))
        return recipe.learning_rate * max(share, recipe.final_rate)
    if recipe.schedule in ("cosine", "linear"):
        share = 0.5 * (1.0 + math.cos(math.pi * step / steps)) if recipe.schedule == "cosine" else 1.0 - step / steps
        return max(rate * share, recipe.learning_rate * recipe.final_rate)
    return rate
