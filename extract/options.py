"""The options of backbones that look at clips, checked: when frames are taken, and how large they are."""

from __future__ import annotations

from .registry import checked_number
from .windows import End, Windows

_MOST_FRAMES = 1024


def checked_windows(
    name: str, *, frame_rate_hz: float, num_frames: int, stride_frames: int | None, end: End
) -> Windows:
    """A clip's frames; without a stride, clips follow one another without overlap.

    Raises:
        ConfigError: a number is not one that is allowed, or there is no such end.
    """
    num_frames = int(checked_number(name, "num_frames", num_frames, lowest=1, highest=_MOST_FRAMES, whole=True))
    stride = num_frames if stride_frames is None else stride_frames
    return Windows(
        frame_rate_hz=checked_number(name, "frame_rate_hz", frame_rate_hz, lowest=0.01, highest=120),
        num_frames=num_frames,
        stride_frames=int(checked_number(name, "stride_frames", stride, lowest=1, highest=_MOST_FRAMES, whole=True)),
        end=end,
    )


def checked_size(name: str, *, short_side: int, crop: int) -> tuple[int, int]:
    """The short side that a picture is scaled to, and the side of the square from its middle, which fits in.

    Raises:
        ConfigError: a size is not one that is allowed.
    """
    short_side = int(checked_number(name, "short_side", short_side, lowest=32, highest=2048, whole=True))
    return short_side, int(checked_number(name, "crop", crop, lowest=32, highest=short_side, whole=True))
