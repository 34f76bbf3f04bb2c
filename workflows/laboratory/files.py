"""The laboratory's clips as files: H.264 and AAC in MP4, the same bytes for the same clip, damaged on request.

The same bytes are promised for one machine and one set of library versions: one encoding thread, no clock and no
version text in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
    path: Path, frames: Iterator[NDArray[np.uint8]], sound: NDArray[np.float32] | None, *, size: int, fps: int
) -> None:
    """Write frames, (size, size, 3) RGB each, and sound, (samples,) in [-1, 1], as MP4, index first.

    A clip whose sound is None has no audio stream.
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


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A hidden name in a file's folder for the block to write, then renamed: whatever has the name is complete."""
    aside = path.with_name(f".{path.name}.tmp")
    yield aside
    sync_path(aside)
    aside.replace(path)


def render_missing(
    folder: Path,
    clips: Mapping[str, Clip],
    render: Callable[[Clip], None],
    *,
    on_progress: Callable[[int], None] | None,
    num_workers: int | None,
) -> int:
    """Render the clips that a folder lacks, in threads: encoders and most of the drawing run outside Python's lock.

    Args:
        folder: of the files; made if it is not there.
        clips: what to render, by file, named from the folder's parent on.
        render: writes one clip.
        on_progress: called with the number of clips that are done since it was called last.
        num_workers: clips rendered at the same time; None is one for each processor that this process may use.

    Returns:
        how many were rendered.

    Raises:
        ConfigError: the folder holds other videos, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: choose another place for the clips")
    folder.mkdir(parents=True, exist_ok=True)
    present = {f"{folder.name}/{path.name}" for path in folder.glob("*.mp4")}
    if strangers := sorted(present - clips.keys()):
        raise ConfigError(
            f"{folder} holds {len(strangers)} videos not of this data set (such as {Path(strangers[0]).name}): "
            "choose an empty folder, or the numbers and the seed that they were made with"
        )
    missing = [clip for video, clip in clips.items() if video not in present]
    report = on_progress or (lambda _num_clips: None)
    report(len(present))
    with ThreadPoolExecutor(num_workers or len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(render, missing):
            report(1)
    return len(missing)


def corruption_of(fractions: Mapping[str, float], num_clips: int, rng: np.random.Generator) -> list[str]:
    """For each clip the kind of corruption that it suffers, or an empty string; kinds never meet in one clip."""
    ends = np.rint(np.cumsum([0.0, *fractions.values()]) * num_clips).astype(int)
    kinds = np.full(num_clips, "", dtype=object)
    for kind, start, end in zip(fractions, ends[:-1], ends[1:], strict=True):
        kinds[start:end] = kind
    return [str(kind) for kind in rng.permutation(kinds)]
