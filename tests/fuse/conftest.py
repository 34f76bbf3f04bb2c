"""Batches for the tests of fusion models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from frameloom.fuse import Tokens

WIDTHS = {"text": 12, "video": 24, "audio": 40}
LENGTHS = {"text": (5, 3, 1, 4), "video": (6, 2, 4, 1), "audio": (32, 20, 7, 16)}


def tokens_of(lengths: tuple[int, ...], width: int, *, seed: int, num_rows: int | None = None) -> Tokens:
    """Random rows; what lies beyond a sample's length is noise that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = num_rows or max(*lengths, 1)
    values = torch.randn(len(lengths), num_rows, width, generator=generator)
    return Tokens(values, torch.arange(num_rows) < torch.tensor(lengths)[:, None])


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tokens]]:
    """A batch for the test models; `lengths` replaces the real rows of each sample of a modality."""

    def make(lengths: Mapping[str, tuple[int, ...]] | None = None, *, seed: int = 0) -> dict[str, Tokens]:
        chosen = {**LENGTHS, **(lengths or {})}
        return {name: tokens_of(chosen[name], WIDTHS[name], seed=seed + i) for i, name in enumerate(WIDTHS)}

    return make


def pytest_make_parametrize_id(val: Any) -> str | None:
    return "+".join(val) if isinstance(val, tuple) and all(isinstance(each, str) for each in val) else None
