"""Parts of All-in-one: what a pass gives, small heads, and parts of a batch.

Legend: B batch, T frames, W tokens of a text, L visual tokens of a frame, S tokens of a sequence, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base import Tokens
from ..layers import BertSpec, Linear, MaskedWordHead


class Features(NamedTuple):
    """What the backbone gives of a text, a clip, or both.

    Attributes:
        text: (B, W, D) of its words; None for a clip alone.
        video: (B, L, D) of its visual tokens, the mean over frames; None for a text alone.
        first: (B, D) the first token: the text's [CLS] where there is one, else the visual class token.
        frames: (B, T, S, D) all tokens before the mean over frames.
    """

    text: Tensor | None
    video: Tensor | None
    first: Tensor
    frames: Tensor


class Fully(nn.Module):
    """A linear layer called `fc`."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.fc = Linear(dim_in, dim_out)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        scores: Tensor = self.fc(x)
        return scores


class PixelHead(MaskedWordHead):
    """The layers of the head of words, for the colours of masked patches; its decoder has the bias."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__(spec)
        del self.bias


def averaged(x: Float[Tensor, "B T S D"], frames: Tensor) -> Float[Tensor, "B S D"]:
    """The mean over real frames; of a sample without one, over all."""
    if frames.all():
        return x.mean(dim=1)
    real = frames | ~frames.any(dim=1, keepdim=True)
    weights = real.to(x.dtype) / real.sum(dim=1, keepdim=True)
    return torch.einsum("btsd,bt->bsd", x, weights)


def chosen(tokens: Tokens, rows: Tensor) -> Tokens:
    """Those samples of a modality."""
    return Tokens(tokens.values.index_select(0, rows), tokens.mask.index_select(0, rows))


def first_frames(video: Tokens) -> Tokens:
    """Pictures: the first real frame of each sample alone."""
    first = video.mask.bool().long().argmax(dim=1)
    samples = torch.arange(len(first), device=first.device)
    return Tokens(video.values[samples, first][:, None], video.mask[samples, first][:, None])
