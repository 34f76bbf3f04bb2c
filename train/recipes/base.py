"""The fields of a recipe. Recipes are data that differ only where the papers differ: a file for each family of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ..._settings import Listed, Settings
from ..._vocabulary import ConfigError
from ..data import AudioShift, FrameOptions

_LATER_FIELDS = ("frames", "betas", "decay_all", "decay_epochs", "final_rate", "warmup_epochs", "task", "head_rate")

Task = Literal["retrieval", "open_answer", "multiple_choice", "captions"]
"""What a training is for, and so what it is judged by: finding clips, answering questions by one of a closed list of
answers or of their own options, writing captions."""


class Narration(Settings):
    """How clips are drawn of narrated videos, see `NarratedDataset`."""

    clips_per_video: int = Field(default=10, gt=0)
    """Clips of each video in an epoch."""
    min_seconds: float = Field(default=8.0, gt=0)
    """Length of a random span; a clip of whole sentences lasts at least so long, where there are enough."""
    audio_shift: AudioShift = "later"
    """Where the sound of a clip with words begins: with the clip (none), later, or by a coin later or earlier."""


class FrameRecipe(Settings):
    """How a model that learns from pixels reads a clip."""

    num_frames: int = Field(default=4, gt=0)
    """Frames of a clip, in training."""
    test_frames: int | None = Field(default=None, gt=0)
    """Frames of a clip that is embedded; None: as many as in training."""
    curriculum: Listed[Listed[int]] = ()
    """See `FrameOptions.curriculum`."""
    rule: Literal["frozen_in_time", "vindlu", "clover"] = "frozen_in_time"
    """Which frames are chosen, see `train/data/frame_indices.py`."""
    size: int = Field(default=224, gt=0)
    """Pixels of a picture's side, as the model reads it."""
    min_area: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the picture that a random crop takes, in training."""
    max_aspect: float = Field(default=4 / 3, ge=1)
    """Largest ratio of a random crop's sides."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance that a clip is mirrored in training. 0 where captions say left and right."""
    pictures: Literal["as_videos", "balanced"] = "as_videos"
    """Still pictures among the clips: videos of one frame like others, or every step takes a batch of videos and a
    batch of pictures, whose losses are added (All-in-one's co-training)."""

    def training(self) -> FrameOptions:
        """How a clip becomes pictures in training. Raises ConfigError for an impossible curriculum."""
        own = {name: getattr(self, name) for name in FrameOptions.model_fields if name != "training"}
        return FrameOptions(**own, training=True)

    def limits(self) -> dict[str, Any]:
        """How much of a clip is read when it is embedded."""
        return {"num_frames": self.test_frames or self.num_frames, "rule": self.rule, "size": self.size}

    def most_frames(self) -> int:
        """Frames of the longest clip that the model meets by this recipe."""
        return max(self.num_frames, self.test_frames or 0, *(frames for _, frames in self.curriculum))


class Recipe(Settings):
    """How a model is trained."""

    name: str
    """The registered name."""
    model: str = "everything_at_once"
    """Registered model that it trains."""
    task: Task = "retrieval"
    """What it is for. Of questions, those of `collection.questions` are learned from; else captions and clips."""
    model_options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of that model which belong to the recipe."""
    narration: Narration | None = None
    """How clips are drawn of narrated videos; None for recipes of single clips."""
    frames: FrameRecipe | None = None
    """How clips are read as pictures; None for recipes of models that read rows of features."""
    max_video_tokens: int = Field(default=12, gt=0)
    """Feature rows of a clip that are kept."""
    max_audio_frames: int = Field(default=768, gt=0)
    """Spectrogram frames (10 ms) of a clip that are kept."""
    max_words: int = Field(default=20, gt=0)
    """Words of a caption that are kept; with `frames` word pieces, [CLS] and [SEP] among them."""
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
    head_rate: float = Field(default=1.0, gt=0)
    """Times the learning rate: that of the heads of a task, which begin anew where the rest was trained before."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On every weight that is trained."""
    betas: Listed[float] = (0.9, 0.999)
    """Of Adam's two means."""
    decay_all: bool = True
    """Whether weight decay is of vectors too: biases and the weights of normalisations."""
    schedule: Literal["constant", "exponential", "cosine", "cosine_after_warmup", "linear", "steps"] = "exponential"
    """Of the learning rate. exponential: times `decay` after every epoch; cosine, linear: down to zero at the end;
    cosine_after_warmup: the same from the end of the warm-up, in which it rises from zero (VindLU); steps: times
    `decay` at every epoch of `decay_epochs`."""
    decay: float = Field(default=0.9, gt=0)
    """See `schedule`."""
    decay_epochs: Listed[int] = ()
    """See `schedule`."""
    final_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the learning rate below which the cosines and linear do not go, cosine_after_warmup from its start."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from zero."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """The same in epochs, added to `warmup_steps`."""
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

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # as YAML reads an unquoted no

    @field_validator("narration", "frames", mode="before")
    @classmethod
    def _nested(cls, given: Any, info: ValidationInfo) -> Any:
        """A mapping of its options, refused before anything is extracted."""
        if not isinstance(given, Mapping):
            return given
        kind = {"narration": Narration, "frames": FrameRecipe}[str(info.field_name)]
        try:
            made = kind(**given) if given else None
            if isinstance(made, FrameRecipe):
                made.training()
        except ConfigError as problem:
            raise ConfigError(f"{info.field_name}: {problem}") from None
        return made

    def limits(self) -> dict[str, Any]:
        """How much of a clip the model reads while it is trained; of pixels, when a clip is embedded."""
        if self.frames is not None:
            return {"max_words": self.max_words, **self.frames.limits()}
        return {name: getattr(self, name) for name in ("max_video_tokens", "max_audio_frames", "max_words")}

    def identity(self) -> dict[str, Any]:
        """What names a training by this recipe: all fields, but for later ones that are as trainings were before."""
        known = self.model_dump()
        return {name: value for name, value in known.items() if name not in _LATER or value != _LATER[name]}


_LATER = {name: Recipe.model_fields[name].default for name in _LATER_FIELDS}
