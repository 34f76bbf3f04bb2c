"""What a file holds: it is opened, and its first picture and sound are decoded. Runs in the decoder subprocess only."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error

from ..._vocabulary import MediaError, Status
from ..types import AudioInfo, Limits, MediaInfo, VideoInfo
from .container import ENCRYPTED, looks_encrypted
from .ends import is_cut
from .open import OpenMedia, is_empty, open_media
from .video import Orientation, check_dimensions, orientation_of

_MAX_PACKETS = 2000


def probe_media(path: Path, *, limits: Limits) -> MediaInfo:
    """Describe a file. Raises MediaError when it cannot be opened at all."""
    with open_media(path, limits=limits) as media:
        first = _first_frames(media)
        video_status, video_message = _video_status(path, media, first, limits=limits)
        audio_status, audio_message = Status.OK, ""
        if media.audio is None:
            audio_status, audio_message = media.audio_problem or (Status.NO_AUDIO, "no sound track")
        elif "audio" not in first:
            audio_status, audio_message = Status.NO_SAMPLES, "no sound could be decoded"
        if video_status is Status.OK and is_cut(path):
            video_status, video_message = Status.TRUNCATED, "the file ends before its own structure does"
        duration = media.container.duration
        return MediaInfo(
            path=str(path),
            status=video_status,
            message=video_message or audio_message,
            container=media.container.format.name,
            duration_seconds=None if duration is None else duration / av.time_base,
            video=_video_info(media, first.get("video")),
            audio=_audio_info(media),
            video_status=video_status,
            audio_status=audio_status,
            num_streams=len(media.container.streams),
        )


def _first_frames(media: OpenMedia) -> dict[str, Any]:
    """The first decoded frame of each chosen stream."""
    wanted = [stream for stream in (media.video, media.audio) if stream is not None]
    found: dict[str, Any] = {}
    for stream in wanted:
        stream.codec_context.thread_count = 1
    try:
        for count, packet in enumerate(media.container.demux(wanted) if wanted else ()):
            kind = packet.stream.type
            if kind not in found and not is_empty(packet):
                try:
                    frames = packet.decode()
                    if frames:
                        found[kind] = frames[0]
                except MemoryError:
                    raise
                except av.error.FFmpegError:
                    pass  # a damaged packet: the next one may do
            if len(found) == len(wanted) or count >= _MAX_PACKETS:
                break
    except MemoryError:
        raise
    except (av.error.FFmpegError, IndexError):  # the latter where a stream came up midway
        return found  # the file cannot be read any further: what is missing is reported as such
    return found


def _video_status(path: Path, media: OpenMedia, first: dict[str, Any], *, limits: Limits) -> tuple[Status, str]:
    if media.video is None:
        return media.video_problem or (Status.NO_VIDEO, "the file has no moving picture")
    try:
        check_dimensions(media.video.codec_context.width, media.video.codec_context.height, limits=limits)
    except MediaError as error:
        return error.status, error.message
    if "video" not in first:
        return Status.NO_FRAMES, ENCRYPTED if looks_encrypted(path) else "no frame could be decoded"
    return Status.OK, ""


def _video_info(media: OpenMedia, frame: Any) -> VideoInfo | None:
    if media.video is None:
        return None
    stream, context = media.video, media.video.codec_context
    orientation = Orientation() if frame is None else orientation_of(frame)
    width = round(context.width * (stream.sample_aspect_ratio or Fraction(1)))
    size = (context.height, width) if orientation.swap else (width, context.height)
    return VideoInfo(
        stream_index=stream.index,
        codec=context.name,
        width=size[0],
        height=size[1],
        rotation_degrees=orientation.rotation_degrees,
        frame_rate_hz=float(stream.average_rate) if stream.average_rate else None,
        pixel_format=context.pix_fmt or "",
        num_frames=stream.frames or None,
        start_seconds=_seconds(stream, stream.start_time, media.zero),
        duration_seconds=_seconds(stream, stream.duration),
    )


def _audio_info(media: OpenMedia) -> AudioInfo | None:
    if media.audio is None:
        return None
    stream, context = media.audio, media.audio.codec_context
    return AudioInfo(
        stream_index=stream.index,
        codec=context.name,
        sample_rate_hz=context.sample_rate,
        num_channels=context.layout.nb_channels,
        start_seconds=_seconds(stream, stream.start_time, media.zero),
        duration_seconds=_seconds(stream, stream.duration),
    )


def _seconds(stream: Any, ticks: int | None, zero: Fraction = Fraction(0)) -> float | None:
    return None if ticks is None else float(ticks * stream.time_base - zero)
