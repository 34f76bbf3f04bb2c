"""All-in-one: co-training with pictures, and the fine-tunings for retrieval. Pre-training is in `pixels.py`.

Source: All-in-one (arXiv 2203.07303) and the authors' configurations (showlab/all-in-one@ae0e288, AllInOne/config.py
and CoTraining/). Linear decay to zero, betas 0.9 and 0.98, no decay of biases and normalisations. Counts of word pieces
include [CLS] and [SEP].

Deviations: the authors crop squares of one size (0.70 of the area), here of 0.70 to 1; they train heads of tasks at ten
times the rate, here at the rate of the rest. A published batch is over many GPUs: set `batch_size` to what fits. Sizes
S and Ti are trained by the same recipes with the model `all_in_one_s` or `all_in_one_ti`.
"""

from __future__ import annotations

from typing import Any

from .base import FrameRecipe, Recipe

_CONTRAST_ALONE = {"mlm_weight": 0.0, "vtm_weight": 0.0}


def _published(name: str, *, pictures: Any = "as_videos", warmup: float = 0.1, **differences: Any) -> Recipe:
    """What all published trainings have in common; `warmup` is a share of the epochs."""
    fields = {
        "name": name,
        "model": "all_in_one",
        "frames": FrameRecipe(num_frames=3, min_area=0.7, max_aspect=1.0, pictures=pictures),
        "max_words": 40,
        "optimizer": "adamw",
        "betas": (0.9, 0.98),
        "weight_decay": 0.01,
        "decay_all": False,
        "schedule": "linear",
        "precision": "fp16",
        **differences,
    }
    if "warmup_steps" not in fields:
        fields["warmup_epochs"] = warmup * fields["epochs"]
    return Recipe(**fields)


RECIPES = (
    # Section 3.4: a batch of clips and one of pictures in every step.
    _published(
        "all_in_one_cotraining",
        model_options={"cotraining": True},
        pictures="balanced",
        epochs=30,
        batch_size=2048,
        learning_rate=1e-4,
        warmup_steps=2500,
    ),
    # Retrieval by contrast; DiDeMo joins a video's sentences, LSMDC's are long.
    _published("all_in_one_msrvtt", model_options=_CONTRAST_ALONE, epochs=200, batch_size=1024, learning_rate=3e-4),
    _published(
        "all_in_one_activitynet", model_options=_CONTRAST_ALONE, epochs=200, batch_size=1024, learning_rate=3e-4
    ),
    _published(
        "all_in_one_didemo",
        model_options=_CONTRAST_ALONE,
        epochs=200,
        batch_size=1024,
        learning_rate=6e-4,
        max_words=80,
    ),
    _published(
        "all_in_one_lsmdc",
        model_options=_CONTRAST_ALONE,
        epochs=50,
        batch_size=1024,
        learning_rate=1e-4,
        max_words=80,
    ),
)
