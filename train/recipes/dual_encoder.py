"""Models that are not trained: what they are and how much of a clip they read."""

from __future__ import annotations

from .base import Recipe

_ALL_ROWS = 1_000_000  # of a clip or a text: a mean reads all of them

RECIPES = tuple(
    Recipe(name=name, model=name, max_video_tokens=_ALL_ROWS, max_words=_ALL_ROWS)
    for name in ("dual_encoder", "imagenet_labels")
)
