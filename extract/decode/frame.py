"""One picture of a file, at one instant: for people to look at."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

from ..._vocabulary import InputError
from ..types import DEFAULT_LIMITS, DecodedFrames, Limits
from .decoder import Decoder, check_file


def frame_at(
    path: str | Path,
    seconds: float,
    *,
    short_side: int = 240,
    limits: Limits = DEFAULT_LIMITS,
    decoder: Decoder | None = None,
) -> DecodedFrames:
    """The picture of a file that is on display at an instant, upright, and the seconds ``[start, end)`` that it is.

    The file is decoded from the keyframe before the instant where its time stamps prove the seek, and from its
    beginning otherwise; no further than the picture.

    Args:
        path: the file.
        seconds: the instant, since the file's start, as players and results count.
        short_side: shortest side of the picture after scaling, in pixels.
        limits: what the file may cost; a decoder that is given brings its own.
        decoder: a decoder to reuse; None starts one for this call.

    Returns:
        frames (1, H, W, 3) uint8 and times (1, 2).

    Raises:
        InputError: not an instant, or not a size.
        MediaError: the file cannot be used, or nothing whole is on display then; it carries the status.
    """
    if not 0 <= seconds < math.inf or not 1 <= short_side <= 4096:
        raise InputError(f"a picture of {short_side!r} pixels at {seconds!r} s: from 1 to 4096 pixels, at 0 s or later")
    check_file(Path(path))
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        return decoder.frame_at(path, seconds, short_side=short_side)
