"""Masked words: which are hidden, what is put in their place, and the loss of guessing them.

Sources: Devlin et al., BERT (arXiv 1810.04805), section 3.1; Clover (arXiv 2207.07885), equation 5, with the authors'
code LeeYN-43/Clover@fa05f2e, mmaction/models/losses/focal_loss.py and mmaction/datasets/pipelines/loading.py.

The functions draw nothing but from the generator that they are given.

Legend: B batch, L tokens, N masked tokens, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

UNKNOWN_ID, CLS_ID, SEP_ID, MASK_ID = 100, 101, 102, 103
"""[UNK], [CLS], [SEP] and [MASK] of BERT's vocabularies."""
Replacement = Literal["bert", "mask"]


def focal_loss(
    logits: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    *,
    gamma: float = 2.0,
    factor: Literal["log", "probability"] = "log",
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """(1 - p)^gamma times -log p, p being the probability of the right word; gamma 0 is cross entropy.

    Equation 5 prints p in the place of log p ("probability"), and divides the sum by the samples of the batch. Without
    a masked token the loss is 0, with a gradient of 0; the mean of the authors' code is then not a number.
    """
    if not len(targets):
        return logits.float().sum() * 0.0
    log_p = functional.log_softmax(logits.float(), dim=-1).gather(1, targets[:, None]).squeeze(1)
    p = log_p.exp()
    terms = -((1 - p) ** gamma) * (log_p if factor == "log" else p)
    return terms.mean() if reduction == "mean" else terms.sum()


def tokens_at_random(
    mask: Shaped[Tensor, "B L"], *, share: float = 0.15, generator: torch.Generator | None = None
) -> Bool[Tensor, "B L"]:
    """Each real token by itself with the same probability, but for the first and the last, [CLS] and [SEP]."""
    real = mask.bool()
    following = functional.pad(real[:, 1:], (0, 1))
    inner = real & following
    inner[:, :1] = False
    return (torch.rand(mask.shape, generator=generator).to(mask.device) < share) & inner


def mask_tokens(
    ids: Int[Tensor, "B L"],
    chosen: Bool[Tensor, "B L"],
    *,
    vocabulary: int,
    replacement: Replacement = "bert",
    mask_id: int = MASK_ID,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B L"]:
    """Ids with the chosen ones replaced: [MASK] always ("mask"), or 80 % [MASK], 10 % any id, 10 % as they are.

    Drawn on the processor, so that every device draws the same.
    """
    if replacement == "mask":
        return ids.masked_fill(chosen, mask_id)
    draw = torch.rand(ids.shape, generator=generator).to(ids.device)
    anything = torch.randint(vocabulary, ids.shape, generator=generator).to(ids.device)
    replaced = torch.where(draw < 0.8, mask_id, torch.where(draw < 0.9, anything, ids))
    return torch.where(chosen, replaced, ids)
