"""MILES and All-in-one: pre-training as their authors train them, and tiny ones of ours for a CPU, of tasks too.

Sources: MILES (arXiv 2204.12408) section 4.3; All-in-one (arXiv 2203.07303) and its code. Counts of word pieces include
[CLS] and [SEP].

Deviations: MILES halves the batch in its second stage; All-in-one crops squares of one size (0.70 of the area), here of
0.70 to 1. A published batch is over many GPUs: set `batch_size` to what fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import FrameRecipe, Recipe, Task


def _pretraining(name: str, *, frames: FrameRecipe, **differences: Any) -> Recipe:
    """What they have in common: AdamW, and no decay of biases and normalisations."""
    return Recipe(name=name, model=name, frames=frames, optimizer="adamw", decay_all=False, **differences)


def _tiny(model: str, *, rule: Any = "frozen_in_time", min_steps: int = 300, **model_options: Any) -> Recipe:
    """Ours, for hundreds of short clips and a CPU: pictures of 64 pixels, few and narrow layers.

    Clips are not mirrored, since captions may say left and right.
    """
    return _pretraining(
        model,
        frames=FrameRecipe(num_frames=4, rule=rule, size=64, min_area=0.8, flip=0.0),
        model_options=model_options,
        max_words=24,
        epochs=10,
        min_steps=min_steps,
        batch_size=32,
        learning_rate=5e-4,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=30,
        clip_gradient=1.0,
        checkpoint_steps=50,
    ).replaced(name=f"{model}_tiny")


_FROZEN_IN_TIME_TINY: dict[str, Any] = {
    "patch_size": 16,
    "width": 96,
    "depth": 3,
    "heads": 3,
    "text_width": 96,
    "text_depth": 2,
    "text_heads": 3,
    "text_hidden": 192,
    "text_positions": 96,
    "projection_dim": 96,
}
_ALL_IN_ONE_TINY: dict[str, Any] = {"patch_size": 16, "width": 96, "depth": 3, "heads": 3, "projection_dim": 96}


def _tiny_task(
    name: str, *, task: Task, max_words: int, model_options: Mapping[str, Any], **differences: Any
) -> Recipe:
    """A tiny All-in-one that learns one task alone. With so few clips and steps dropping helps nothing."""
    off: dict[str, Any] = dict.fromkeys(("mlm_weight", "vtm_weight", "contrast_weight", "dropout", "drop_path"), 0.0)
    tiny = _tiny("all_in_one", **_ALL_IN_ONE_TINY, **off, **model_options)
    return tiny.replaced(name=name, task=task, max_words=max_words, **differences)


RECIPES = (
    # Section 4.3: 16 epochs of one frame at 1e-4, then 4 of four frames at 3e-5.
    _pretraining(
        "miles",
        frames=FrameRecipe(num_frames=4, curriculum=((0, 1), (16, 4))),
        max_words=77,
        epochs=20,
        batch_size=2048,
        learning_rate=1e-4,
        schedule="steps",
        decay=0.3,
        decay_epochs=(16,),
    ),
    # As printed, a sum, the regression outweighs the contrast by hundreds.
    _tiny("miles", **_FROZEN_IN_TIME_TINY, min_block=2, mvm_loss="square_mean"),
    _tiny("frozen_in_time", **_FROZEN_IN_TIME_TINY),
    # The code's pre-training: 3 frames, polynomial decay of power 1 to 0.
    _pretraining(
        "all_in_one",
        frames=FrameRecipe(num_frames=3, min_area=0.7, max_aspect=1.0, flip=0.0),
        max_words=40,
        min_steps=200_000,
        epochs=1,
        batch_size=4096,
        learning_rate=1e-4,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        schedule="linear",
        warmup_steps=2500,
    ),
    _tiny("all_in_one", **_ALL_IN_ONE_TINY),
    # Fine-tunings of it or of each other (`model.start`), or begun anew.
    _tiny_task("all_in_one_qa_tiny", task="open_answer", max_words=16, model_options={"num_answers": 64}),
    # Every option is a pass of its own.
    _tiny_task(
        "all_in_one_choice_tiny",
        task="multiple_choice",
        max_words=40,
        model_options={"option_head": True},
        epochs=4,
        learning_rate=1e-3,
    ),
    # Captions say much that no clip shows: which of its things they name, and in which words.
    _tiny_task(
        "all_in_one_captions_tiny",
        task="captions",
        max_words=24,
        model_options={"caption_weight": 1.0},
        epochs=60,
        batch_size=64,
        learning_rate=1.5e-3,
    ),
)
