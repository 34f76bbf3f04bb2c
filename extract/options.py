"""The options of backbones, checked: numbers, choices, when frames are taken and how large they are."""

from __future__ import annotations

from typing import Any, Literal

from .._vocabulary import ConfigError
from .windows import End, Windows

Precision = Literal["float32", "bfloat16", "float16"]
"""The number type that a network computes in; float16 on a GPU alone."""
Dtype = Literal["float16", "float32"]
"""The number type in which its values are stored."""
_MOST_FRAMES = 1024


def checked_number(name: str, option: str, value: Any, *, lowest: float, highest: float, whole: bool = False) -> float:
    """A backbone's option as a number, or ConfigError with what is allowed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be {what} from {lowest:g} to {highest:g}, not {value!r}"
        )
    return float(value)


def checked_whole(name: str, option: str, value: Any, *, lowest: int, highest: int) -> int:
    """A backbone's option as a whole number, or ConfigError with what is allowed."""
    return int(checked_number(name, option, value, lowest=lowest, highest=highest, whole=True))


def check_choice(name: str, option: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError where a backbone's option is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be one of {', '.join(allowed)}, not {value!r}"
        )


def checked_windows(
    name: str, *, frame_rate_hz: float, num_frames: int, stride_frames: int | None, end: End
) -> Windows:
    """A clip's frames; without a stride, clips follow one another without overlap.

    Raises:
        ConfigError: a number is not one that is allowed, or there is no such end.
    """
    num_frames = checked_whole(name, "num_frames", num_frames, lowest=1, highest=_MOST_FRAMES)
    stride = num_frames if stride_frames is None else stride_frames
    return Windows(
        frame_rate_hz=checked_number(name, "frame_rate_hz", frame_rate_hz, lowest=0.01, highest=120),
        num_frames=num_frames,
        stride_frames=checked_whole(name, "stride_frames", stride, lowest=1, highest=_MOST_FRAMES),
        end=end,
    )


def checked_size(name: str, *, short_side: int, crop: int) -> tuple[int, int]:
    """The short side that a picture is scaled to, and the side of the square from its middle, which fits in.

    Raises:
        ConfigError: a size is not one that is allowed.
    """
    short_side = checked_whole(name, "short_side", short_side, lowest=32, highest=2048)
    return short_side, checked_whole(name, "crop", crop, lowest=32, highest=short_side)
