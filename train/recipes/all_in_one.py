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


def _published(name: str, *, pictures: Any = "as_videos", max_words: int = 40, **differences: Any) -> Recipe:
    """What all published trainings have in common."""
    return Recipe(
        name=name,
        model="all_in_one",
        frames=FrameRecipe(num_frames=3, min_area=0.7, max_aspect=1.0, pictures=pictures),
        max_words=max_words,
        optimizer="adamw",
        betas=(0.9, 0.98),
        weight_decay=0.01,
        decay_all=False,
        schedule="linear",
        precision="fp16",
        **differences,
    )


def _retrieval(name: str, *, epochs: int, learning_rate: float, max_words: int = 40) -> Recipe:
    """Fine-tuning of the contrast alone; a tenth of it is warm-up."""
    return _published(
        name,
        model_options={"mlm_weight": 0.0, "vtm_weight": 0.0},
        epochs=epochs,
        batch_size=1024,
        learning_rate=learning_rate,
        warmup_epochs=0.1 * epochs,
        max_words=max_words,
    )


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
    # DiDeMo joins a video's sentences, and LSMDC's are long.
    _retrieval("all_in_one_msrvtt", epochs=200, learning_rate=3e-4),
    _retrieval("all_in_one_activitynet", epochs=200, learning_rate=3e-4),
    _retrieval("all_in_one_didemo", epochs=200, learning_rate=6e-4, max_words=80),
    _retrieval("all_in_one_lsmdc", epochs=50, learning_rate=1e-4, max_words=80),
)
