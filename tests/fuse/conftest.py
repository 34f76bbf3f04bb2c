"""Batches for the tests of fusion models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from frameloom.fuse import Tokens
from helpers.models import LENGTHS, PIXEL_LENGTHS, WIDTHS, pixels_of, tokens_of


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tokens]]:
    """A batch for the test models; `lengths` replaces the real rows of each sample of a modality.

    Any name that is not in `WIDTHS` is a modality of word vectors, four rows of each sample. With `pixels`, text is
    token ids and video pictures.
    """

    def make(
        lengths: Mapping[str, tuple[int, ...]] | None = None,
        *,
        seed: int = 0,
        modalities: Sequence[str] = ("text", "video", "audio"),
        pixels: bool = False,
    ) -> dict[str, Tokens]:
        if pixels:
            own = {**PIXEL_LENGTHS, **{name: each for name, each in (lengths or {}).items() if name in PIXEL_LENGTHS}}
            return {name: pixels_of(name, own[name], seed=seed + i) for i, name in enumerate(modalities)}
        chosen = {**LENGTHS, **(lengths or {})}
        seeds = {name: seed + i for i, name in enumerate((*WIDTHS, *sorted(set(modalities) - WIDTHS.keys())))}
        return {
            name: tokens_of(chosen.get(name, (4, 4, 4, 4)), WIDTHS.get(name, 12), seed=seeds[name])
            for name in modalities
        }

    return make


def pytest_make_parametrize_id(val: Any) -> str | None:
    return "+".join(val) if isinstance(val, tuple) and all(isinstance(each, str) for each in val) else None
