"""The order of clips and the learning rate, as functions of the recipe and the step: nothing to save."""

from __future__ import annotations

import math

import numpy as np

from .recipes import Recipe


def batches_of_epoch(
    num_clips: int, *, batch_size: int, seed: int, epoch: int, rank: int = 0, num_processes: int = 1
) -> list[list[int]]:
    """The clips of every batch of one epoch, for one of several processes.

    The order depends on (seed, epoch) alone. An incomplete last batch is dropped, unless it is the only one. Every
    process takes an equal share of each batch; what cannot be shared out is dropped.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_clips)
    size = min(batch_size, num_clips)
    shared = size - size % num_processes
    starts = range(0, num_clips - size + 1, size) if shared else ()
    return [order[start : start + shared][rank::num_processes].tolist() for start in starts]


def num_epochs(recipe: Recipe, *, steps_per_epoch: int) -> int:
    """The recipe's epochs, or as many as its fewest steps need."""
    return max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))


def learning_rate(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up times the recipe's schedule."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    return recipe.learning_rate * warm * _decay(recipe, step=step, steps_per_epoch=steps_per_epoch)


def _decay(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    if recipe.schedule == "exponential":
        return float(recipe.decay ** (step // steps_per_epoch))
    if recipe.schedule == "cosine":
        steps = num_epochs(recipe, steps_per_epoch=steps_per_epoch) * steps_per_epoch
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return 1.0
