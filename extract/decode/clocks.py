"""From the ticks of a stream to seconds, where not every timestamp is believed. Runs in the decoder subprocess only."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_LONGEST_LEAP_SECONDS = 10.0


class Clock:
    """Ticks of one stream to seconds since the container's start, in whole numbers: it is called for every picture."""

    def __init__(self, stream: Any, zero: Fraction, declared_end: float | None) -> None:
        time_base = stream.time_base
        self._factor = time_base.numerator * zero.denominator
        self._offset = zero.numerator * time_base.denominator
        self._denominator = time_base.denominator * zero.denominator
        self._seconds_per_tick = float(time_base)
        self._latest = math.inf if declared_end is None else declared_end
        self.num_unbelievable = 0

    def instant(self, ticks: int | None) -> float | None:
        return None if ticks is None else (ticks * self._factor - self._offset) / self._denominator

    def believable(self, ticks: int | None) -> float | None:
        """Seconds of a decoded picture's or block's timestamp; None where it leaps far beyond the end of the content.

        One damaged timestamp would otherwise become hours of silence, and everything after it would come too late.
        """
        instant = self.instant(ticks)
        if instant is None:
            return None
        if self._is_leap(instant):
            self.num_unbelievable += 1
            return None
        self._latest = max(self._latest, instant)
        return instant

    def span(self, ticks: int | None) -> float | None:
        """Seconds of a duration; None where it is not known or longer than the content can be."""
        seconds = ticks * self._seconds_per_tick if ticks else None
        return None if seconds is None or self._is_leap(seconds) else seconds

    def _is_leap(self, seconds: float) -> bool:
        return seconds > self._latest + _LONGEST_LEAP_SECONDS


class DecodingOrder:
    """The instants of pictures in a container that stores when each packet is decoded and nothing else (AVI).

    A picture is on display from the tick of the packet that brought it out; the ones that the decoder still holds at
    the end follow a tick apart. The presentation times that the demuxer guesses are one picture late, or jump back.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def best(self, pts: int | None, dts: int | None) -> int | None:
        """The next picture's timestamp; None where it has none."""
        if dts is not None:
            self._last = dts
        else:
            self._last = pts if self._last is None else self._last + 1
        return self._last
