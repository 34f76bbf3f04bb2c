"""Objectives that compare two sets of embeddings.

Sources: Everything at Once (arXiv 2112.04446), equations 2 to 4, and the authors' code
ninatu/everything_at_once@4daeab6. Where they differ the code is followed, because published weights were trained with
it; each place says so.

Legend: B batch, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NORM_EPS = 1e-8


def unit(x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """norm(x) of equation 1: x / max(|x|, 1e-8), in float32 or better."""
    x = x if x.dtype == torch.float64 else x.float()
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scaled: Tensor = x / length.clamp(min=NORM_EPS)
    return scaled


def cosine_similarities(x: Float[Tensor, "B E"], y: Float[Tensor, "C E"]) -> Float[Tensor, "B C"]:
    """The cosine of every row of `x` with every row of `y`."""
    return unit(x) @ unit(y).T


def norm_softmax(similarities: Float[Tensor, "B B"], *, temperature: float = 0.05) -> Float[Tensor, ""]:
    """Equation 4 over a batch: cross entropy of the diagonal in every row plus that in every column.

    The paper prints one direction, with x_i y_i in the denominator; the code adds both directions (does not halve).
    """
    return _both_directions(similarities / temperature)


def margin_softmax(similarities: Float[Tensor, "B B"], *, margin: float = 0.001) -> Float[Tensor, ""]:
    """The masked margin softmax of AVLnet ("MMS"): no temperature, the margin is taken off the diagonal."""
    return _both_directions(similarities - margin * torch.eye(len(similarities), device=similarities.device))


def _both_directions(scores: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    answers = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, answers) + functional.cross_entropy(scores.T, answers)


def combinatorial_loss(
    vectors: Mapping[str, Tensor],
    nonempty: Mapping[str, Tensor],
    *,
    weights: Mapping[tuple[str, str], float],
    contrast: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Equation 2: the weighted sum of contrastive losses between combinations of modalities.

    Three things are the code's, not the paper's: the sum is divided by the sum of the weights used; a term sees only
    the samples that have all its modalities; a term is left out when its weight is 0, when one of its embeddings was
    not computed, or when no sample is left.

    Args:
        vectors: (B, E) under names such as "text" and "video+audio".
        nonempty: (B,) bool under each single modality.
        weights: lambda under (x, y), names of two embeddings.
        contrast: maps cosine similarities (n, n) to a loss.

    Returns:
        The loss (zero, but differentiable, when every term is left out), and each term used under "x|y", detached.
    """
    total, weight_used, terms = _zero_of(vectors.values()), 0.0, {}
    for (x, y), weight in weights.items():
        if weight == 0 or x not in vectors or y not in vectors:
            continue
        rows = _rows_with([*x.split("+"), *y.split("+")], nonempty)
        if not rows.any():
            continue
        term = contrast(cosine_similarities(vectors[x][rows], vectors[y][rows]))
        total, weight_used = total + weight * term, weight_used + weight
        terms[f"{x}|{y}"] = term.detach()
    return total / weight_used if weight_used else total, terms


def _rows_with(modalities: Iterable[str], nonempty: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([nonempty[name].bool() for name in modalities]).all(dim=0)


def _zero_of(vectors: Iterable[Tensor]) -> Tensor:
    """Zero with a gradient (of zero) to every vector, so that a batch without a usable term can still go backward."""
    return torch.stack([vector.float().sum() * 0.0 for vector in vectors]).sum()
