"""From decoded pictures to the requested frames: which one, upright, scaled. Runs in the decoder subprocess only.

Rule of choice. The picture on display at instant t is the one whose ``[start, next start)`` holds t, both measured by
presentation timestamps; an index divided by a frame rate is never used. A grid of r Hz asks for the instants
``(k + 0.5) / r`` before the end of the content: what FFmpeg's ``fps`` filter picks with its default rounding, but for a
picture that starts exactly at such an instant, which the filter gives to the next cell and we to this one.

Rule of shape. Pictures are turned upright by their display matrix (mirroring included), non-square pixels are made
square by scaling the width, and the short side is scaled to the size asked for, the other to ``int(long * size /
short)``, by swscale's bicubic filter with accurate rounding. Where a square is
asked for it is cut from the middle, its corner rounded down. Where a width is asked for as well the picture is
stretched to it. Nothing is deinterlaced or tone-mapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av.error
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ..._vocabulary import MediaError, Status
from ..types import DecodedFrames, FramesWanted, Limits

CHUNK_FRAMES = 32
_BYTES_PER_PIXEL = 4  # the most that usual formats need
_CHUNK_BYTES = 4 * 1024**2
_SLACK_SECONDS = 10.0  # by which the last picture may be on display beyond the limit, and is cut there
_COARSEST_TICK_SECONDS = 0.0015  # Matroska's clock counts milliseconds: two pictures may have one instant
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

Emit = Callable[[DecodedFrames], None]
Size = int | tuple[int, int]
"""What a picture is scaled to: its short side, or its width and height."""


class Picture(NamedTuple):
    """A decoded picture that is on display during ``[start, end)`` seconds. A damaged one is used for no instant."""

    frame: Any
    start: float
    end: float
    is_damaged: bool = False

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        return _BYTES_PER_PIXEL * int(self.frame.width) * int(self.frame.height)


class Orientation(NamedTuple):
    """How a stored picture becomes upright: first the axes are swapped, then it is mirrored."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def rotation_degrees(self) -> int:
        """Clockwise rotation, ignoring a mirror image."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0


# By quarter turns anticlockwise. A photograph that is mirrored, too, is only turned.
_TURNED = {
    1: Orientation(swap=True, mirror_y=True),
    2: Orientation(mirror_x=True, mirror_y=True),
    3: Orientation(swap=True, mirror_x=True),
}


def orientation_of(frame: Any) -> Orientation:
    """The orientation that a picture's display matrix asks for; slanted ones are rounded to the nearest right angle.

    A point (x right, y down) is shown at ``(a x + c y, b x + d y)``, a, b, c, d being entries 0, 1, 3, 4.
    """
    # Not `frame.side_data`: a frame and that container hold each other, so pictures would pile up until collected.
    try:
        side_data = SideDataContainer(frame).get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-arg]
    except ValueError:  # PyAV has no name for EXIF data, which photographs carry: of the matrix, it gives the angle
        return _TURNED.get(round(frame.rotation / 90) % 4, Orientation())
    if side_data is None:
        return Orientation()
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(side_data, np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)


def upright(picture: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """Turn a picture (H, W, 3) upright."""
    if orientation.swap:
        picture = picture.transpose(1, 0, 2)
    if orientation.mirror_x:
        picture = picture[:, ::-1]
    if orientation.mirror_y:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def check_dimensions(width: int, height: int, *, limits: Limits) -> None:
    """Raise MediaError for a picture larger or thinner than allowed. A header that does not say yet has 0 x 0."""
    if width * height > limits.max_pixels:
        raise MediaError(
            Status.TOO_LARGE,
            f"a picture of {width} x {height} pixels; at most {limits.max_pixels} are allowed (max_pixels)",
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise MediaError(
            Status.BAD_DIMENSIONS,
            f"a picture of {width} x {height} pixels; at most {limits.max_aspect:g} to 1 is allowed (max_aspect)",
        )


def scaled_size(width: float, height: float, short_side: int) -> tuple[int, int]:
    """Width and height of an upright picture whose short side is scaled to a size, the other in proportion."""
    if width <= height:
        return short_side, max(1, int(height * short_side / width))
    return max(1, int(width * short_side / height)), short_side


class Scaler:
    """Makes pictures upright and small: each size of a picture once, however many requests share it."""

    def __init__(self, pixel_aspect: Fraction) -> None:
        self._pixel_aspect = pixel_aspect
        self._reformatters: dict[Size, VideoReformatter] = {}
        self._frame: Any = None
        self._made: dict[Size, NDArray[np.uint8]] = {}

    def scaled(self, frame: Any, size: Size) -> NDArray[np.uint8]:
        """The picture (H, W, 3), upright, with square pixels and a short side; or stretched to a width and height."""
        if frame is not self._frame:
            self._frame, self._made = frame, {}
        if size not in self._made:
            self._made[size] = self._convert(frame, size)
        return self._made[size]

    def _convert(self, frame: Any, size: Size) -> NDArray[np.uint8]:
        orientation = orientation_of(frame)
        width, height = float(frame.width * self._pixel_aspect), float(frame.height)
        if orientation.swap:
            width, height = height, width
        new_width, new_height = size if isinstance(size, tuple) else scaled_size(width, height, size)
        if orientation.swap:
            new_width, new_height = new_height, new_width
        # A reformatter keeps the tables of the last size that it scaled to.
        reformatter = self._reformatters.setdefault(size, VideoReformatter())
        try:
            # Planes first: swscale has no fast path to packed RGB with whole chroma. The bytes are the same, but for
            # RGB of 15 and 16 bits in its own size, where they differ by less than one step of it.
            scaled = reformatter.reformat(
                frame, width=new_width, height=new_height, format="gbrp", interpolation=_SCALING, threads=1
            )
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            what = f"pictures of {frame.width} x {frame.height} pixels in the format {frame.format.name}"
            raise MediaError(Status.UNDECODABLE, f"{what} cannot be converted: {error.strerror}") from error
        return upright(_packed(scaled), orientation)


def _packed(frame: Any) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of a frame that holds its green, blue and red values in planes of their own."""
    picture = np.empty((frame.height, frame.width, 3), np.uint8)
    for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        picture[..., channel] = rows[: frame.height, : frame.width]
    return picture


