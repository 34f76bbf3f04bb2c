"""The options of the dual encoders."""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from ..._vocabulary import ConfigError
from ..base import MODALITIES, ModelConfig


class DualEncoderConfig(ModelConfig):
    """Widths of the rows that the towers give."""

    text_dim: PositiveInt = 512
    """Width of a text's row."""
    video_dim: PositiveInt | None = None
    """Width of a frame's row; null: as wide as a text's."""
    audio_dim: PositiveInt | None = None
    """Width of the row of a stretch of sound; null: as wide as a text's."""

    def all_modalities(self) -> tuple[str, ...]:
        return MODALITIES

    @model_validator(mode="after")
    def _one_space(self) -> DualEncoderConfig:
        for name, width in (("video", self.video_dim), ("audio", self.audio_dim)):
            if width not in (None, self.text_dim):
                raise ConfigError(
                    f"text rows are {self.text_dim} wide and {name} rows {width}: towers of one model give rows of one"
                    " width; take both from the same weights"
                )
        return self


class ImagenetLabelsConfig(ModelConfig):
    """Widths of the rows of an image classifier and a sentence encoder."""

    text_dim: PositiveInt = 384
    """Width of a sentence's row."""
    video_dim: PositiveInt = 1000
    """Classes of the classifier."""
    top: PositiveInt = 10
    """T, the likeliest classes that a picture is the mean of (10 is one of the paper's values)."""

    def all_modalities(self) -> tuple[str, ...]:
        return ("text", "video")

    @model_validator(mode="after")
    def _enough_classes(self) -> ImagenetLabelsConfig:
        if self.top > self.video_dim:
            raise ConfigError(f"top {self.top} is more than the {self.video_dim} classes (video_dim): lower top")
        return self
