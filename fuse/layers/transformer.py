"""Layers that fusion models share: gated units and the fusion transformer.

Sources: Miech, Laptev, Sivic, "Learnable pooling with context gating" (arXiv 1706.06905); Shvetsova et al.,
"Everything at Once" (arXiv 2112.04446), section 3.2.3, with the authors' code ninatu/everything_at_once@4daeab6.
Attributes keep the names of the authors' state dict, so that published weights load without a table of names.

Legend: D width, H heads; S rows, T tokens of Q sequences, N the longest of them, P segments: see `packed.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .attention import attention
from .packed import Pool, Sequences
from .products import Linear

LAYER_NORM_EPS = 1e-6


class ContextGating(nn.Module):
    """y * sigmoid(W y + b): every channel is let through as far as the whole vector says."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = Linear(dim, dim)

    def forward(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return y * torch.sigmoid(self.fc(y))


class GatedUnit(nn.Module):
    """The gated linear projection: y = W1 x + b1, then context gating. No normalisation follows.

    PyTorch's default initialisation of linear layers, as in the authors' code.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.fc = Linear(dim_in, dim_out)
        self.cg = ContextGating(dim_out)

    def forward(self, x: Float[Tensor, "*B D_in"]) -> Float[Tensor, "*B D_out"]:
        gated: Tensor = self.cg(self.fc(x))
        return gated


class Attention(nn.Module):
    """Multi-head self-attention within sequences: softmax(q k^T / sqrt(D/H)) v."""

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "S D"], sequences: Sequences) -> Float[Tensor, "T D"]:
        """Rows in, tokens of sequences out. A token attends to the visible ones of its sequence; one at least is."""
        shape = (*sequences.grid.shape, 3, self.heads, x.shape[1] // self.heads)
        qkv_QN = self.qkv(x).index_select(0, sequences.grid.flatten()).view(shape)
        q, k, v = qkv_QN.permute(2, 0, 3, 1, 4)  # each (Q, H, N, D/H)
        attended = attention(q, k, v, mask=sequences.visible[:, None, None, :])
        tokens_TD = attended.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, sequences.cells)
        projected: Tensor = self.proj(tokens_TD)
        return projected


class MLP(nn.Module):
    """Linear, exact (erf) GELU, linear."""

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*T D"], pool: Pool | None = None) -> Float[Tensor, "*P D"]:
        """The MLP's output for every token, or its mean over each segment of a pool (the last layer is linear)."""
        hidden = functional.gelu(self.fc1(x))
        y: Tensor = self.fc2(hidden if pool is None else pool.mean(hidden))
        return y


class FusionBlock(nn.Module):
    """A transformer block with layer normalisation before its two parts: x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, dim: int, *, heads: int, mlp_ratio: float = 1.0, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, hidden=int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "S D"], sequences: Sequences, pool: Pool | None = None) -> Float[Tensor, "*T D"]:
        """Rows in; the tokens (T, D) of the sequences out, or with a pool their means (P, D)."""
        x = x.index_select(0, sequences.source) + self.attn(self.norm1(x), sequences)
        y: Tensor = (x if pool is None else pool.mean(x)) + self.mlp(self.norm2(x), pool)
        return y


class FusionTransformer(nn.Module):
    """Section 3.2.3: one transformer for the tokens of any combination of modalities, which it does not tell apart.

    `masking_token` replaces a modality that a sample does not have (`packed.py: pack`); `norm` is in the authors'
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

    def forward(self, x: Float[Tensor, "S D"], sequences: Sequences, pool: Pool) -> Float[Tensor, "P D"]:
        """Let the tokens of each sequence attend to each other, and average the segments of the pool."""
        if not self.blocks:
            return pool.mean(x.index_select(0, sequences.source))
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x, sequences)
            sequences = sequences.settled()
        pooled: Tensor = last(x, sequences, pool)
        return pooled


def _initialise_as_vit(module: nn.Module) -> None:
    """The initialisation of timm's vision transformer, as in the authors' code: linear weights N(0, 0.02), cut at 2."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
