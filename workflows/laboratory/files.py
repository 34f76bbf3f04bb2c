"""The laboratory's clips as files: H.264 and AAC in MP4, the same bytes for the same clip, damaged on request.

The same bytes are promised for one machine and one set of library versions: one encoding thread, no clock and no
version text in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
_AUDIO_BIT_RATE = 64_000
_BIT_EXACT = {"flags": "+bitexact", "threads": "1"}
# About a second between key frames, so that a damaged clip recovers as real ones do. No macroblock tree: with it,
# x264's AVX-512 code encodes the same frames differently now and then (87 of 1535 times; without it 0 of 1344).
_X264 = {
    "preset": "veryfast",
    "crf": "23",
    "x264-params": "sliced-threads=0:keyint=10:bframes=0:mbtree=0",
    **_BIT_EXACT,
}
# The two-loop coder, FFmpeg's default, takes longer than everything else about a clip together.
_AAC = {"aac_coder": "fast", **_BIT_EXACT}
_CUT_AT = 0.6
_DAMAGE = (0.5, 0.7)


def encode_clip(
    path: Path,
    frames: Iterator[NDArray[np.uint8]],
    sound: NDArray[np.float32] | None,
    *,
    size: int,
    fps: int,
) -> None:
    """Write one clip as MP4, index first.

    Args:
        path: the file.
        frames: (size, size, 3) RGB each.
        sound: (samples,) in [-1, 1], or None for a clip without an audio stream.
        size: side of the picture in pixels.
        fps: frames a second.
    """
    import av

    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        video = container.add_stream("libx264", rate=fps, options=dict(_X264))
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options=dict(_AAC))
            audio.bit_rate = _AUDIO_BIT_RATE
        _encode_pictures(container, video, frames, fps)
        if sound is not None:
            _encode_sound(container, audio, sound)


def _encode_pictures(container: Any, stream: Any, frames: Iterator[NDArray[np.uint8]], fps: int) -> None:
    import av

    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, fps)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_sound(container: Any, stream: Any, sound: NDArray[np.float32]) -> None:
    import av

    frame = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def truncate_file(path: Path) -> None:
    """Cut the file's last part off, as an interrupted copy does."""
    os.truncate(path, int(path.stat().st_size * _CUT_AT))


def damage_file(path: Path, rng: np.random.Generator) -> None:
    """Overwrite a stretch in the middle of the file's media data with random bytes."""
    num_bytes = path.stat().st_size
    start, end = (int(num_bytes * part) for part in _DAMAGE)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(rng.bytes(end - start))


def write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Make a file under a hidden name beside its own, then rename it: whatever has the name is complete."""
    aside = path.with_name(f".{path.name}.tmp")
    write(aside)
    with aside.open("rb") as file:
        _sync(file)
    aside.replace(path)


def _sync(file: BinaryIO) -> None:
    os.fsync(file.fileno())


def corruption_of(fractions: Mapping[str, float], num_clips: int, rng: np.random.Generator) -> list[str]:
    """For each clip the kind of corruption that it suffers, or an empty string; kinds never meet in one clip."""
    ends = np.rint(np.cumsum([0.0, *fractions.values()]) * num_clips).astype(int)
    kinds = np.full(num_clips, "", dtype=object)
    for kind, start, end in zip(fractions, ends[:-1], ends[1:], strict=True):
        kinds[start:end] = kind
    return [str(kind) for kind in rng.permutation(kinds)]
