"""Layers that fusion models share: gated units and the fusion transformer.

Sources: Miech, Laptev, Sivic, "Learnable pooling with context gating" (arXiv 1706.06905); Shvetsova et al.,
"Everything at Once" (arXiv 2112.04446), section 3.2.3, with the authors' code ninatu/everything_at_once@4daeab6.
Attributes keep the names of the authors' state dict, so that published weights load without a table of names.

Legend: B batch, N tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from ._face import MODALITIES, Tokens

LAYER_NORM_EPS = 1e-6


class ContextGating(nn.Module):
    """y * sigmoid(W y + b): every channel is let through as far as the whole vector says."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return y * torch.sigmoid(self.fc(y))


class GatedUnit(nn.Module):
    """The gated linear projection: y = W1 x + b1, then context gating. No normalisation follows.

    PyTorch's default initialisation of linear layers, as in the authors' code.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim_in, dim_out)
        self.cg = ContextGating(dim_out)

    def forward(self, x: Float[Tensor, "*B D_in"]) -> Float[Tensor, "*B D_out"]:
        gated: Tensor = self.cg(self.fc(x))
        return gated


class Attention(nn.Module):
    """Multi-head self-attention in which padded keys are hidden: softmax(q k^T / sqrt(D/H)) v."""

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None = None) -> Float[Tensor, "B N D"]:
        """Attend to the keys where `mask` is nonzero (to all when None). Every sample needs one such key at least."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        visible = None if mask is None else mask.bool()[:, None, None, :]
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class MLP(nn.Module):
    """Linear, exact (erf) GELU, linear."""

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


class FusionBlock(nn.Module):
    """A transformer block with layer normalisation before its two parts: x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, dim: int, *, heads: int, mlp_ratio: float = 1.0, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, hidden=int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None = None) -> Float[Tensor, "B N D"]:
        x = x + self.attn(self.norm1(x), mask)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class FusionTransformer(nn.Module):
    """Section 3.2.3: one transformer for the tokens of any combination of modalities, which it does not tell apart.

    `masking_token` stands in for a modality that a sample does not have (`replace_empty`); `norm` is in the authors'
    weights and is never applied by their code, so it is kept and not applied here either.
    """

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        heads: int,
        mlp_ratio: float = 1.0,
        qkv_bias: bool = True,
        cls_token: bool = False,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.masking_token = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(
            FusionBlock(dim, heads=heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS).requires_grad_(requires_grad=False)
        self.apply(_initialise_as_vit)
        for token in (self.masking_token, self.cls_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Let the tokens of the given modalities attend to each other.

        Returns the output tokens under the same names, and under "cls" the class token (B, 1, D) where there is one.
        """
        parts = {name: tokens[name] for name in MODALITIES if name in tokens}
        if self.cls_token is not None:
            batch_size = len(next(iter(parts.values())).values)
            cls = self.cls_token.expand(batch_size, -1, -1)
            parts = {"cls": Tokens(cls, torch.ones_like(cls[..., 0])), **parts}
        x_BND = torch.cat([part.values for part in parts.values()], dim=1)
        mask_BN = torch.cat([part.mask.bool() for part in parts.values()], dim=1)
        for block in self.blocks:
            x_BND = block(x_BND, mask_BN)
        outputs = torch.split(x_BND, [part.values.shape[1] for part in parts.values()], dim=1)
        return {name: Tokens(output, part.mask) for (name, part), output in zip(parts.items(), outputs, strict=True)}


def masked_mean(tokens: Tokens) -> Float[Tensor, "B D"]:
    """The mean of the real tokens of each sample. (The paper prints a bare sum; the authors' code divides.)"""
    weights = tokens.mask.to(tokens.values.dtype).unsqueeze(-1)
    return (tokens.values * weights).sum(dim=1) / weights.sum(dim=1)


def replace_empty(tokens: Tokens, stand_in: Float[Tensor, " D"]) -> tuple[Tokens, Shaped[Tensor, " B"]]:
    """Put `stand_in` in place of token 0 wherever a sample has no token, so that every sample has one.

    Returns the repaired tokens (the caller's own are left alone) and (B,) bool: which samples were not empty.
    """
    nonempty_B = tokens.mask.bool().any(dim=1)
    first_N = torch.arange(tokens.mask.shape[1], device=tokens.mask.device) == 0
    replaced_BN = ~nonempty_B[:, None] & first_N
    values = torch.where(replaced_BN[..., None], stand_in.to(tokens.values.dtype), tokens.values)
    return Tokens(values, tokens.mask.bool() | replaced_BN), nonempty_B


def _initialise_as_vit(module: nn.Module) -> None:
    """The initialisation of timm's vision transformer, as in the authors' code: linear weights N(0, 0.02), cut at 2."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