def centre_crop(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The square (side, side, 3) in the middle of a picture, its corner rounded down."""
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side]


class FrameSampler:
    """Picks the frames of one `FramesWanted`, has them scaled, and hands them on in chunks of equal size."""

    def __init__(self, wanted: FramesWanted, *, scaler: Scaler, emit: Emit) -> None:
        self.num_rows = 0
        self._wanted = wanted
        width = wanted.stretch_width
        self._size: Size = wanted.short_side if width is None else (width, wanted.short_side)
        self._scaler = scaler
        self._emit = emit
        self._next = 0
        self._pictures: list[NDArray[np.uint8]] = []
        self._times: list[tuple[float, float]] = []
        self._cells: list[int] = []

    @property
    def is_done(self) -> bool:
        """Whether no later picture can be wanted."""
        return self._target(self._next) == math.inf

    def offer(self, picture: Picture) -> None:
        """Show the sampler the next picture, in order of display."""
        count = self._count_targets(picture.start, picture.end)
        if count and not picture.is_damaged:
            pixels = self._scaler.scaled(picture.frame, self._size)
            if self._wanted.crop is not None:
                pixels = centre_crop(pixels, self._wanted.crop)
            if self._pictures and self._pictures[0].shape != pixels.shape:
                self.flush()
            for cell in range(self._next - count, self._next):
                self._pictures.append(pixels)
                self._times.append((picture.start, picture.end))
                self._cells.append(cell)
                self.num_rows += 1
                if len(self._pictures) == CHUNK_FRAMES or len(self._pictures) * pixels.nbytes >= _CHUNK_BYTES:
                    self.flush()

    def flush(self) -> None:
        """Hand on what has been gathered."""
        if self._pictures:
            times, cells = np.asarray(self._times, np.float64), np.asarray(self._cells, np.int64)
            self._emit(DecodedFrames(np.stack(self._pictures), times, cells))
            self._pictures, self._times, self._cells = [], [], []

    def _count_targets(self, start: float, end: float) -> int:
        """How many of the instants still to come lie in ``[start, end)``; earlier ones are passed over."""
        while self._target(self._next) < start:
            self._next += 1
        first = self._next
        while self._target(self._next) < end:
            self._next += 1
        return self._next - first

    def _target(self, index: int) -> float:
        instants = self._wanted.at_seconds
        if instants is None:
            return (index + 0.5) / self._wanted.rate_hz
        return instants[index] if index < len(instants) else math.inf


class Timestamps:
    """The presentation timestamps of decoded pictures, from a stream that may hold bad ones.

    Some containers (AVI with B-frames) store decoding times alone, and what the demuxer makes of them goes back and
    forth. As FFmpeg's own players do, the decoding time of the packet that brought a picture out is used for as long
    as it has been the more regular of the two.
    """

    def __init__(self) -> None:
        self._last: dict[str, int | None] = {"pts": None, "dts": None}
        self._faults = {"pts": 0, "dts": 0}

    def best(self, pts: int | None, dts: int | None) -> int | None:
        """The next picture's timestamp; None where there is neither."""
        self._count("pts", pts, otherwise=dts)
        self._count("dts", dts, otherwise=pts)
        if dts is None and self._faults["pts"] > self._faults["dts"]:
            return None  # the last pictures of a decoder: they follow one another
        if pts is not None and (dts is None or self._faults["pts"] <= self._faults["dts"]):
            return pts
        return dts

    def _count(self, kind: str, value: int | None, *, otherwise: int | None) -> None:
        last = self._last[kind]
        if value is not None and last is not None and value <= last:
            self._faults[kind] += 1
        self._last[kind] = otherwise if value is None else value


class VideoPass:
    """One pass over the pictures of a file: each is shown once it is known how long it is on display. Holds one.

    Decoders mark the picture in which they met damage, and not the ones that are built from it. Here every picture from
    the damaged one to the next keyframe counts as damaged, and is used for no instant.
    """

    def __init__(
        self,
        *,
        show: Callable[[Picture], None],
        default_duration: float,
        limits: Limits,
        declared_size: tuple[int, int] = (0, 0),
    ) -> None:
        self.num_frames = 0
        self.num_corrupt = 0
        self.num_misplaced = 0
        self.lost_seconds = 0.0
        self.gap_seconds = 0.0  # between the end of a picture and the next one
        self.first_start: float | None = None
        self.end = 0.0
        self.picture_bytes = _BYTES_PER_PIXEL * declared_size[0] * declared_size[1]
        self._show = show
        self._duration = default_duration
        self._limits = limits
        self._held: tuple[Any, float, bool] | None = None
        self._held_until = 0.0
        self._is_after_damage = False
        self._size: tuple[int, int] | None = None

    def push(self, frame: Any, start: float | None, duration: float | None) -> None:
        """Take the next picture in order of display. A picture without a timestamp follows the one before it."""
        if (frame.width, frame.height) != self._size:
            self.picture_bytes = max(self.picture_bytes, _BYTES_PER_PIXEL * frame.width * frame.height)
            self._size = frame.width, frame.height
            check_dimensions(*self._size, limits=self._limits)
        if start is None:
            start = 0.0 if self._held is None else self._held[1] + self._duration
            self.num_misplaced += 1
        self._check_instant(start)
        self._is_after_damage = frame.is_corrupt or (self._is_after_damage and not frame.key_frame)
        if self._held is not None and start <= self._held[1]:
            self.num_misplaced += 1
            if self._duration > _COARSEST_TICK_SECONDS:
                self.lost_seconds += self._duration
            return
        if self._held is not None:
            self.gap_seconds += max(0.0, start - self.end)
        self._release(start)
        self.num_frames += 1
        self.num_corrupt += self._is_after_damage
        if self.first_start is None:
            self.first_start = start
        self._duration = duration or self._duration
        self._check_instant(start + self._duration - _SLACK_SECONDS)
        self.end = min(start + self._duration, self._limits.max_duration_seconds)
        self._held = (frame, start, self._is_after_damage)

    def _check_instant(self, instant: float) -> None:
        limit = self._limits.max_duration_seconds
        if instant > limit:
            raise MediaError(
                Status.TOO_LARGE,
                f"content at {instant:.0f} s; at most {limit:.0f} s are allowed (max_duration_seconds)",
            )

    def note_damage(self) -> None:
        """Learn that a packet could not be decoded: what follows lacks something until the next keyframe."""
        self._is_after_damage = True

    def hold_until(self, end: float) -> None:
        """Learn that the newest picture is on display until then, unless another one follows."""
        self._held_until = end

    def finish(self) -> None:
        """Take the last picture's duration for its end."""
        if self._held is not None:
            self.end = min(max(self.end, self._held_until), self._limits.max_duration_seconds)
        self._release(self.end)

    def _release(self, end: float) -> None:
        if self._held is None:
            return
        frame, start, is_damaged = self._held
        self._held = None
        self._show(Picture(frame, start, end, is_damaged))
