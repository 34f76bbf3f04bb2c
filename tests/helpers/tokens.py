"""Batches for the tests of fusion models."""

from __future__ import annotations

import torch
from frameloom.fuse import Tokens

# Every registered test_* model takes rows of these widths.
WIDTHS = {"text": 12, "video": 24, "audio": 40, "speech": 12}
LENGTHS = {"text": (5, 3, 1, 4), "video": (6, 2, 4, 1), "audio": (32, 20, 7, 16), "speech": (2, 7, 3, 1)}


def tokens_of(lengths: tuple[int, ...], width: int, *, seed: int, num_rows: int | None = None) -> Tokens:
    """Random rows; what lies beyond a sample's length is noise that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = num_rows or max(*lengths, 1)
    values = torch.randn(len(lengths), num_rows, width, generator=generator)
    return Tokens(values, torch.arange(num_rows) < torch.tensor(lengths)[:, None])
