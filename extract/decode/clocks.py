"""From the ticks of a stream to seconds, where not every timestamp is believed. Runs in the decoder subprocess only.

Clocks may start anew within a file. Program streams, transport streams, Matroska and Ogg files are joined by writing
one after the other, and recorders that lose their signal begin again at zero. What comes after such a place goes on
where what came before it ended, for pictures and sound alike. One wild timestamp does not make one: the packets that
follow it must agree with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, dropwhile, islice
from typing import Any

_LONGEST_LEAP_SECONDS = 10.0
_BACK_SECONDS = 0.5
_GAP_SECONDS = 10.0  # what FFmpeg closes where a container has no clock of its own (dts_delta_threshold)
_NEAR_SECONDS = 1.0
_WITNESS_SECONDS = 1.0  # for which the packets agree: several may share one wild timestamp
_FLAGGED_EARLY = 6  # packets
_MAX_AHEAD = 500  # packets that are looked at before they are given
_WITHOUT_CLOCK = frozenset({"mpeg", "mpegts"})
_COUNTED = frozenset({"avi", "mov,mp4,m4a,3gp,3g2,mj2"})  # their times follow from counts, and never go back


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


class JoinedPackets:
    """The packets of a file with timestamps that go on across joins. Read once, in order.

    Attributes:
        num_joins: places so far at which a clock started anew.
    """

    def __init__(self, packets: Iterator[Any], container_format: str) -> None:
        self.num_joins = 0
        self._source = packets
        self._ahead: deque[Any] = deque()
        self._is_watched = container_format not in _COUNTED
        self._closes_gaps = container_format in _WITHOUT_CLOCK
        self._newest = 0.0
        self._offsets: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._before_leap: dict[int, float] = {}
        self._reach = -math.inf  # end of everything that was given

    def __iter__(self) -> Iterator[Any]:
        while True:
            packet = self._ahead.popleft() if self._ahead else next(self._source, None)
            if packet is None:
                return
            if self._is_watched:
                self._place(packet)
            yield packet

    def _place(self, packet: Any) -> None:
        index, instant = packet.stream_index, _instant(packet)
        if instant is None:
            return
        offset, is_wild = self._offsets.get(index, self._newest), False
        if offset != self._newest and self._distance(instant + self._newest) < self._distance(instant + offset):
            offset = self._newest
        elif self._returns(index, instant + offset):
            self._reach = self._before_leap.pop(index)  # it was the leap that was wild
        elif self._breaks(index, instant, offset):
            is_wild = not self._starts_anew(index, chain([instant], self._coming(index)), offset)
            if not is_wild and (self._closes_gaps or instant + offset < self._reach):
                near = [one for one in self._ahead if abs((_instant(one) or 0.0) - instant) < _NEAR_SECONDS]
                first = min(_seconds(one, one.pts) for one in (packet, *near) if one.pts is not None)
                offset = self._newest = self._reach - first
                self.num_joins += 1
        if packet.is_corrupt:  # the counter of its pieces does not go on, as also where another file was joined on
            later = islice(self._coming(index), _FLAGGED_EARLY)
            broken = dropwhile(lambda coming: not self._breaks(index, coming, offset), later)
            packet.is_corrupt = not self._starts_anew(index, broken, offset)
        if packet.dts is not None and packet.pts is not None and _seconds(packet, packet.pts) - instant > _GAP_SECONDS:
            packet.pts = packet.dts  # the last picture before a join is given the time of the first one after it
        ticks = round(offset / packet.time_base)
        if ticks:
            packet.dts = None if packet.dts is None else packet.dts + ticks
            packet.pts = None if packet.pts is None else packet.pts + ticks
        if not is_wild:
            place = instant + offset
            if place - self._last.get(index, place) > _BACK_SECONDS:
                self._before_leap[index] = self._last[index]
            self._offsets[index], self._last[index] = offset, place
            shown = place if packet.pts is None else _seconds(packet, packet.pts)
            self._reach = max(self._reach, shown + _seconds(packet, packet.duration or 0))

    def _distance(self, place: float) -> float:
        return abs(place - self._reach)

    def _returns(self, index: int, place: float) -> bool:
        before = self._before_leap.get(index)
        return before is not None and place < self._last[index] and abs(place - before) < _NEAR_SECONDS

    def _breaks(self, index: int, instant: float, offset: float) -> bool:
        last, place = self._last.get(index), instant + offset
        is_gap = place - self._reach > _GAP_SECONDS
        return last is not None and (place < last - _BACK_SECONDS or is_gap)

    def _coming(self, index: int) -> Iterator[float]:
        """Instants of the stream's next packets, as the file has them."""
        for position in range(_MAX_AHEAD):
            if position == len(self._ahead):
                packet = next(self._source, None)
                if packet is None:
                    return
                self._ahead.append(packet)
            packet = self._ahead[position]
            instant = _instant(packet)
            if packet.stream_index == index and instant is not None:
                yield instant

    def _starts_anew(self, index: int, instants: Iterator[float], offset: float) -> bool:
        """Whether the first of these instants is where the stream's clock starts anew: the next ones agree with it."""
        first, num_witnesses = next(instants, None), 0
        if first is None:
            return False
        for coming in instants:
            if abs(coming - first) > _GAP_SECONDS or not self._breaks(index, coming, offset):
                return False
            num_witnesses += 1
            if coming - first > _WITNESS_SECONDS:
                break
        return num_witnesses > 0


def _instant(packet: Any) -> float | None:
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else _seconds(packet, ticks)


def _seconds(packet: Any, ticks: int) -> float:
    return float(ticks * packet.time_base)
