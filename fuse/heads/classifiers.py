"""Classifiers on a pooled vector: open-ended answers, options of a question, the order of frames.

Sources: All-in-one (arXiv 2203.07303), showlab/all-in-one@ae0e288, AllInOne/modules/heads.py and allinone_module.py,
whose places of weights the attributes keep; Clover's question heads have the same layers.

Legend: B batch, K options, T frames, D width, A answers.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..layers import Linear


class Pooler(nn.Module):
    """Tanh of a linear layer of the first token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        return torch.tanh(self.dense(x[:, 0]))


class AnswerHead(nn.Sequential):
    """Dropout, linear, layer normalisation, GELU, linear: scores of answers, or with one output of an option.

    Args:
        dim: D.
        hidden: width between the layers; D / 2 for answers, 256 for options as published.
        num_answers: A.
        dropout: 0.5 for answers, 0.1 for options as published.
    """

    def __init__(self, dim: int, *, hidden: int, num_answers: int, dropout: float) -> None:
        super().__init__(
            nn.Dropout(dropout), Linear(dim, hidden), nn.LayerNorm(hidden), nn.GELU(), Linear(hidden, num_answers)
        )


class FrameOrderHead(nn.Module):
    """In which order frames were given (Xu et al., CVPR 2019): every two frames, then all of these together."""

    def __init__(self, dim: int, *, num_frames: int = 3, hidden: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.pairs = list(combinations(range(num_frames), 2))
        self.fc7 = Linear(2 * dim, hidden)
        self.fc8 = Linear(len(self.pairs) * hidden, factorial(num_frames))
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Float[Tensor, "B T D"]) -> Float[Tensor, "B orders"]:
        """Scores of the orders, as `itertools.permutations` has them."""
        pairs = [functional.relu(self.fc7(frames[:, pair].flatten(1))) for pair in self.pairs]
        scores: Tensor = self.fc8(self.dropout(torch.cat(pairs, dim=1)))
        return scores


def choice_loss(scores: Float[Tensor, "B K"], answers: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross entropy of the right one among K; answers below 0 are unknown and left out. Zero where none is left."""
    known = answers >= 0
    return functional.cross_entropy(scores[known].float(), answers[known]) if known.any() else scores.sum() * 0.0
