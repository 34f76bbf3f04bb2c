"""A frozen network over single pictures: one row for each frame of the grid.

A member's specification says everything about its pixels (scale, mean, standard deviation, crop), and `prepare` does
what it says.

Legend: B frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._vocabulary import FeatureSpec, InputError, WeightsSource
from ..registry import checked_number
from ..windows import Windows
from .frozen import Dtype, FrozenNetwork, Precision, normalised, visual_spec

if TYPE_CHECKING:
    import torch


def still_spec(
    name: str,
    *,
    dim: int,
    rate_hz: float,
    short_side: int,
    crop: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    facts: Mapping[str, Any],
    precision: Precision,
    dtype: Dtype,
    paper: str,
    weights: Sequence[WeightsSource] = (),
) -> FeatureSpec:
    """The specification of a backbone over single frames, whose pixels are ``(x / 255 - mean) / std``.

    Args:
        name: its registered name.
        dim: width of a row.
        rate_hz: frames a second.
        short_side: what the upright picture's short side is scaled to.
        crop: side of the square cut from its middle; None keeps the whole picture.
        mean: of each channel, R, G, B.
        std: of each channel.
        facts: every other fact that decides the numbers, as plain data.
        precision: what the network computes in.
        dtype: what the values are stored as.
        paper: where it was published.
        weights: published weights that can be had by tag.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """
    rate_hz = checked_number(name, "rate_hz", rate_hz, lowest=0.01, highest=120)
    return visual_spec(
        name,
        dim=dim,
        windows=Windows(frame_rate_hz=rate_hz),
        short_side=short_side,
        crop=crop,
        preprocessing={"scale": 1 / 255, "mean": list(mean), "std": list(std), "l2_normalised": False, **facts},
        precision=precision,
        dtype=dtype,
        paper=paper,
        weights=weights,
    )


class StillNetwork(FrozenNetwork):
    """A visual backbone whose windows are single frames."""

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, 1, H, W, 3) to normalised float32 (B, 3, H, W), of the specification's crop."""
        facts = self.spec.preprocessing
        if facts["crop"] is not None:
            frames = self._middle(frames, int(facts["crop"]))
        std = [value + facts.get("std_epsilon", 0.0) for value in facts["std"]]
        return normalised(frames, scale=facts["scale"], mean=facts["mean"], std=std).squeeze(2)

    def _middle(self, frames: torch.Tensor, side: int) -> torch.Tensor:
        """The square in the middle. The decoder has cut it already; pictures from elsewhere may be larger."""
        height, width = frames.shape[2:4]
        if min(height, width) < side:
            raise InputError(
                f"the backbone {self.spec.name!r} reads pictures of {side} x {side} pixels; {height} x {width} is less"
            )
        top, left = (height - side) // 2, (width - side) // 2
        return frames[:, :, top : top + side, left : left + side]
