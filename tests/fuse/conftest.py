"""Batches for the tests of fusion models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
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


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tokens]]:
    """A batch for the test models; `lengths` replaces the real rows of each sample of a modality.

    Any name that is not in `WIDTHS` is a modality of word vectors, four rows of each sample.
    """

    def make(
        lengths: Mapping[str, tuple[int, ...]] | None = None,
        *,
        seed: int = 0,
        modalities: Sequence[str] = ("text", "video", "audio"),
    ) -> dict[str, Tokens]:
        chosen = {**LENGTHS, **(lengths or {})}
        seeds = {name: seed + i for i, name in enumerate((*WIDTHS, *sorted(set(modalities) - WIDTHS.keys())))}
        return {
            name: tokens_of(chosen.get(name, (4, 4, 4, 4)), WIDTHS.get(name, 12), seed=seeds[name])
            for name in modalities
        }

    return make


def pytest_make_parametrize_id(val: Any) -> str | None:
    return "+".join(val) if isinstance(val, tuple) and all(isinstance(each, str) for each in val) else None
