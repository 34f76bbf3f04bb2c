"""Regression of the features of masked patches.

Source: MILES (arXiv 2204.12408), equation 4, which leaves open what its norm runs over and of which no code was
published.

Legend: B batch, R masked places of all samples, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

RegressionLoss = Literal["sample_l2_sum", "sample_l2_mean", "token_l2_mean", "token_square_mean", "square_mean"]
"""Readings of equation 4, of the differences of a sample's masked features:

* sample_l2_sum: its l2 norm over places and width, summed over samples, as printed;
* sample_l2_mean: the same, the mean over samples;
* token_l2_mean: the norm of each place, the mean over all places;
* token_square_mean: its square, the mean over all places;
* square_mean: the mean square of all numbers.
"""


def masked_regression(
    predicted: Float[Tensor, "R D"],
    target: Float[Tensor, "R D"],
    sample: Int[Tensor, " R"],
    *,
    num_samples: int,
    how: RegressionLoss,
) -> Float[Tensor, ""]:
    """Equation 4. The target gets no gradient; without a masked place it is zero.

    Args:
        predicted: features of the masked places.
        target: what they should be.
        sample: which of the samples each place belongs to.
        num_samples: B; a mean over samples is over those that have masked places.
        how: the reading.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, target = predicted.float(), target.detach().float()
        difference = predicted - target
        if not len(difference):
            return difference.sum()
        if how == "square_mean":
            return difference.square().mean()
        squares = difference.square().sum(dim=1)
        if how == "token_square_mean":
            return squares.mean()
        if how == "token_l2_mean":
            return _root(squares).mean()
        of_samples = squares.new_zeros(num_samples).index_add(0, sample, squares)
        total = _root(of_samples).sum()
        return total if how == "sample_l2_sum" else total / torch.bincount(sample).count_nonzero()


def _root(squares: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    """The square root, with a gradient of zero at zero."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
