"""Word-patch alignment: how cheaply a text's words can be moved onto a clip's patches, by optimal transport.

Sources: Chen et al., "UNITER" (ECCV 2020, arXiv 1909.11740), section 3.2; Xie et al., "A Fast Proximal Point Method for
Computing Exact Wasserstein Distance" (IPOT, UAI 2019). All-in-one uses it in its matching loss and its paper does not
say so: showlab/all-in-one@ae0e288, AllInOne/modules/objectives.py, whose numbers this file gives.

Legend: B batch, L words, P patches, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_NORM_EPS = 1e-5
_FAR = 1e4
"""Added to the denominators of padding, whose share of the plan then vanishes."""


def word_patch_distance(
    words: Float[Tensor, "B L D"],
    patches: Float[Tensor, "B P D"],
    *,
    words_real: Bool[Tensor, "B L"],
    patches_real: Bool[Tensor, "B P"],
    beta: float = 0.5,
    num_iterations: int = 50,
) -> Float[Tensor, " B"]:
    """The cost of the plan that moves words onto patches; the plan itself gets no gradient.

    A sample without a real word or patch costs nothing.

    Args:
        words: features of words.
        patches: features of patches.
        words_real: those that are moved.
        patches_real: those that receive.
        beta: step of the proximal method.
        num_iterations: of it.
    """
    with torch.autocast(words.device.type, enabled=False):
        costs = transport_costs(words.float(), patches.float())
        pairs = words_real[:, :, None] & patches_real[:, None, :]
        costs = costs.masked_fill(~pairs, 0.0)
        plan = transport_plan(
            costs.detach(), words_real=words_real, patches_real=patches_real, beta=beta, num_iterations=num_iterations
        )
        return (costs * plan).sum(dim=(1, 2))


def transport_costs(words: Float[Tensor, "B L D"], patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B L P"]:
    """One minus the cosine of each word with each patch."""
    x, y = (functional.normalize(each, dim=-1, eps=_NORM_EPS) for each in (words, patches))
    return 1.0 - x @ y.transpose(1, 2)


@torch.no_grad()
def transport_plan(
    costs: Float[Tensor, "B L P"],
    *,
    words_real: Bool[Tensor, "B L"],
    patches_real: Bool[Tensor, "B P"],
    beta: float,
    num_iterations: int,
) -> Float[Tensor, "B L P"]:
    """The shares of IPOT's plan: every real word gives the same, every real patch receives the same."""
    pairs = words_real[:, :, None] & patches_real[:, None, :]
    kernel = torch.exp(-costs / beta).masked_fill(~pairs, 0.0)
    plan = pairs.to(costs.dtype)
    num_words, num_patches = (
        real.sum(dim=1, keepdim=True).clamp(min=1).to(costs.dtype) for real in (words_real, patches_real)
    )
    no_word, no_patch = (_FAR * (~real).to(costs.dtype) for real in (words_real, patches_real))
    by_word = words_real.to(costs.dtype) / num_words
    for _ in range(num_iterations):
        step = kernel * plan
        received = torch.einsum("blp,bl->bp", step, by_word)
        by_patch = 1.0 / (num_patches * received + no_patch)
        by_word = 1.0 / (num_words * torch.einsum("blp,bp->bl", step, by_patch) + no_word)
        plan = by_word[:, :, None] * step * by_patch[:, None, :]
    return plan.masked_fill(~pairs, 0.0)
