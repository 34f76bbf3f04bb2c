"""Opening a media file with FFmpeg, without what it would otherwise allow. Runs in the decoder subprocess only.

Only local files are read, only containers from a list are recognised (so that a playlist named ``.mp4`` cannot pull in
other files or addresses), and every refusal becomes a status and a sentence.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from ..._vocabulary import MediaError, Status
from ..types import Limits
from .container import picture_demuxer, why_not_media

CONTAINERS = (
    "mov,matroska,mpegts,avi,mpeg,flv,asf,ogg,wav,w64,aiff,mp3,flac,aac,ac3,mxf,yuv4mpegpipe"  # FFmpeg's demuxer names
)
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
        opened = av.open(
            f"file:{path.resolve()}",
            format=demuxer,
            container_options={"protocol_whitelist": "file", "format_whitelist": demuxer or CONTAINERS},
            metadata_errors="replace",
        )
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError(*_why_not_open(path, error)) from error
    with opened as container:
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
        video = max((one for one in videos if one.codec_context is not None), key=_video_rank, default=None)
        sounds = [one for one in container.streams.audio if one.codec_context is not None]
        audio = max(sounds, key=_audio_rank, default=None)
        # Exactly: the container's own figure is in microseconds.
        starts = [
            one.start_time * one.time_base for one in (*videos, *container.streams.audio) if one.start_time is not None
        ]
        yield OpenMedia(
            container=container,
            video=video,
            audio=audio,
            video_problem=_missing_codec(container, videos) if video is None else None,
            audio_problem=_missing_codec(container, container.streams.audio) if audio is None else None,
            zero=min(starts) if starts else Fraction(container.start_time or 0, av.time_base),
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
        return Status.CONTAINER_NOT_ALLOWED, f"a container that is not read here; allowed: {CONTAINERS}"
    if isinstance(error, (av.error.InvalidDataError, av.error.EOFError)):
        status, message = why_not_media(path)
        if isinstance(error, av.error.EOFError) and status is Status.UNDECODABLE:
            return Status.NO_FRAMES, "the file ends before its first picture or sound"
        return status, message
    return Status.UNREADABLE, f"the file cannot be read: {error.strerror}"


def _video_rank(stream: Any) -> tuple[bool, int, int]:
    context = stream.codec_context
    return bool(stream.disposition & Disposition.default), context.width * context.height, -stream.index


def _audio_rank(stream: Any) -> tuple[bool, int, int, int]:
    context = stream.codec_context
    is_default = bool(stream.disposition & Disposition.default)
    return is_default, context.layout.nb_channels, context.sample_rate or 0, -stream.index


def _missing_codec(container: Any, streams: Any) -> tuple[Status, str] | None:
    """Status and message for streams none of which has a decoder; None where there are no streams."""
    if not streams:
        return None
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
