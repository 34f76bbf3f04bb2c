"""Models that are not trained: what they are and how much of a clip they read."""

from __future__ import annotations

from .base import Recipe

_ALL_ROWS = 1_000_000  # of a clip or a text: a mean reads all of them

RECIPES = (
    Recipe(
        name="dual_encoder",
        model="dual_encoder",
        max_video_tokens=_ALL_ROWS,
        max_audio_frames=_ALL_ROWS,
        max_words=_ALL_ROWS,
    ),
    Recipe(name="imagenet_labels", model="imagenet_labels", max_video_tokens=_ALL_ROWS, max_words=_ALL_ROWS),
)
