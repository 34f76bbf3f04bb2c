"""The laboratory's clips as files: H.264 and AAC in MP4, the same bytes for the same clip, damaged on request.

The same bytes are promised for one machine and one set of library versions: one encoding thread, no clock and no
version text in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._files import sync_path
from ..._vocabulary import ConfigError

Clip = TypeVar("Clip")

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
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, fps)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))


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
    """Make a file under a hidden name in its folder, then rename it: whatever has the name is complete."""
    aside = path.with_name(f".{path.name}.tmp")
    write(aside)
    sync_path(aside)
    aside.replace(path)


def missing_clips(folder: Path, videos: Sequence[str]) -> set[str]:
    """Which of these videos (named from the parent folder on) are not in a folder, which is made if it is not there.

    Raises:
        ConfigError: the folder holds other videos, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: choose another place for the clips")
    folder.mkdir(parents=True, exist_ok=True)
    present = {f"{folder.name}/{path.name}" for path in folder.glob("*.mp4")}
    if strangers := sorted(present - {*videos}):
        raise ConfigError(
            f"{folder} holds {len(strangers)} videos not of this data set (such as {Path(strangers[0]).name}): "
            "choose an empty folder, or the numbers and the seed that they were made with"
        )
    return {*videos} - present


def render_all(
    render: Callable[[Clip], None],
    clips: Sequence[Clip],
    *,
    num_present: int,
    on_progress: Callable[[int], None] | None,
    num_workers: int | None,
) -> None:
    """Render clips. Threads suffice: the encoders and most of the drawing run outside Python's lock."""
    report = on_progress or (lambda _num_clips: None)
    report(num_present)
    with ThreadPoolExecutor(num_workers or len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(render, clips):
            report(1)


def corruption_of(fractions: Mapping[str, float], num_clips: int, rng: np.random.Generator) -> list[str]:
    """For each clip the kind of corruption that it suffers, or an empty string; kinds never meet in one clip."""
    ends = np.rint(np.cumsum([0.0, *fractions.values()]) * num_clips).astype(int)
    kinds = np.full(num_clips, "", dtype=object)
    for kind, start, end in zip(fractions, ends[:-1], ends[1:], strict=True):
        kinds[start:end] = kind
    return [str(kind) for kind in rng.permutation(kinds)]
