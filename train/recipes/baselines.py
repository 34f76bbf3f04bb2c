"""The systems that Everything at Once is compared with, as their authors' commands train them.

On single clips and on narrated videos: 32 videos x 64 clips (HowTo100M), 256 x 32 (AVLnet), 128 x 32 (MCN).
"""

from __future__ import annotations

from typing import Any

from .base import Narration, Recipe

# Systems that pool a clip's rows read all of them; longer clips than this many rows are hardly ever drawn.
_WHOLE_CLIP = 64
_POOLED_PADDING: dict[str, Any] = {"padding": "published", "pad_words_to": 20}
_AUDIO_MEAN = {**_POOLED_PADDING, "audio_mean": "all_in_training"}


def _howto100m(name: str, *, clips_per_video: int = 1, **differences: Any) -> Recipe:
    """Max-margin ranking of HowTo100M (arXiv 1906.03327)."""
    return Recipe(
        name=name,
        model="howto100m",
        model_options={**_POOLED_PADDING, "clips_per_video": clips_per_video},
        max_video_tokens=_WHOLE_CLIP,
        learning_rate=1e-4,
        **differences,
    )


def _avlnet(name: str, **differences: Any) -> Recipe:
    """AVLnet-Text-Tri (arXiv 2006.09199)."""
    return Recipe(
        name=name,
        model="avlnet",
        model_options={**_AUDIO_MEAN, "pad_audio_to": 800},
        max_video_tokens=_WHOLE_CLIP,
        max_audio_frames=800,
        learning_rate=2.5e-4,
        precision="fp16",
        **differences,
    )


def _mcn(name: str, **differences: Any) -> Recipe:
    """The Multimodal Clustering Network (arXiv 2104.12671)."""
    return Recipe(
        name=name,
        model="mcn",
        model_options={**_AUDIO_MEAN, "pad_audio_to": 1000},
        max_video_tokens=_WHOLE_CLIP,
        max_audio_frames=1000,
        epochs=30,
        learning_rate=1e-4,
        schedule="cosine",
        warmup_steps=5000,
        precision="fp16",
        **differences,
    )


RECIPES = (
    _howto100m("howto100m", batch_size=2048),
    _howto100m(
        "howto100m_narrated",
        batch_size=32,
        clips_per_video=64,
        narration=Narration(clips_per_video=64, min_seconds=5.0, audio_shift="none"),
    ),
    _avlnet("avlnet", batch_size=8192),
    _avlnet(
        "avlnet_narrated",
        batch_size=256,
        narration=Narration(clips_per_video=32, min_seconds=8.0, audio_shift="none"),
    ),
    _mcn("mcn", batch_size=4096),
    _mcn(
        "mcn_narrated",
        batch_size=128,
        narration=Narration(clips_per_video=32, min_seconds=10.0, audio_shift="none"),
    ),
    # Its authors train the backbone as well, from pixels.
    Recipe(
        name="mil_nce",
        model="mil_nce",
        model_options=_POOLED_PADDING,
        max_video_tokens=_WHOLE_CLIP,
        epochs=150,
        batch_size=256,
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=5000,
    ),
)
