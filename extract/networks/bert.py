"""BERT's layers in plain torch, by transformers' key names: transformers takes seconds to import, and a question waits.

Devlin et al., NAACL 2019. The numbers are those of transformers' `BertModel` without its pooler.

Legend: B texts of one length, N tokens, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Linear(nn.Linear):
    """A linear layer that draws no values, since weights are loaded into it."""

    def reset_parameters(self) -> None:
        pass


class BertStack(nn.Module):
    """Embeddings and post-norm layers, whose parameters hold no values yet.

    Args:
        width: D.
        depth: layers.
        num_heads: H.
        num_embeddings: words of the vocabulary.
        num_positions: most tokens of a text.
        epsilon: of the layer normalisations.
    """

    def __init__(
        self, *, width: int, depth: int, num_heads: int, num_embeddings: int, num_positions: int, epsilon: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads

        def ended(width_in: int) -> nn.ModuleDict:
            return nn.ModuleDict({"dense": _Linear(width_in, width), "LayerNorm": nn.LayerNorm(width, eps=epsilon)})

        def layer() -> nn.ModuleDict:
            projections = nn.ModuleDict({name: _Linear(width, width) for name in ("query", "key", "value")})
            attention = nn.ModuleDict({"self": projections, "output": ended(width)})
            intermediate = nn.ModuleDict({"dense": _Linear(width, 4 * width)})
            return nn.ModuleDict({"attention": attention, "intermediate": intermediate, "output": ended(4 * width)})

        def table(num_rows: int) -> nn.Embedding:
            return nn.Embedding(num_rows, width, _weight=torch.empty(num_rows, width))

        tables = {"word": num_embeddings, "position": num_positions, "token_type": 2}
        self.embeddings = nn.ModuleDict({f"{of}_embeddings": table(number) for of, number in tables.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(width, eps=epsilon)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layer() for _ in range(depth))})
        self._layers: list[Any] = list(self.encoder["layer"].children())

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, N) to the states (B, N, D) of the last layer."""
        parts: Any = self.embeddings.values()
        words, positions, types, norm = parts
        x: Tensor = norm(words(tokens) + types.weight[0] + positions.weight[: tokens.shape[1]])
        for layer in self._layers:
            projected = (one(x).unflatten(-1, (self.num_heads, -1)) for one in layer["attention"]["self"].values())
            attended = functional.scaled_dot_product_attention(*(one.transpose(1, 2) for one in projected))
            first, last = layer["attention"]["output"], layer["output"]
            x = first["LayerNorm"](first["dense"](attended.transpose(1, 2).flatten(2)) + x)
            x = last["LayerNorm"](last["dense"](functional.gelu(layer["intermediate"]["dense"](x))) + x)
        return x
