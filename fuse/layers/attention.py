"""Scaled dot-product attention: by torch's kernel, or in single products where that takes longer on a processor.

Forward and backward with heads of 64, on one core of an EPYC with AVX-512 and bfloat16, torch 2.11: in bfloat16 the
kernel takes 2.2 times as long as the products for 5 keys, 3.2 for 64, 1.3 for 197, 1.0 for 395; in float32 1.4 to 1.6
for 4 to 8 keys, but 0.94 for 197. Scores are in float32, as in the kernel: rounded to bfloat16 they would be off by up
to 0.06 where they are 20. The products keep the weights of all pairs for the backward pass, the kernel keeps none.
`tests/benchmarks/train_pixels.py step` measures what they make of a training step.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

MOST_KEYS = {torch.bfloat16: 256, torch.float32: 8}
"""Up to how many keys the products are used on a processor."""


def attention(
    queries: Float[Tensor, "*B H L d"],
    keys: Float[Tensor, "*B H K d"],
    values: Float[Tensor, "*B H K d"],
    *,
    mask: Bool[Tensor, "*#B _ _ K"] | Float[Tensor, "*#B _ _ K"] | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Float[Tensor, "*B H L d"]:
    """softmax(scale q k^T + mask) v, as `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        queries: L of them.
        keys: K of them.
        values: one for each key.
        mask: which keys are seen (a query that sees none gives zeros), or finite numbers that are added to the scores;
            None: all.
        dropout: of the weights.
        scale: None: 1 / sqrt(d).
    """
    if queries.device.type != "cpu" or keys.shape[-2] > MOST_KEYS.get(queries.dtype, 0):
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
        )
    with torch.autocast(queries.device.type, enabled=False):
        scale = queries.shape[-1] ** -0.5 if scale is None else scale
        scores = (queries.float() * scale) @ keys.float().transpose(-2, -1)
        if mask is not None:
            is_bool = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if is_bool else scores + mask
        attended = functional.dropout(scores.softmax(dim=-1).to(values.dtype), dropout) @ values
        return attended.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0) if mask is not None and is_bool else attended
