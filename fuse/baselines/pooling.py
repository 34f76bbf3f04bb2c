"""Pooling of a clip's rows to one vector, as the systems without a transformer do it.

Sources: HowTo100M (antoine77340/howto100m@50af0ff, model.py and youtube_dataloader.py), AVLnet
(roudimit/AVLnet@be70e95, model.py), and AVLnet as the authors of Everything at Once train it
(ninatu/everything_at_once@4daeab6, everything_at_once/model/avlnet.py).

Deviation, by choice of an argument: all of them let the padding of a batch take part, so that a clip's vector depends
on how far it was padded. `padding="masked"` leaves it out; `padding="published"` gives their numbers.

Legend: B batch, N rows, D width, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from ..base import Tokens

Padding = Literal["masked", "published"]


class WordPooling(nn.Module):
    """A linear layer and ReLU on every word, then the maximum over words. A caption of no words gives zeros."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim_in, dim_out)

    def forward(self, words: Tokens, *, padding: Padding = "masked") -> Float[Tensor, "B D"]:
        """Pool; under "published" whatever is at padded places is a word too."""
        return max_over_words(self.fc(words.values), words.mask, padding=padding)


def max_over_words(
    rows: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"], *, padding: Padding = "masked"
) -> Float[Tensor, "B D"]:
    """ReLU, then the maximum over words; a sample of no words gives zeros."""
    rows = functional.relu(rows)
    if padding == "masked":
        rows = rows * mask.bool()[..., None]  # nothing is below 0 after ReLU
    return rows.max(dim=1).values


def max_over_rows(rows: Tokens, *, padding: Padding = "masked") -> Float[Tensor, "B D"]:
    """The maximum over rows; a sample of no rows gives zeros."""
    if padding == "published":
        return rows.values.max(dim=1).values
    mask = rows.mask.bool()
    pooled = rows.values.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values
    return torch.where(mask.any(dim=1)[:, None], pooled, 0.0)


def unit_parts(vectors: Float[Tensor, "B D"], widths: Sequence[int] = ()) -> Float[Tensor, "B D"]:
    """Vectors over their Euclidean length: whole, or each of the joined parts for itself."""
    parts = torch.split(vectors, list(widths), dim=1) if widths else (vectors,)
    return torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1)
