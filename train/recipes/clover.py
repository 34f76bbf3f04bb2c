"""Clover: pre-training, fine-tuning for retrieval, answers, choices and blanks, and tiny ones of ours for a CPU.

Source: Clover (arXiv 2207.07885), section 4.1, and the authors' configurations (LeeYN-43/Clover@fa05f2e,
configs/exp_local). Counts of word pieces include [CLS] and [SEP].

Deviations: the authors train in fp16 (set `precision`). Their still pictures are batches of their own with a step each;
here "balanced" adds both losses to one step. They read 30 word pieces of MSR-VTT in training and 25 in the test, 50 and
64 of DiDeMo; here the larger number. Their tests of TGIF's actions and transitions average short clips of four frames,
their training on MSVD's questions crops nothing, and a blank of LSMDC has a token of its own between video and words;
here all read eight frames of random crops, and none has that token. Their weight decay leaves out tables of relative
positions, which it takes along here.
"""

from __future__ import annotations

from typing import Any

from .base import FrameRecipe, Recipe, Task


def _frames(num_frames: int = 8, *, test_frames: int | None = None, flip: float = 0.0) -> FrameRecipe:
    """A frame of each of as many equal parts; random crops of 8 % of the picture or more, the library's default."""
    return FrameRecipe(num_frames=num_frames, test_frames=test_frames, rule="clover", min_area=0.08, flip=flip)


def _clover(name: str, *, frames: FrameRecipe, **differences: Any) -> Recipe:
    """What all have in common."""
    return Recipe(
        name=name,
        model="clover",
        frames=frames,
        optimizer="adamw",
        betas=(0.9, 0.98),
        decay_all=False,
        schedule="cosine",
        **differences,
    )


def _retrieval(data: str, *, frames: FrameRecipe, max_words: int, **differences: Any) -> Recipe:
    """Section 4.1: the two encoders alone, with the contrast of pairs; 32 frames in the test."""
    return _clover(
        f"clover_{data}",
        frames=frames,
        model_options={"task": "retrieval", "max_words": max_words},
        max_words=max_words,
        learning_rate=1.2e-5,
        weight_decay=0.01,
        clip_gradient=5.0,
        **differences,
    )


_ASKED: dict[str, Task] = {
    "open_answer": "open_answer",
    "fill_blank": "open_answer",  # a question with [MASK] in it
    "multiple_choice": "multiple_choice",
}


def _answers(
    data: str,
    task: str,
    *,
    max_words: int,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1.2e-5,
    weight_decay: float = 0.01,
    **model_options: Any,
) -> Recipe:
    """Section 4.1: answers read off the joint encoder, by a head that learns ten times as fast; a tenth is warm-up."""
    return _clover(
        f"clover_{data}",
        task=_ASKED[task],
        frames=_frames(),
        model_options={"task": task, "projections": True, "max_words": max_words, **model_options},
        max_words=max_words,
        epochs=epochs,
        warmup_epochs=0.1 * epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_gradient=50.0,
        head_rate=10.0,
    )


_TINY: dict[str, Any] = {
    "num_frames": 4,
    "patch_size": 8,
    "swin_width": 64,
    "swin_depths": (2, 2),
    "swin_heads": (2, 4),
    "window": (2, 4, 4),
    "drop_path": 0.0,
    "text_width": 128,
    "text_depth": 2,
    "text_heads": 4,
    "text_hidden": 256,
    "max_positions": 96,
    "fusion_depth": 2,
    "projection_dim": 128,
    "video_hidden": 256,
}


def _tiny(name: str, *, max_words: int = 24, **model_options: Any) -> Recipe:
    """Ours, for hundreds of short clips. They are not mirrored, since captions may say left and right."""
    return _clover(
        name,
        task=_ASKED.get(model_options.get("task", ""), "retrieval"),
        frames=FrameRecipe(num_frames=4, rule="clover", size=64, min_area=0.8, flip=0.0),
        model_options={**_TINY, **model_options},
        max_words=max_words,
        epochs=10,
        min_steps=300,
        batch_size=32,
        learning_rate=5e-4,
        weight_decay=0.05,
        warmup_steps=30,
        clip_gradient=1.0,
        checkpoint_steps=50,
    )


RECIPES = (
    _clover(
        "clover",
        frames=_frames().replaced(pictures="balanced"),
        max_words=30,
        epochs=40,
        warmup_epochs=4.0,
        batch_size=1024,
        learning_rate=5e-5,
        final_rate=1e-3,
        weight_decay=0.005,
        clip_gradient=15.0,
    ),
    _retrieval(
        "msrvtt",
        frames=_frames(12, test_frames=32, flip=0.5),
        max_words=30,
        epochs=100,
        warmup_epochs=10.0,
        batch_size=128,
    ),
    _retrieval("didemo", frames=_frames(test_frames=32), max_words=64, epochs=50, warmup_epochs=5.0, batch_size=256),
    _retrieval("lsmdc", frames=_frames(test_frames=32), max_words=40, epochs=50, warmup_epochs=5.0, batch_size=128),
    # The five captions of MSR-VTT's choices are compared by vectors: `clover_msrvtt`, in batches of 16.
    _answers("msrvtt_qa", "open_answer", max_words=40, epochs=20, batch_size=256, weight_decay=0.001, num_answers=1500),
    _answers("tgif_frame", "open_answer", max_words=40, epochs=20, num_answers=1540),
    _answers("msvd_qa", "open_answer", max_words=40, epochs=40, num_answers=1000, answer_dropout=0.5),
    *(
        _answers(data, "multiple_choice", max_words=100, epochs=epochs, learning_rate=5e-6, answer_dropout=0.5)
        for data, epochs in (("tgif_action", 100), ("tgif_transition", 50))
    ),
    _answers("lsmdc_choice", "multiple_choice", max_words=256, epochs=20, answer_dropout=0.5),
    _answers("lsmdc_blank", "fill_blank", max_words=200, epochs=20, num_answers=908, answer_dropout=0.5),
    _tiny("clover_tiny", fused_hidden=256, word_masking="random", masked_cells=3, min_block=1),
    # Fine-tunings of it (`model.start`), or begun anew.
    _tiny("clover_qa_tiny", max_words=16, task="open_answer", projections=True, num_answers=64),
    _tiny("clover_choice_tiny", max_words=40, task="multiple_choice", projections=True),
)
