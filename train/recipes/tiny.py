"""Ours, for hundreds of short clips and a CPU: Everything at Once, and the systems that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Recipe

_EVERYTHING_AT_ONCE = Recipe(
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
)
_AVLNET: Mapping[str, Any] = {"audio_cnn": "davenet_tiny", "projection_dim": 256}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "avlnet": _AVLNET,
    "howto100m": {"projection_dim": 256},
    # The published weight of the reconstruction, 50, leaves the contrast behind in so few steps.
    "mcn": {**_AVLNET, "num_clusters": 32, "queue_rows": 1024, "reconstruction_dim": 128, "reconstruction_weight": 1.0},
    "mil_nce": {"hidden_dim": 256, "projection_dim": 128},
}

RECIPES = (
    _EVERYTHING_AT_ONCE,
    *(
        _EVERYTHING_AT_ONCE.replaced(name=f"{model}_tiny", model=model, model_options=sizes)
        for model, sizes in _SIZES.items()
    ),
)
