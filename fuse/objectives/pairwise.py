"""Objectives of the systems that Everything at Once is compared with.

Sources, each with its authors' code, whose numbers this file gives:
* MIL-NCE: Miech et al., CVPR 2020 (arXiv 1912.06430), equation 1; antoine77340/MIL-NCE_HowTo100M@b282b15, loss.py.
* Max-margin ranking: Miech et al., ICCV 2019 (arXiv 1906.03327), equation 1; antoine77340/howto100m@50af0ff, loss.py.
* Contrast with cluster centres: Chen et al., "Multimodal Clustering Networks", ICCV 2021 (arXiv 2104.12671);
  brian7685/Multimodal-Clustering-Network@808948b, train_tri_kmeans.py.
* Sums over pairs of modalities: AVLnet (arXiv 2006.09199); roudimit/AVLnet@be70e95, train.py.

They compare raw dot products, without normalisation and without a temperature unless one is given; `mil_nce_loss` and
`max_margin_loss` compare cosines.

Legend: B batch, C caption candidates of a clip, E width of an embedding, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ..._vocabulary import InputError
from .chunked import chunked_nce
from .nce import CHUNK_ROWS, cosine_similarities, margin_softmax, zero_of

Contrast = Callable[[Tensor, Tensor], Tensor]


def dot_products(x: Float[Tensor, "B E"], y: Float[Tensor, "C E"]) -> Float[Tensor, "B C"]:
    """Every row of `x` times every row of `y`, in float32 or better even where autocast would halve it.

    Embeddings that are thousands of numbers wide and not normalised overflow half precision.
    """
    with torch.autocast(x.device.type, enabled=False):
        return exact(x) @ exact(y).T


def exact(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def mil_nce(
    similarities: Float[Tensor, "B BC"], *, present: Bool[Tensor, " BC"] | None = None, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """MIL-NCE: any of a clip's captions may be the right one.

    Mean over clips i of logsumexp(row i and the columns of i's captions, over all clips) - logsumexp(i's own captions).
    The code's denominator holds row and columns, so that the positives count twice in it; the paper's holds them once.

    Args:
        similarities: clips by captions; column j * C + c is candidate c of clip j.
        present: which captions really have words; the others count nowhere. Every clip needs one.
        temperature: what similarities are divided by; 1 as published.

    Raises:
        InputError: captions that are no whole number for each clip.
    """
    num_clips, num_captions = similarities.shape
    if num_captions % num_clips:
        raise InputError(f"{num_captions} captions are not the same number for each of {num_clips} clips")
    x = similarities / temperature
    if present is not None:
        x = x.masked_fill(~present, -math.inf)
    x_BBC = x.reshape(num_clips, num_clips, -1)
    positives_BC = x_BBC.diagonal().T
    everything = torch.cat([x_BBC.flatten(1), x_BBC.transpose(0, 1).flatten(1)], dim=1)
    return (torch.logsumexp(everything, dim=1) - torch.logsumexp(positives_BC, dim=1)).mean()


def max_margin(
    similarities: Float[Tensor, "B B"],
    *,
    margin: float = 0.1,
    weights: Float[Tensor, "B B"] | None = None,
    diagonal: bool = True,
) -> Float[Tensor, ""]:
    """Max-margin ranking: a pair's similarity must exceed that of either partner with any other by a margin.

    The mean runs over all entries, as in the code. The paper's sum leaves the diagonal out, where the hinge is 2 margin
    whatever the model does: the two differ by a constant and a factor.

    Args:
        similarities: the pairs are on the diagonal.
        margin: as published.
        weights: of every entry, see `negative_weights`; None: all 1.
        diagonal: whether the mean runs over the pairs themselves too. Frozen in Time leaves them out ("fix_norm"), and
            halves what comes out.
    """
    pairs = similarities.diagonal()
    hinges = functional.relu(margin + similarities - pairs[:, None]) + functional.relu(margin + similarities - pairs)
    weighted = hinges if weights is None else hinges * weights
    if not diagonal:
        weighted = weighted[~torch.eye(len(weighted), dtype=torch.bool, device=weighted.device)]
    return weighted.mean()


def mil_nce_loss(x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, temperature: float) -> Float[Tensor, ""]:
    """`mil_nce` of the cosines of two sets of embeddings, one candidate for each sample."""
    return mil_nce(cosine_similarities(x, y), temperature=temperature)


def max_margin_loss(x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, margin: float) -> Float[Tensor, ""]:
    """`max_margin` of the cosines of two sets of embeddings."""
    return max_margin(cosine_similarities(x, y), margin=margin)


def negative_weights(num_clips: int, *, clips_per_video: int, hard_negative_rate: float = 0.5) -> Float[Tensor, "B B"]:
    """Weights for `max_margin` by which clips of the same video, the hard negatives, count as much as all others.

    Rows come in blocks of `clips_per_video`. Within a block an entry weighs videos * rate, elsewhere
    videos * (1 - rate) / (videos - 1), so that the mean weight is 1 where rate is 1 - rate.

    Raises:
        InputError: clips that do not fill blocks.
    """
    num_videos, rest = divmod(num_clips, clips_per_video)
    if rest:
        raise InputError(
            f"a batch of {num_clips} clips does not hold {clips_per_video} of each video: use a batch size that"
            f" {clips_per_video} divides, or clips_per_video=1"
        )
    video = torch.arange(num_clips) // clips_per_video
    same = video[:, None] == video
    hard = num_videos * hard_negative_rate
    easy = num_videos * (1 - hard_negative_rate) / max(num_videos - 1, 1)
    return torch.where(same, hard, easy)


def margin_softmax_of_products(
    x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, margin: float = 0.001, chunk_rows: int = CHUNK_ROWS
) -> Float[Tensor, ""]:
    """The masked margin softmax of AVLnet and MCN, on dot products; a large batch's matrix is never held whole."""
    if len(x) <= chunk_rows:
        return margin_softmax(dot_products(x, y), margin=margin)
    return chunked_nce(exact(x), exact(y), scale=1.0, margin=margin, chunk_rows=chunk_rows)


def cluster_contrast(
    vectors: Float[Tensor, "B E"], centroids: Float[Tensor, "K E"], labels: Int[Tensor, " B"], *, margin: float = 0.001
) -> Float[Tensor, ""]:
    """MCN's centroid loss: cross entropy of a sample's own cluster among all, the margin taken off that one."""
    scores = dot_products(vectors, centroids)
    own = functional.one_hot(labels, num_classes=len(centroids))
    return functional.cross_entropy(scores - margin * own, labels)


def sum_over_pairs(
    vectors: Mapping[str, Float[Tensor, "B E"]],
    nonempty: Mapping[str, Bool[Tensor, " B"]],
    *,
    pairs: Iterable[tuple[str, str]],
    contrast: Contrast,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The sum of a contrast over pairs of modalities, each over the samples that have both.

    Returns:
        The sum (zero, but differentiable, when no pair can be formed), and each term under "x|y", detached.
    """
    total, terms = zero_of(vectors.values()), {}
    for x, y in pairs:
        if x not in vectors or y not in vectors:
            continue
        rows = nonempty[x].bool() & nonempty[y].bool()
        if rows.any():
            term = contrast(vectors[x][rows], vectors[y][rows])
            total, terms[f"{x}|{y}"] = total + term, term.detach()
    return total, terms
