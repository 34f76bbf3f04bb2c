"""Everything at Once: pre-training, its ablations, and the fine-tunings of table 2.

Source: Everything at Once (arXiv 2112.04446), section 4.1, and the authors' configurations
(ninatu/everything_at_once@4daeab6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data import AudioShift
from .base import Narration, Recipe

_EQUAL_WEIGHTS: dict[str, Any] = {f"lambda_{name}": 1.0 for name in ("tv", "ta", "va", "t_va", "v_ta", "a_tv")}
_PADDING = {"audio_padding": "published"}
_PRETRAINING: dict[str, Any] = {**_PADDING, "pad_audio_to": 768}


def _pretraining(name: str, *, audio_shift: AudioShift = "later", **model_options: Any) -> Recipe:
    """Section 4.1 on narrated videos: 224 videos x 10 clips. The differences are those of section 4.4."""
    return Recipe(
        name=name,
        model_options={**_PRETRAINING, **model_options},
        narration=Narration(clips_per_video=10, min_seconds=8.0, audio_shift=audio_shift),
        batch_size=224,
        precision="fp16",
    )


def _finetuning(name: str, *, num_clips: int, model_options: Mapping[str, Any] | None = None, **others: Any) -> Recipe:
    """Table 2: clips as long as `num_clips` of pre-training, and every weight of the objective 1."""
    options = {**_EQUAL_WEIGHTS, **_PADDING, "pad_audio_to": 768 * num_clips, **(model_options or {})}
    return Recipe(
        name=name,
        model_options=options,
        max_video_tokens=12 * num_clips,
        max_audio_frames=768 * num_clips,
        freeze_batch_norm=True,
        precision="fp16",
        **others,
    )


RECIPES = (
    # Section 4.1: 224 videos x 10 clips, mixed precision; here of single clips, below of narrated videos.
    Recipe(name="everything_at_once", model_options=_PRETRAINING, precision="fp16"),
    _pretraining("everything_at_once_howto100m"),
    # Text and sound of the same seconds, and every weight of the objective 1.
    _pretraining("everything_at_once_howto100m_aligned", audio_shift="none", **_EQUAL_WEIGHTS),
    _pretraining("everything_at_once_howto100m_equal_weights", **_EQUAL_WEIGHTS),
    _pretraining("everything_at_once_howto100m_tv", modalities=["text", "video"]),
    # One row a second of one stronger backbone in place of two; CLIP's text goes with its pictures.
    _pretraining("everything_at_once_howto100m_s3d", video_dim=1024),
    _pretraining("everything_at_once_howto100m_clip", video_dim=512, text_dim=512),
    _finetuning("everything_at_once_msrvtt", num_clips=4, epochs=25, batch_size=128),
    _finetuning(
        "everything_at_once_msrvtt_clip",
        num_clips=4,
        model_options={"video_dim": 512, "text_dim": 512},
        epochs=25,
        batch_size=64,
    ),
    _finetuning("everything_at_once_youcook2", num_clips=6, epochs=5, batch_size=256, learning_rate=1e-5),
)
