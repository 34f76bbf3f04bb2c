"""The fields of a recipe. Recipes are data that differ only where the papers differ: a file for each family of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from ..._settings import Settings
from ..._vocabulary import ConfigError
from ..data import AudioShift


class Narration(Settings):
    """How clips are drawn of narrated videos, see `NarratedDataset`."""

    clips_per_video: int = Field(default=10, gt=0)
    """Clips of each video in an epoch."""
    min_seconds: float = Field(default=8.0, gt=0)
    """Length of a random span; a clip of whole sentences lasts at least so long, where there are enough."""
    audio_shift: AudioShift = "later"
    """Where the sound of a clip with words begins: with the clip (none), later, or by a coin later or earlier."""


class Recipe(Settings):
    """How a model is trained."""

    name: str
    """The registered name."""
    model: str = "everything_at_once"
    """Registered model that it trains."""
    model_options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of that model which belong to the recipe."""
    narration: Narration | None = None
    """How clips are drawn of narrated videos; None for recipes of single clips."""
    max_video_tokens: int = Field(default=12, gt=0)
    """Feature rows of a clip that are kept."""
    max_audio_frames: int = Field(default=768, gt=0)
    """Spectrogram frames (10 ms) of a clip that are kept."""
    max_words: int = Field(default=20, gt=0)
    """Words of a caption that are kept."""
    epochs: int = Field(default=15, gt=0)
    """Passes over the training clips."""
    min_steps: int = Field(default=0, ge=0)
    """Fewest steps in all; on a small collection, epochs are added until there are so many."""
    batch_size: int = Field(default=2240, gt=0)
    """Clips in a batch, over all processes; with `narration` videos."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """The weight decay of adamw does not pass through the gradient."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """At the beginning, after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On every weight that is trained."""
    schedule: Literal["constant", "exponential", "cosine"] = "exponential"
    """Of the learning rate. exponential: times `decay` after every epoch; cosine: down to zero at the end."""
    decay: float = Field(default=0.9, gt=0)
    """See `schedule`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from zero."""
    clip_gradient: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient; 0 for no limit."""
    freeze_batch_norm: bool = False
    """Train in evaluation mode, batch statistics as they are (the authors' fine-tuning)."""
    sync_batch_norm: bool = True
    """On several processes, take batch statistics over all of them, as one process would. The authors' data parallelism
    takes them over each GPU's share. No difference on one process."""
    gradient_checkpointing: bool = False
    """Keep only what enters each block, and compute the block again in backward: less memory, about a third more time,
    the same numbers."""
    precision: Literal["no", "fp16", "bf16"] = "no"
    """no is float32; fp16 and bf16 are mixed precision."""
    seed: int = Field(default=0, ge=0)
    """Of the order of clips, the choice of captions and any other draw."""
    checkpoint_steps: int = Field(default=200, ge=0)
    """Steps between saved states within an epoch; 0 saves after epochs only."""

    @field_validator("narration", mode="before")
    @classmethod
    def _narration(cls, given: Any) -> Any:
        """A mapping of its options, refused before anything is extracted."""
        if not isinstance(given, Mapping):
            return given
        try:
            return Narration(**given) if given else None
        except ConfigError as problem:
            raise ConfigError(f"narration: {problem}") from None

    def limits(self) -> dict[str, int]:
        """How much of a clip the model reads while it is trained."""
        return {name: getattr(self, name) for name in ("max_video_tokens", "max_audio_frames", "max_words")}
