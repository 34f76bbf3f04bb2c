"""Data between a media file and a backbone: limits, requests, decoded frames and samples, and what a file holds.

This module imports nothing but NumPy and the standard library: the decoding child loads it.

Legend: T rows, H height, W width (pixels), N samples. Times are seconds since the start of the *container* (the
earliest start of its video and audio streams), which is the time that players show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import FeatureArray, FeatureSpec, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the cost of one file. Exceeding one is a status of that file and touches no other.

    Attributes:
        memory_bytes: address space of the decoding child.
        seconds: time that the child may take for one file, not counting the time in which it waits for its reader.
        max_pixels: largest picture, width times height.
        max_aspect: longest side divided by shortest side.
        max_duration_seconds: longest content.
        max_streams: most streams in a container.
    """

    memory_bytes: int = 2 * 1024**3
    seconds: float = 300.0
    max_pixels: int = 36_000_000
    max_aspect: float = 32.0
    max_duration_seconds: float = 6 * 3600.0
    max_streams: int = 64


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class FramesWanted:
    """Frames for one or several backbones: the middles of a grid of ``rate_hz``, or the given instants, scaled.

    Attributes:
        rate_hz: grid cells a second; cell k is represented by the frame on display at ``(k + 0.5) / rate_hz``.
        short_side: shortest side of the upright picture after scaling, in pixels; its height with ``stretch_width``.
        at_seconds: instants to use in place of the grid, ascending.
        crop: side of the square that is cut from the middle of the scaled picture, at most ``short_side``; None keeps
            the whole picture.
        stretch_width: width that the whole upright picture is scaled to, whatever its shape; None keeps its shape.
    """

    rate_hz: float
    short_side: int
    at_seconds: tuple[float, ...] | None = None
    crop: int | None = None
    stretch_width: int | None = None


@dataclass(frozen=True, slots=True)
class AudioWanted:
    """The sound track as one channel at one rate."""

    sample_rate_hz: int


class Samples(Protocol):
    """Samples that are read by slices, so that a long track need not lie in memory."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        """The samples of a slice without a step."""


@dataclass(frozen=True, slots=True)
class DecodedFrames:
    """Upright pictures that follow one another.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        times: (T, 2) float64, the seconds ``[start, end)`` during which each frame is on display.
        cells: (T,) int64, the grid cell of each frame; a cell whose frame is damaged is left out. None
            where the frames follow one another without a gap.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    cells: NDArray[np.int64] | None = None

    def cell_indices(self) -> NDArray[np.int64]:
        """The grid cells (T,), counted from 0 where they were not given."""
        return np.arange(len(self.frames)) if self.cells is None else self.cells


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """A whole sound track.

    Attributes:
        samples: (N,) float32, nominally in [-1, 1]: an array, or a spool that is read by slices.
        sample_rate_hz: samples a second.
        start_seconds: instant of the first sample.
    """

    samples: Samples
    sample_rate_hz: int
    start_seconds: float = 0.0


@runtime_checkable
class Backbone(Protocol):
    """A frozen feature extractor.

    Attributes:
        spec: what it computes.
        weights_digest: which weights it computes it with.
    """

    spec: FeatureSpec
    weights_digest: str

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The feature of consecutive frames, of a whole sound track, or of one text, as the modality says."""
        ...


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The video stream that is used, never an attached picture and no still where another one moves.

    Of several: the default one, then one that lasts, then the largest, then the first.
    """

    stream_index: int
    codec: str
    width: int
    height: int
    rotation_degrees: int
    frame_rate_hz: float | None
    pixel_format: str
    num_frames: int | None
    start_seconds: float | None
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The audio stream that is used, no scrap where another one lasts.

    Of several: the default one, then one that lasts, then the one of most channels, then of the highest rate.
    """

    stream_index: int
    codec: str
    sample_rate_hz: int
    num_channels: int
    start_seconds: float | None
    duration_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """The streams of a file and whether they can be read.

    Attributes:
        path: the file, as it was asked for.
        status: ``ok``, or why the file cannot be used as a video; a file of sound alone is ``no_video``.
        message: a sentence for a person, empty when there is nothing to say.
        size_bytes: None where the file cannot be reached.
        container: FFmpeg's name of the format.
        duration_seconds: as the container declares it; None where it does not.
        video: None where there is no picture.
        audio: None where there is no sound.
        video_status: status of the picture alone.
        audio_status: status of the sound track alone.
        num_streams: streams of every kind.
    """

    path: str
    status: Status
    message: str = ""
    size_bytes: int | None = None
    container: str | None = None
    duration_seconds: float | None = None
    video: VideoInfo | None = None
    audio: AudioInfo | None = None
    video_status: Status = Status.NO_VIDEO
    audio_status: Status = Status.NO_AUDIO
    num_streams: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as data that JSON can hold."""
        return {name: getattr(value, "value", value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MediaInfo:
        """An object from the data of `as_dict`."""
        fields = dict(data)
        for name in ("status", "video_status", "audio_status"):
            fields[name] = Status(fields[name])
        fields["video"] = None if fields["video"] is None else VideoInfo(**fields["video"])
        fields["audio"] = None if fields["audio"] is None else AudioInfo(**fields["audio"])
        return cls(**fields)


@dataclass(slots=True)
class StreamOutcome:
    """How decoding one stream went, for the status of the features made from it."""

    status: Status = Status.OK
    messages: list[str] = field(default_factory=list)
    extent: tuple[float, float] | None = None
    """First and last instant of the stream, in seconds; None where nothing of it was decoded."""

    def report(self, status: Status, message: str) -> None:
        """Add a finding. The first one that is not ``ok`` decides the status; every message is kept."""
        if self.status is Status.OK:
            self.status = status
        if message not in self.messages:
            self.messages.append(message)

    @property
    def message(self) -> str:
        """All findings in one line."""
        return "; ".join(self.messages)
