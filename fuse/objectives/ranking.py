"""Clover's tri-modal alignment and pair-wise ranking.

Source: Huang et al., "Clover", CVPR 2023 (arXiv 2207.07885), equations 2 to 4; LeeYN-43/Clover@fa05f2e,
mmaction/models/losses/contrastive_loss.py, whose numbers this file gives. Where they differ, the defaults are the
code's, and the paper's reading is an option: the code compares cosines, averages over the batch, and takes the mean of
the three terms of equation 3; the paper prints dot products, sums over the batch, and the sum of the three.

Legend: B batch, E width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .nce import cosine_similarities, unit
from .pairwise import dot_products, exact

Reading = Literal["code", "paper"]


def exclusive_nce(
    anchor: Float[Tensor, "B E"],
    positives: Sequence[Float[Tensor, "B E"]],
    *,
    temperature: float = 0.05,
    reading: Reading = "code",
) -> Float[Tensor, ""]:
    """Equations 2 and 3: an anchor and several positives of each sample, none of which is another's negative.

    Equation 2 is the cross entropy of each positive among itself and all positives of the other samples, summed over
    the kinds of positives. Equation 3 is that of the anchor among all anchors, seen from each kind.

    Args:
        anchor: V_e, or T_e.
        positives: T_e, T_m and M_Vmf of a video; V_e, V_m and M_Tmf of a text.
        temperature: tau.
        reading: of the paper or of its code, see above.
    """
    compare = cosine_similarities if reading == "code" else dot_products
    scores = [compare(anchor, each) / temperature for each in positives]
    own = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    over_batch: Literal["mean", "sum"] = "mean" if reading == "code" else "sum"
    answers = torch.arange(len(anchor), device=anchor.device)
    forward, backward = [], []
    for kind, one in enumerate(scores):
        # The sample's other positives leave the denominator.
        row = [each if other == kind else each.masked_fill(own, -math.inf) for other, each in enumerate(scores)]
        target = answers + kind * len(anchor)
        forward.append(functional.cross_entropy(torch.cat(row, dim=1), target, reduction=over_batch))
        backward.append(functional.cross_entropy(one.T, answers, reduction=over_batch))
    to_anchor = torch.stack(backward)
    return torch.stack(forward).sum() + (to_anchor.mean() if reading == "code" else to_anchor.sum())


def ranking_loss(
    anchor: Float[Tensor, "B E"],
    complete: Float[Tensor, "B E"],
    masked: Float[Tensor, "B E"],
    *,
    margin: float = 5.0,
    temperature: float = 0.05,
    reading: Reading = "code",
) -> Float[Tensor, ""]:
    """One half of equation 4: a complete sample is closer to its anchor than its masked version, by a margin.

    The margin is one of similarities divided by the temperature. The code averages over the batch; equation 4 is one
    sample's, which "paper" sums.
    """
    x, y, z = (unit(each) if reading == "code" else exact(each) for each in (anchor, complete, masked))
    hinges = functional.relu(margin - ((x * y).sum(dim=-1) - (x * z).sum(dim=-1)) / temperature)
    return hinges.mean() if reading == "code" else hinges.sum()
