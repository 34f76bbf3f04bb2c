"""Objectives of a joint encoder: contrast with frames, matching with hard negatives.

Source: VindLU (arXiv 2212.05051), authors' code klauscc/VindLU@3046548, models/criterions.py, after ALBEF (arXiv
2107.07651) and Singularity (arXiv 2206.03428). No momentum encoder and no queue.

The functions draw nothing but from the generator that they are given.

Legend: B videos, C texts, T frames, E width of an embedding.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

SMOOTHING = 1e-4
"""What the authors add to similarities before the softmax from which negatives are drawn; a softmax does not see it."""
NO_NUMBER_WEIGHT = 0.01
"""The weight of a pair whose similarity is NaN."""


def frame_mean(frames: Float[Tensor, "B T E"], mask: Shaped[Tensor, "B T"] | None = None) -> Float[Tensor, "B E"]:
    """The mean of the unit vectors of a video's real frames: its product with a unit vector is the mean of cosines.

    That is not the cosine with the mean, since the mean of unit vectors is shorter than 1.
    """
    with torch.autocast(frames.device.type, enabled=False):
        units = functional.normalize(frames if frames.dtype == torch.float64 else frames.float(), dim=-1)
        if mask is None:
            return units.mean(dim=1)
        real = mask.to(units.dtype)
        return (units * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


def shared_targets(ids: Int[Tensor, " B"]) -> Float[Tensor, "B B"]:
    """Where samples have the same id, each is the others' answer too: rows sum to 1."""
    same = (ids[:, None] == ids).float()
    return same / same.sum(dim=1, keepdim=True)


def contrast_with_targets(similarities: Float[Tensor, "B B"], targets: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """Cross entropy with soft targets, the mean of both directions, each a mean over the batch.

    Args:
        similarities: of video i and text j, divided by the temperature.
        targets: `shared_targets`, the same for both directions.
    """
    return 0.5 * (functional.cross_entropy(similarities, targets) + functional.cross_entropy(similarities.T, targets))


def negative_weights_by_similarity(
    similarities: Float[Tensor, "B C"], same: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """What negatives are drawn by: the softmax of each row, 0 for pairs that belong together.

    Args:
        similarities: divided by the temperature; gradients do not go through.
        same: which pairs do.
    """
    weights = (similarities.detach() + SMOOTHING).softmax(dim=1).masked_fill(same, 0.0)
    return torch.nan_to_num(weights, nan=NO_NUMBER_WEIGHT, posinf=NO_NUMBER_WEIGHT, neginf=NO_NUMBER_WEIGHT)


def drawn_negatives(weights: Float[Tensor, "B C"], *, generator: torch.Generator) -> Int[Tensor, " B"]:
    """One column of each row by its weights; every row must have one above 0.

    Drawn on the processor, so that every device draws the same.
    """
    drawn: Tensor = torch.multinomial(weights.double().cpu(), 1, generator=generator).squeeze(1)
    return drawn.to(weights.device)


def matching_loss(logits: Float[Tensor, "P 2"], *, num_matching: int) -> Float[Tensor, ""]:
    """Cross entropy over pairs, of which the first `num_matching` belong together (class 1) and the others do not."""
    labels = (torch.arange(len(logits), device=logits.device) < num_matching).long()
    return functional.cross_entropy(logits.float(), labels)
