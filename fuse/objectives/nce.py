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

from .chunked import chunked_nce

NORM_EPS = 1e-8
CHUNK_ROWS = 1024
"""Batches of more samples are contrasted in chunks of so many rows of their matrix of similarities."""


def unit(x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """norm(x) of equation 1: x / max(|x|, 1e-8), in float32 or better."""
    x = x if x.dtype == torch.float64 else x.float()
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scaled: Tensor = x / length.clamp(min=NORM_EPS)
    return scaled


def cosine_similarities(x: Float[Tensor, "B E"], y: Float[Tensor, "C E"]) -> Float[Tensor, "B C"]:
    """The cosine of every row of `x` with every row of `y`, in float32 under mixed precision too.

    Half precision tells cosines apart by 0.004 or so, which a temperature of 0.05 makes a twelfth of the score.
    """
    with torch.autocast(x.device.type, enabled=False):
        return unit(x) @ unit(y).T


def norm_softmax_loss(
    x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, temperature: float = 0.05, chunk_rows: int = CHUNK_ROWS
) -> Float[Tensor, ""]:
    """`norm_softmax` of the cosines of two sets of embeddings; a large batch's matrix is never held whole."""
    if len(x) <= chunk_rows:
        return norm_softmax(cosine_similarities(x, y), temperature=temperature)
    return chunked_nce(unit(x), unit(y), scale=1 / temperature, margin=0.0, chunk_rows=chunk_rows)


def margin_softmax_loss(
    x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, margin: float = 0.001, chunk_rows: int = CHUNK_ROWS
) -> Float[Tensor, ""]:
    """`margin_softmax` of the cosines of two sets of embeddings; a large batch's matrix is never held whole."""
    if len(x) <= chunk_rows:
        return margin_softmax(cosine_similarities(x, y), margin=margin)
    return chunked_nce(unit(x), unit(y), scale=1.0, margin=margin, chunk_rows=chunk_rows)


def norm_softmax(similarities: Float[Tensor, "B B"], *, temperature: float = 0.05) -> Float[Tensor, ""]:
    """Equation 4 over a batch: cross entropy of the diagonal in every row plus that in every column.

    The paper prints one direction, with x_i y_i in the denominator; the code adds both directions (does not halve).
    """
    return _both_directions(similarities / temperature)


def margin_softmax(similarities: Float[Tensor, "B B"], *, margin: float = 0.001) -> Float[Tensor, ""]:
    """The masked margin softmax of AVLnet ("MMS"): no temperature, the margin is taken off the diagonal."""
    return _both_directions(
        similarities - margin * torch.eye(len(similarities), dtype=similarities.dtype, device=similarities.device)
    )


def _both_directions(scores: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    answers = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, answers) + functional.cross_entropy(scores.T, answers)


def combinatorial_loss(
    vectors: Mapping[str, Tensor],
    nonempty: Mapping[str, Tensor],
    *,
    weights: Mapping[tuple[str, str], float],
    contrast: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Equations 2 and 3: the weighted sum of contrastive losses between combinations of modalities.

    Three things are the code's, not the paper's: the sum is divided by the sum of the weights used; a term sees only
    the samples that have all its modalities; a term is left out when its weight is 0, when one of its embeddings was
    not computed, or when no sample is left.

    Args:
        vectors: (B, E) under names such as "text" and "video+audio".
        nonempty: (B,) bool under each single modality.
        weights: lambda under (x, y), names of two embeddings.
        contrast: maps two sets of embeddings, (n, E) each, to a loss.

    Returns:
        The loss (zero, but differentiable, when every term is left out), and each term used under "x|y", detached.
    """
    total, weight_used, terms = zero_of(vectors.values()), 0.0, {}
    rows_of: dict[frozenset[str], Tensor | None] = {}
    for (x, y), weight in weights.items():
        if weight == 0 or x not in vectors or y not in vectors:
            continue
        names = frozenset([*x.split("+"), *y.split("+")])
        if names not in rows_of:
            have_B = torch.stack([nonempty[name].bool() for name in names]).all(dim=0)
            found = have_B.nonzero().flatten()
            rows_of[names] = None if len(found) == len(have_B) > 0 else found  # None: every sample
        rows = rows_of[names]
        if rows is not None and not len(rows):
            continue
        term = contrast(*(vectors[side] if rows is None else vectors[side][rows] for side in (x, y)))
        total, weight_used = total + weight * term, weight_used + weight
        terms[f"{x}|{y}"] = term.detach()
    return total / weight_used if weight_used else total, terms


def compared_samples(
    terms: Iterable[tuple[str, str]], nonempty: Mapping[str, Tensor], *, embedded: Iterable[str]
) -> dict[str, Tensor]:
    """The samples of each embedding that `combinatorial_loss` looks at: those with all modalities of one of its terms.

    Args:
        terms: the names of the two embeddings that each compares.
        nonempty: (B,) bool under each single modality.
        embedded: the embeddings that there will be; a term without one of its two is left out.

    Returns:
        Positions under each name, but for those of which every sample is looked at. Where no sample is looked at in
        any, there is nothing to save by a step that teaches nothing, and no name.
    """
    nobody = torch.zeros_like(next(iter(nonempty.values())), dtype=torch.bool)
    looked_at = dict.fromkeys(embedded, nobody)
    for x, y in terms:
        if x in looked_at and y in looked_at:
            have = torch.stack([nonempty[name].bool() for name in {*x.split("+"), *y.split("+")}]).all(dim=0)
            looked_at |= {x: looked_at[x] | have, y: looked_at[y] | have}
    positions = {name: rows.nonzero().flatten() for name, rows in looked_at.items()}
    if not any(map(len, positions.values())):
        return {}
    return {name: rows for name, rows in positions.items() if len(rows) < len(nobody)}


def zero_of(vectors: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Zero with a gradient (of zero) to every vector, so that a batch without a usable term can still go backward."""
    return torch.stack([vector.float().sum() * 0.0 for vector in vectors]).sum()
