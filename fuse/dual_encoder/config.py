"""The options of the dual encoders."""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from ..._vocabulary import ConfigError
from ..base import ModelConfig


class DualEncoderConfig(ModelConfig):
    """Widths of the rows that the towers give."""

    text_dim: PositiveInt = 512
    """Width of a text's row."""
    video_dim: PositiveInt = 512
    """Width of a frame's row."""

    def all_modalities(self) -> tuple[str, ...]:
        return ("text", "video")

    @model_validator(mode="after")
    def _one_space(self) -> DualEncoderConfig:
        self.check_space()
        return self

    def check_space(self) -> None:
        """Raises ConfigError for towers whose rows cannot be compared."""
        if self.text_dim != self.video_dim:
            raise ConfigError(
                f"text rows are {self.text_dim} wide and video rows {self.video_dim}: towers of one model give rows of"
                " one width; take both from the same weights"
            )


class ImagenetLabelsConfig(DualEncoderConfig):
    """`DualEncoderConfig` of an image classifier and a sentence encoder."""

    text_dim: PositiveInt = 384
    """Width of a sentence's row."""
    video_dim: PositiveInt = 1000
    """Classes of the classifier."""
    top: PositiveInt = 10
    """T, the likeliest classes that a picture is the mean of (10 is one of the paper's values)."""

    def check_space(self) -> None:
        """Raises ConfigError where there are fewer classes than a picture is the mean of."""
        if self.top > self.video_dim:
            raise ConfigError(f"top {self.top} is more than the {self.video_dim} classes (video_dim): lower top")
