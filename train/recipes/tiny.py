"""Ours, for hundreds of short clips and a CPU."""

from __future__ import annotations

from .base import Recipe

RECIPES = (
    Recipe(
        name="everything_at_once_tiny",
        model="everything_at_once_tiny",
        epochs=20,
        min_steps=120,
        batch_size=50,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=20,
        clip_gradient=1.0,
        max_video_tokens=32,
        max_audio_frames=1600,
    ),
)
