"""T2V2T and VindLU: pre-training, and fine-tuning for retrieval.

Sources: T2V2T, tables 3 and 4; VindLU (arXiv 2212.05051), klauscc/VindLU@3046548, configs/, which T2V2T follows. Where
both differ the recipe of each is its own: T2V2T warms up for half an epoch of fine-tuning and ends at a tenth of the
learning rate, VindLU warms up for none of MSR-VTT and DiDeMo and for one of ActivityNet, and ends at a hundredth.

Deviations: the authors train in fp16 (set `precision`); their weight decay leaves out vectors, as here, and takes the
learned temperature and the gates of attention over time, which are single numbers, along.
"""

from __future__ import annotations

from typing import Any

from .base import FrameRecipe, Recipe


def _retrieval(model: str, **differences: Any) -> Recipe:
    """What all have in common."""
    return Recipe(
        model=model,
        max_words=differences.pop("max_words", 32),
        optimizer="adamw",
        weight_decay=0.02,
        decay_all=False,
        schedule="cosine_after_warmup",
        **differences,
    )


def _tuning(model: str, data: str, *, test_frames: int, **differences: Any) -> Recipe:
    """Table 4: contrast and matching, without masked words; frames are drawn at random."""
    return _retrieval(
        model,
        name=f"{model}_{data}",
        model_options={"mlm_weight": 0.0},
        frames=FrameRecipe(num_frames=12, test_frames=test_frames, rule="vindlu"),
        learning_rate=1e-5,
        final_rate=0.1 if model == "t2v2t" else 0.01,
        **differences,
    )


def _family(model: str, *, warmup_epochs: tuple[float, float, float]) -> tuple[Recipe, ...]:
    msrvtt, didemo, activitynet = warmup_epochs
    return (
        _retrieval(
            model,
            name=model,
            frames=FrameRecipe(num_frames=4, rule="vindlu"),
            epochs=10,
            warmup_epochs=1.0,
            batch_size=512,
            learning_rate=1e-4,
            final_rate=0.01,
        ),
        _tuning(model, "msrvtt", test_frames=12, epochs=5, warmup_epochs=msrvtt, batch_size=128),
        _tuning(model, "didemo", test_frames=12, epochs=10, warmup_epochs=didemo, batch_size=32, max_words=64),
        _tuning(
            model, "activitynet", test_frames=32, epochs=10, warmup_epochs=activitynet, batch_size=32, max_words=64
        ),
        # Ours, for hundreds of short clips and a CPU. Clips are not mirrored, since captions may say left and right.
        Recipe(
            name=f"{model}_tiny",
            model=model,
            frames=FrameRecipe(num_frames=4, rule="vindlu", size=64, min_area=0.8, flip=0.0),
            model_options={
                "patch_size": 16,
                "video_width": 128,
                "video_depth": 4,
                "video_heads": 4,
                "video_hidden": 256,
                "temporal_heads": 4,
                "drop_path": 0.0,
                "temporal_drop_path": 0.0,
                "text_width": 128,
                "text_depth": 4,
                "first_fusion": 2,
                "text_heads": 4,
                "text_hidden": 256,
                "text_positions": 96,
                "projection_dim": 128,
            },
            max_words=24,
            epochs=10,
            min_steps=300,
            batch_size=32,
            optimizer="adamw",
            learning_rate=5e-4,
            weight_decay=0.05,
            decay_all=False,
            schedule="cosine",
            warmup_steps=30,
            clip_gradient=1.0,
            checkpoint_steps=50,
        ),
    )


RECIPES = (
    *_family("t2v2t", warmup_epochs=(0.5, 0.5, 0.5)),
    *_family("vindlu", warmup_epochs=(0.0, 0.0, 1.0)),
)
