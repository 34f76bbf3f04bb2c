"""Small media files for the tests: pictures that show their own number, sounds that show their own time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

TICKS = 90_000  # ticks a second of every stream written here: fine enough for any frame rate
NUM_BITS = 10
Picture = NDArray[np.uint8]
Paint = Callable[[int], Picture]


def barcode(number: int, *, width: int = 160, height: int = 96) -> Picture:
    """A picture of black and white stripes that spell a number in binary, the highest bit on the left."""
    stripe = np.arange(width) * NUM_BITS // width
    row = np.where((number >> (NUM_BITS - 1 - stripe)) & 1, 235, 20).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_barcode(picture: Picture) -> int:
    """The number that a picture shows, whatever its size."""
    row = picture[picture.shape[0] // 4 : -picture.shape[0] // 4].mean(axis=(0, 2))
    centres = ((np.arange(NUM_BITS) + 0.5) * len(row) / NUM_BITS).astype(int)
    return int("".join("1" if row[centre] > 128 else "0" for centre in centres), 2)


def read_barcodes(pictures: NDArray[np.uint8]) -> list[int]:
    return [read_barcode(picture) for picture in pictures]


def steady(num_frames: int, rate: float, *, start: float = 0.0) -> list[float]:
    """Instants of a steady frame rate, with the end of the last frame after them."""
    return [start + index / rate for index in range(num_frames + 1)]


def click_track(seconds: float, rate: int, *, at: Sequence[float], channels: int = 1) -> NDArray[np.float32]:
    """Silence (channels, N) with a 20 ms burst of 1 kHz at each instant."""
    track = np.zeros(round(seconds * rate), np.float32)
    burst = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(0.02 * rate)) / rate)
    for instant in at:
        first = round(instant * rate)
        track[first : first + len(burst)] += burst[: len(track) - first]
    return np.tile(track, (channels, 1))


def onsets(samples: NDArray[np.float32], rate: int, *, threshold: float = 0.1) -> list[float]:
    """Seconds at which a click track becomes loud after at least 50 ms of quiet."""
    loud = np.flatnonzero(np.abs(samples) > threshold)
    firsts = loud[np.diff(loud, prepend=-rate) > 0.05 * rate]
    return [float(first) / rate for first in firsts]


def write_media(
    path: Path,
    *,
    instants: Sequence[float] = (),
    paint: Paint = barcode,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container: str | None = None,
    pixel_aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    frame_rate: int | None = None,
    tags: dict[str, int] | None = None,
    sound: NDArray[np.float32] | None = None,
    sound_rate: int = 16_000,
    sound_codec: str = "aac",
    sound_start: float = 0.0,
    sound_options: dict[str, str] | None = None,
) -> Path:
    """Write a file of pictures and sound.

    Frame k is on display from ``instants[k]`` to ``instants[k + 1]``; sound is (channels, N). ``matrix`` holds entries
    a, b, c, d of the display matrix, ``tags`` attributes of the encoder such as ``color_range``.
    """
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        video = None
        if len(instants) > 1:
            video = _add_video(output, codec, frame_rate, paint(0), pixel_format, codec_options)
            if pixel_aspect is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
            for name, value in (tags or {}).items():
                setattr(video.codec_context, name, value)
            if matrix is not None:
                video.set_display_matrix(_full_matrix(matrix))
        audio = None
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            audio = output.add_stream(sound_codec, rate=sound_rate, layout=layout, options=sound_options or {})
        if video is not None:
            _encode_video(output, video, instants, paint, pixel_format, tags or {})
        if audio is not None:
            _encode_audio(output, audio, sound, sound_rate, sound_start)
    return path


def _full_matrix(entries: Sequence[int]) -> list[int]:
    a, b, c, d = (entry << 16 for entry in entries)
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


def _add_video(output: Any, codec: str, rate: int | None, first: Picture, pixel_format: str, options: Any) -> Any:
    defaults = {"preset": "veryfast", "crf": "18"} if codec == "libx264" else {}
    stream = output.add_stream(codec, rate=rate or 30, options={**defaults, **(options or {})})
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pixel_format
    stream.thread_count = 1
    stream.codec_context.time_base = Fraction(1, rate or TICKS)
    return stream


def _encode_video(output: Any, stream: Any, instants: Sequence[float], paint: Paint, fmt: str, tags: Any) -> None:
    time_base = stream.codec_context.time_base
    ticks = [round(Fraction(instant).limit_denominator(TICKS) / time_base) for instant in instants]
    durations = {start: end - start for start, end in pairwise(ticks)}
    for number, start in enumerate(ticks[:-1]):
        frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
        frame = frame.reformat(
            format=fmt, dst_colorspace=tags.get("colorspace"), dst_color_range=tags.get("color_range")
        )
        frame.pts, frame.time_base = start, time_base
        _mux_timed(output, stream.encode(frame), durations)
    _mux_timed(output, stream.encode(None), durations)


def _mux_timed(output: Any, packets: Sequence[Any], durations: dict[int, int]) -> None:
    """Encoders forget how long a frame is on display; without it the last one's end would not be in the file."""
    for packet in packets:
        packet.duration = durations[packet.pts]
        output.mux(packet)


def _encode_audio(output: Any, stream: Any, sound: NDArray[np.float32], rate: int, start: float) -> None:
    layout = stream.layout.name
    for first in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = first + round(start * rate)
        for packet in stream.encode(frame):
            output.mux(packet)
    for packet in stream.encode(None):
        output.mux(packet)


def write_wav(path: Path, samples: NDArray[Any], rate: int) -> Path:
    """A WAV file of samples (N, channels): uint8, int16, int32 or float32, as they are."""
    samples = np.ascontiguousarray(samples)
    kind = 3 if samples.dtype.kind == "f" else 1
    channels, size = samples.shape[1], samples.dtype.itemsize
    header = b"".join(
        (
            b"RIFF" + (36 + samples.nbytes).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little"),
            kind.to_bytes(2, "little") + channels.to_bytes(2, "little") + rate.to_bytes(4, "little"),
            (rate * channels * size).to_bytes(4, "little") + (channels * size).to_bytes(2, "little"),
            (size * 8).to_bytes(2, "little") + b"data" + samples.nbytes.to_bytes(4, "little"),
        )
    )
    path.write_bytes(header + samples.tobytes())
    return path
