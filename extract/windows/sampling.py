"""Sampling plans as data: which instants of a video are sampled, and how they are gathered into rows.

A plan is part of a feature's specification and so of its fingerprint. Instants are seconds, spans are half-open
``[start, end)``, and what happens at an end is a named policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError

End = Literal["drop", "zeros", "repeat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Sliding windows of ``num_frames`` frames on a grid of ``frame_rate_hz``: one row for each window.

    Row k is made of the grid cells ``[k * stride_frames, k * stride_frames + num_frames)``, counted from the first
    cell that has a picture. One frame every N seconds is the window of one frame at ``1 / N`` Hz.

    With ``context_frames`` every frame has a row of its own, and windows overlap so that it is seen with as many
    frames on both sides: the middle ``stride_frames`` of a window are its rows. Before the first frame, where frames
    are damaged, and after the last one, the nearest earlier frame (at the start: the first) fills the window.

    Attributes:
        frame_rate_hz: grid cells a second; a cell is represented by the frame on display at its middle.
        num_frames: frames of a window.
        stride_frames: grid cells from one window's start to the next's.
        end: what becomes of a last window that the content does not fill: ``drop`` it, unless it is the only one;
            fill it with ``zeros`` (black, before normalisation), or ``repeat`` its last frame. An only window that is
            not full is filled by repetition when the policy is ``drop``.
        context_frames: frames of a window before and after those that have rows; 0 for one row a window.
    """

    frame_rate_hz: float
    num_frames: int = 1
    stride_frames: int = 1
    end: End = "drop"
    context_frames: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.frame_rate_hz <= 1000 or min(self.num_frames, self.stride_frames) < 1:
            raise ConfigError(f"windows need a frame rate from 0 to 1000 Hz and counts from 1: {self}")
        if self.end not in get_args(End):
            raise ConfigError(f"the end of windows is one of {', '.join(get_args(End))}, not {self.end!r}")
        if self.context_frames and self.stride_frames + 2 * self.context_frames != self.num_frames:
            raise ConfigError(f"windows with context need num_frames = stride_frames + 2 * context_frames: {self}")

    @property
    def rate_hz(self) -> float:
        return self.frame_rate_hz / self.stride_frames

    def as_data(self) -> dict[str, Any]:
        data = {"plan": "windows", **asdict(self)}
        return data if self.context_frames else {name: data[name] for name in data if name != "context_frames"}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """An object from the data of `as_data`. Keys of other meaning are left out."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """K instants of a span, one from each of K equal segments.

    Attributes:
        num_segments: K.
        at: ``middle`` of each segment (what is done for testing), or ``random`` in it (for training, by a generator).
    """

    num_segments: int
    at: Literal["middle", "random"] = "middle"

    def __post_init__(self) -> None:
        if self.num_segments < 1 or self.at not in ("middle", "random"):
            raise ConfigError(f"segments need a count from 1, and `at` is middle or random: {self}")

    def instants(
        self, start_seconds: float, end_seconds: float, *, generator: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """The K instants, ascending, all inside ``[start_seconds, end_seconds)``.

        Raises:
            ConfigError: the span is empty, or ``random`` without a generator.
        """
        if not start_seconds < end_seconds:
            raise ConfigError(
                f"the span [{start_seconds:g}, {end_seconds:g}) s is empty: its end must be after its start"
            )
        if self.at == "middle":
            fractions: NDArray[np.float64] = np.full(self.num_segments, 0.5)
        elif generator is None:
            raise ConfigError("random instants need a generator: give np.random.default_rng(seed)")
        else:
            fractions = generator.random(self.num_segments)
        places = (np.arange(self.num_segments) + fractions) / self.num_segments
        instants: NDArray[np.float64] = start_seconds + places * (end_seconds - start_seconds)
        return np.minimum(instants, np.nextafter(end_seconds, start_seconds))
