"""All-in-one: co-training with pictures, and the fine-tunings. Pre-training is in `pixels.py`.

Source: All-in-one (arXiv 2203.07303) and the authors' configurations (showlab/all-in-one@ae0e288, AllInOne/config.py
and CoTraining/). Linear decay to zero, betas 0.9 and 0.98, no decay of biases and normalisations. Counts of word pieces
include [CLS] and [SEP].

Deviations: the authors crop squares of one size (0.70 of the area), here of 0.70 to 1. A list of answers has room for
"other" as published, to which no question belongs here. Captioning was published without code and without numbers of a
training: this one has those of MSR-VTT's questions. A published batch is over many GPUs: set `batch_size` to what fits.
Sizes S and Ti are trained by the same recipes with the model `all_in_one_s` or `all_in_one_ti`.
"""

from __future__ import annotations

from typing import Any

from .base import FrameRecipe, Recipe, Task


def _published(name: str, *, pictures: Any = "as_videos", max_words: int = 40, **differences: Any) -> Recipe:
    """What all published trainings have in common."""
    return Recipe(
        name=name,
        model="all_in_one",
        frames=FrameRecipe(num_frames=3, min_area=0.7, max_aspect=1.0, flip=0.0, pictures=pictures),
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


def _task(
    name: str, task: Task, *, epochs: int, batch_size: int = 512, learning_rate: float = 1e-4, **model_options: Any
) -> Recipe:
    """Fine-tuning of one task alone: a tenth of it is warm-up, and heads that begin anew learn ten times as fast."""
    off = dict.fromkeys(("mlm_weight", "vtm_weight", "contrast_weight"), 0.0)
    return _published(
        name,
        task=task,
        model_options={**off, **model_options},
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_epochs=0.1 * epochs,
        head_rate=1.0 if model_options.get("rank_head") else 10.0,
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
    _task("all_in_one_msrvtt_qa", "open_answer", epochs=20, num_answers=1501),
    _task("all_in_one_msvd_qa", "open_answer", epochs=20, num_answers=1001),
    _task("all_in_one_tgif_frame", "open_answer", epochs=20, num_answers=1541),
    _task("all_in_one_tgif_action", "multiple_choice", epochs=100, option_head=True),
    # Five captions to choose from: the ranking head, which begins as the matching head's.
    _task("all_in_one_msrvtt_choice", "multiple_choice", epochs=10, batch_size=256, rank_head=True),
    _task("all_in_one_lsmdc_choice", "multiple_choice", epochs=20, batch_size=256, learning_rate=1e-5, rank_head=True),
    _task("all_in_one_msrvtt_captions", "captions", epochs=20, caption_weight=1.0),
)
