"""Opening a media file with FFmpeg, without what it would otherwise allow. Runs in the decoder subprocess only.

Only local files are read, only containers from a list are recognised (so that a playlist named ``.mp4`` cannot pull in
other files or addresses), and every refusal becomes a status and a sentence.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from ..._vocabulary import MediaError, Status
from ..types import Limits
from .container import ENCRYPTED, encrypted_tracks, picture_demuxer, why_not_media

# FFmpeg's demuxer names; those of sound alone, which know no time but that of their samples.
WITHOUT_CLOCK = "wav,w64,aiff,mp3,flac,aac,ac3,eac3,dts,amr,au,caf,wv,tta,voc,ape"
CONTAINERS = f"mov,matroska,mpegts,avi,mpeg,flv,asf,ogg,mxf,yuv4mpegpipe,gif,dv,ivf,{WITHOUT_CLOCK}"
_MAX_PACKETS = 2000  # that are looked at to choose a stream
# Shares of the stream that has most: of packets that a still or a scrap has, that a picture that moves has, of seconds.
_NEXT_TO_NONE, _SOME, _HALF = 0.02, 0.1, 0.5
_NOT_PICTURES_IN_TIME = (Disposition.attached_pic, Disposition.timed_thumbnails, Disposition.still_image)


@dataclass(frozen=True, slots=True)
class OpenMedia:
    """An open container with the streams that are used, and the instant that counts as zero.

    Attributes:
        video: the chosen video stream, or None.
        audio: the chosen audio stream, or None.
        video_problem: why a file with pictures has none that can be used; None where that is not so.
        audio_problem: the same for sound.
        zero: seconds on the container's clock that are zero here.
    """

    container: InputContainer
    video: Any
    audio: Any
    video_problem: tuple[Status, str] | None
    audio_problem: tuple[Status, str] | None
    zero: Fraction


@contextmanager
def open_media(path: Path, *, limits: Limits, is_picture: bool = False) -> Iterator[OpenMedia]:
    """Open a file for reading and close it again, whatever happens. A still picture is a video of one frame.

    Raises:
        MediaError: the file cannot be used; it carries the status.
    """
    demuxer = picture_demuxer(path) if is_picture else None
    try:
        file = opened(path, demuxer)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError(*_why_not_open(path, error)) from error
    with file as container:
        if len(container.streams) > limits.max_streams:
            num_streams = len(container.streams)
            raise MediaError(
                Status.TOO_LARGE, f"{num_streams} streams; at most {limits.max_streams} are allowed (max_streams)"
            )
        videos = [
            stream
            for stream in container.streams.video
            if not any(stream.disposition & kind for kind in _NOT_PICTURES_IN_TIME)
        ]
        usable = [one for one in (*videos, *container.streams.audio) if one.codec_context is not None]
        protected = encrypted_tracks(path)
        readable = [one for one in usable if one.index not in protected]
        video = _best(path, [one for one in readable if one.type == "video"])
        audio = _best(path, [one for one in readable if one.type == "audio"])
        # Exactly: the container's own figure is in microseconds.
        starts = [
            one.start_time * one.time_base for one in (*videos, *container.streams.audio) if one.start_time is not None
        ]
        yield OpenMedia(
            container=container,
            video=video,
            audio=audio,
            video_problem=_why_no_stream(container, videos, protected) if video is None else None,
            audio_problem=_why_no_stream(container, container.streams.audio, protected) if audio is None else None,
            zero=min(starts) if starts else Fraction(container.start_time or 0, av.time_base),
        )


def opened(path: Path, demuxer: str | None = None) -> Any:
    """The container of a file, by a demuxer or one from the list. Raises FFmpegError."""
    return av.open(
        f"file:{path.resolve()}",
        format=demuxer,
        container_options={"protocol_whitelist": "file", "format_whitelist": demuxer or CONTAINERS},
        metadata_errors="replace",
    )


def is_empty(packet: Any) -> bool:
    """Whether a packet of the file holds nothing, so that what came before it stays on display.

    A decoder would take it for the end of its stream; the packet that does mean the end has neither data nor a time.
    """
    return packet.size == 0 and bool(packet.buffer_ptr or packet.dts is not None)


def _why_not_open(path: Path, error: av.error.FFmpegError) -> tuple[Status, str]:
    if error.errno == errno.EINVAL:
        status, message = why_not_media(path)
        if status in (Status.NOT_MEDIA, Status.CONTAINER_NOT_ALLOWED):
            return status, message
        return Status.CONTAINER_NOT_ALLOWED, f"a container that is not read here: convert it to one of {CONTAINERS}"
    if isinstance(error, (av.error.InvalidDataError, av.error.EOFError)):
        status, message = why_not_media(path)
        if isinstance(error, av.error.EOFError) and status is Status.UNDECODABLE:
            return Status.NO_FRAMES, "the file ends before its first picture or sound"
        return status, message
    return Status.UNREADABLE, f"the file cannot be read: {error.strerror}"


def _best(path: Path, streams: Sequence[Any]) -> Any:
    """The stream that is used of several of one kind; None of none.

    One that moves and lasts comes before a still or a scrap, even where that is larger: a container's word for it (the
    default disposition) counts for more than its share of the packets, but not where it has next to none.
    """
    if len(streams) < 2:
        return next(iter(streams), None)
    extents = _extents(path, streams)
    most_packets, longest = (max(column) for column in zip(*extents.values(), strict=True))

    def rank(stream: Any) -> tuple[bool, bool, bool, int, int, int]:
        context, (num_packets, seconds) = stream.codec_context, extents[stream.index]
        is_video = stream.type == "video"
        quality = (context.width * context.height, 0) if is_video else (context.layout.nb_channels, context.sample_rate)
        is_default = bool(stream.disposition & Disposition.default)
        is_long = num_packets > _SOME * most_packets and seconds > _HALF * longest
        is_real = num_packets > _NEXT_TO_NONE * most_packets and seconds >= _SOME * longest
        return is_real, is_default, is_long, *quality, -stream.index

    return max(streams, key=rank)


def _extents(path: Path, streams: Sequence[Any]) -> dict[int, tuple[int, float]]:
    """Packets and seconds of streams by index: what the header states of them all, or what the file begins with."""
    if all(stream.frames and stream.duration is not None for stream in streams):
        return {stream.index: (stream.frames, float(stream.duration * stream.time_base)) for stream in streams}
    counts, spans = dict.fromkeys((stream.index for stream in streams), 0), dict[int, tuple[float, float]]()
    with opened(path) as container, suppress(av.error.FFmpegError, IndexError):
        for packet in islice(container.demux(), _MAX_PACKETS):
            index = packet.stream.index
            if index in counts and packet.size and packet.pts is not None:
                start = float(packet.pts * packet.time_base)
                end = start + float((packet.duration or 0) * packet.time_base)
                counts[index] += 1
                spans[index] = (
                    min(start, spans.get(index, (start, end))[0]),
                    max(end, spans.get(index, (start, end))[1]),
                )
    return {index: (count, spans[index][1] - spans[index][0] if count else 0.0) for index, count in counts.items()}


def _why_no_stream(container: Any, streams: Any, protected: Collection[int]) -> tuple[Status, str] | None:
    """Status and message for streams none of which can be decoded; None where there are no streams."""
    if not streams:
        return None
    if any(stream.index in protected for stream in streams):
        return Status.UNDECODABLE, ENCRYPTED
    # FFmpeg's own description of a file is where alone PyAV shows a codec that has no decoder. It goes by the log.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        described = str(container.dumps_format())
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #\d+:{streams[0].index}\b.*?: (?:Video|Audio): ([^\n,]+)", described)
    codec = found.group(1).strip() if found else "unknown"
    return Status.CODEC_MISSING, f"no decoder for the codec {codec}; convert the file, for instance to H.264 and AAC"
