"""Files whose every frame shows its own number and whose sound chirps at each whole second, and what is true of them.

The truth comes from the writing side: the instants that were handed to the encoder, less the instant that counts as
zero, which is the start of the earliest stream. No decoder is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.media import NUM_BITS, barcode, steady, write_media

FRAME_RATE = 25
SOUND_RATE = 48_000
SECONDS = 5.0
MILLISECOND = 1 / 1000
_CHIRP_SECONDS = 0.1
_CHIRP_HZ = (400.0, 3000.0)

# What an encoder puts before the first sample, at 48 kHz: FFmpeg's encoders for all but MP3 (LAME) and Opus (libopus).
PRIMING = {"aac": 1024, "ac3": 256, "mp2": 481, "libmp3lame": 1105, "libopus": 312}


def variable_instants(
    *, seed: int, start: float = 0.0, choices: Sequence[int] = (8, 17, 33, 40, 100, 250)
) -> list[float]:
    """Frames of so many milliseconds, drawn evenly, for about 5 s."""
    ends = np.cumsum(np.random.default_rng(seed).choice(choices, size=500)) / 1000
    return [start, *(start + ends[ends < SECONDS]).round(3).tolist()]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One container with one codec.

    Attributes:
        name: the file's name, whose suffix chooses the container.
        codec: encoder of the pictures.
        sound_codec: encoder of the sound.
        frame_starts: start of every frame and end of the last, on the writer's clock.
        sound_start: instant of the first sample, on the writer's clock.
        keeps_priming: whether a player takes the encoder's priming for sound, as in containers that have no means of
            leaving it out.
        tick_seconds: what the container rounds instants to; 0 where it keeps what is written.
        is_last_end_known: whether the container tells for how long the last frame is on display. Transport streams,
            ASF and AVI do not, and MP4 counts in decoding order, which is not the same where the rate varies.
        turn: quarter turns, anticlockwise, by which the stored picture must be turned to stand upright.
        options: the other arguments of `write_media`.
    """

    name: str
    codec: str
    sound_codec: str
    frame_starts: Sequence[float] = tuple(steady(round(SECONDS * FRAME_RATE), FRAME_RATE))
    sound_start: float = 0.0
    keeps_priming: bool = False
    tick_seconds: float = 0.0
    is_last_end_known: bool = True
    turn: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def zero(self) -> float:
        """The writer's instant that counts as zero: the start of the earliest stream."""
        priming = PRIMING.get(self.sound_codec, 0) / SOUND_RATE if self.keeps_priming else 0.0
        return min(self.frame_starts[0], self.sound_start - priming)

    @property
    def starts(self) -> NDArray[np.float64]:
        """True start of every frame, and the end of the last."""
        return np.asarray(self.frame_starts) - self.zero

    @property
    def chirps(self) -> NDArray[np.float64]:
        """True instants of the chirps."""
        return np.asarray(self._chirps()) - self.zero

    def write(self, folder: Path) -> Path:
        """Make the file."""
        at = [instant - self.sound_start for instant in self._chirps()]
        track = chirp_track(self.frame_starts[-1] - self.sound_start, SOUND_RATE, at=at)
        return write_media(
            folder / self.name,
            instants=self.frame_starts,
            codec=self.codec,
            paint=self._paint(),
            matrix=_MATRICES[self.turn],
            sound=track[None],
            sound_rate=SOUND_RATE,
            sound_codec=self.sound_codec,
            sound_start=self.sound_start,
            **self.options,
        )

    def _chirps(self) -> list[float]:
        return list(range(math.floor(self.sound_start) + 1, math.floor(self.frame_starts[-1] - _CHIRP_SECONDS) + 1))

    def _paint(self) -> Callable[[int], NDArray[np.uint8]]:
        return lambda number: np.ascontiguousarray(np.rot90(barcode(number), -self.turn))


_MATRICES = {0: None, 1: (0, -1, 1, 0), 2: (-1, 0, 0, -1), 3: (0, 1, -1, 0)}
_X264_B = {"bf": "3", "g": "12"}
_X265 = "log-level=none:pools=1:keyint=12:bframes=3"
_VPX = {"deadline": "realtime", "cpu-used": "8"}
_STEADY: dict[str, Any] = {"frame_rate": FRAME_RATE}


def _late(start: float) -> list[float]:
    return steady(round(SECONDS * FRAME_RATE), FRAME_RATE, start=start)


PAIRS = [
    Pair(
        name="h264_b.mp4",
        codec="libx264",
        sound_codec="aac",
        options={**_STEADY, "codec_options": _X264_B, "container_options": {"movflags": "faststart"}},
    ),
    Pair(
        name="h264_variable.mp4",
        codec="libx264",
        sound_codec="aac",
        frame_starts=variable_instants(seed=1),
        is_last_end_known=False,
        options={"codec_options": _X264_B},
    ),
    Pair(
        name="h264_start_7_s.mp4",
        codec="libx264",
        sound_codec="aac",
        frame_starts=_late(7.32),
        sound_start=7.4,
        options={**_STEADY, "codec_options": _X264_B},
    ),
    Pair(
        name="h264_fragments.mp4",
        codec="libx264",
        sound_codec="aac",
        options={
            **_STEADY,
            "codec_options": _X264_B,
            "container_options": {"movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof"},
        },
    ),
    Pair(
        name="h264_open_gop.mkv",
        codec="libx264",
        sound_codec="aac",
        tick_seconds=MILLISECOND,
        options={**_STEADY, "codec_options": {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}},
    ),
    Pair(
        name="h264_b.ts",
        codec="libx264",
        sound_codec="aac",
        keeps_priming=True,
        tick_seconds=1 / 90_000,
        options={**_STEADY, "codec_options": _X264_B},
    ),
    Pair(
        name="h264_variable.ts",
        codec="libx264",
        sound_codec="mp2",
        frame_starts=variable_instants(seed=2, start=0.7),
        is_last_end_known=False,
        keeps_priming=True,
        tick_seconds=1 / 90_000,
        options={"codec_options": _X264_B},
    ),
    Pair(
        name="hevc_open_gop.mp4",
        codec="libx265",
        sound_codec="aac",
        options={**_STEADY, "codec_options": {"x265-params": f"{_X265}:open-gop=1", "preset": "ultrafast"}},
    ),
    Pair(
        name="hevc_b.ts",
        codec="libx265",
        sound_codec="ac3",
        keeps_priming=True,
        tick_seconds=1 / 90_000,
        options={**_STEADY, "codec_options": {"x265-params": _X265, "preset": "ultrafast"}},
    ),
    Pair(
        name="mpeg2_open_gop.ts",
        codec="mpeg2video",
        sound_codec="mp2",
        keeps_priming=True,
        tick_seconds=1 / 90_000,
        options={**_STEADY, "codec_options": {"bf": "2", "g": "12", "b": "2000000"}},
    ),
    Pair(
        name="mpeg1.mpg",
        codec="mpeg1video",
        sound_codec="mp2",
        keeps_priming=True,
        tick_seconds=1 / 90_000,
        options={**_STEADY, "codec_options": {"bf": "2", "g": "12", "b": "2000000"}},
    ),
    Pair(
        name="mpeg2.mxf",
        codec="mpeg2video",
        sound_codec="pcm_s16le",
        options={**_STEADY, "codec_options": {"bf": "2", "g": "12", "b": "2000000"}},
    ),
    Pair(
        name="mpeg4.avi",
        codec="mpeg4",
        sound_codec="libmp3lame",
        sound_start=PRIMING["libmp3lame"] / SOUND_RATE,  # so that the file begins at zero: AVI has ticks of a frame
        keeps_priming=True,
        options={**_STEADY, "codec_options": {"bf": "0"}},
    ),
    Pair(
        name="mpeg4_b.avi",
        codec="mpeg4",
        sound_codec="pcm_s16le",
        frame_starts=_late(0.04),
        options={**_STEADY, "codec_options": {"bf": "2", "g": "12"}},
    ),
    Pair(
        name="h264_b.avi",
        codec="libx264",
        sound_codec="pcm_s16le",
        frame_starts=_late(0.08),
        options={**_STEADY, "codec_options": {"bf": "2", "g": "12"}},
    ),
    Pair(
        name="h264_gaps.avi",
        codec="libx264",
        sound_codec="pcm_s16le",
        frame_starts=variable_instants(seed=5, choices=(40, 40, 40, 80, 240)),
        is_last_end_known=False,
        options={**_STEADY, "codec_options": {"bf": "0", "g": "12"}},
    ),
    Pair(
        name="mjpeg_gaps.avi",
        codec="mjpeg",
        sound_codec="pcm_s16le",
        frame_starts=variable_instants(seed=6, choices=(40, 40, 80)),
        is_last_end_known=False,
        options={**_STEADY, "pixel_format": "yuvj420p"},
    ),
    Pair(
        name="mjpeg_turned.mov",
        codec="mjpeg",
        sound_codec="alac",
        turn=2,
        options={**_STEADY, "pixel_format": "yuvj420p"},
    ),
    Pair(
        name="prores_turned.mov",
        codec="prores_ks",
        sound_codec="pcm_s16le",
        turn=1,
        options={**_STEADY, "pixel_format": "yuv422p10le"},
    ),
    Pair(
        name="h264_turned.mp4",
        codec="libx264",
        sound_codec="libmp3lame",
        turn=3,
        options={**_STEADY, "codec_options": _X264_B},
    ),
    Pair(
        name="vp8.webm",
        codec="libvpx",
        sound_codec="libopus",
        tick_seconds=MILLISECOND,
        options={**_STEADY, "codec_options": _VPX},
    ),
    Pair(
        name="vp9_variable.webm",
        codec="libvpx-vp9",
        sound_codec="libopus",
        frame_starts=variable_instants(seed=3),
        tick_seconds=MILLISECOND,
        options={"codec_options": _VPX},
    ),
    Pair(
        name="av1.mp4",
        codec="libsvtav1",
        sound_codec="libopus",
        options={**_STEADY, "codec_options": {"preset": "8", "crf": "12", "svtav1-params": "lp=1"}},
    ),
    Pair(name="vp8.ogv", codec="libvpx", sound_codec="flac", options={**_STEADY, "codec_options": _VPX}),
    Pair(
        name="h264_b.flv",
        codec="libx264",
        sound_codec="aac",
        keeps_priming=True,
        tick_seconds=MILLISECOND,
        options={**_STEADY, "codec_options": _X264_B},
    ),
    Pair(
        name="sorenson.flv",
        codec="flv",
        sound_codec="libmp3lame",
        keeps_priming=True,
        tick_seconds=MILLISECOND,
        options=_STEADY,
    ),
    Pair(
        name="wmv2_variable.wmv",
        codec="wmv2",
        sound_codec="libmp3lame",
        frame_starts=variable_instants(seed=4),
        is_last_end_known=False,
        keeps_priming=True,
        tick_seconds=MILLISECOND,
    ),
    Pair(
        name="ffv1_sound_first.mkv",
        codec="ffv1",
        sound_codec="flac",
        frame_starts=_late(0.52),
        sound_start=0.2,
        tick_seconds=MILLISECOND,
        options=_STEADY,
    ),
]


def read_numbers(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers (T,) that pictures (T, H, W, 3) of `media_files.barcode` show."""
    height, width = pictures.shape[1:3]
    centres = ((np.arange(NUM_BITS) + 0.5) * width / NUM_BITS).astype(int)
    bits = pictures[:, height // 4 : -height // 4, centres].mean(axis=(1, 3)) > 128
    numbers: NDArray[np.int64] = bits @ (1 << np.arange(NUM_BITS)[::-1])
    return numbers


def _chirp(rate: int) -> NDArray[np.float64]:
    """A tone that rises evenly and swells softly."""
    time = np.arange(round(_CHIRP_SECONDS * rate)) / rate
    low, high = _CHIRP_HZ
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * _CHIRP_SECONDS))
    wave: NDArray[np.float64] = np.sin(phase) * np.hanning(len(time))
    return wave


def chirp_track(seconds: float, rate: int, *, at: Sequence[float]) -> NDArray[np.float32]:
    """Silence (N,) with a chirp that begins at each instant."""
    track = np.zeros(round(seconds * rate), np.float32)
    chirp = 0.5 * _chirp(rate)
    for instant in at:
        first = round(instant * rate)
        track[first : first + len(chirp)] += chirp
    return track


def chirp_instants(samples: NDArray[np.float32], rate: int, *, count: int) -> NDArray[np.float64]:
    """Seconds (count,) at which the best matches of a chirp begin, ascending, half a second or more apart."""
    likeness = np.abs(np.correlate(samples.astype(np.float64), _chirp(rate), mode="valid"))
    found = []
    for _ in range(count):
        best = int(likeness.argmax())
        found.append(best / rate)
        likeness[max(0, best - rate // 2) : best + rate // 2] = 0.0
    return np.sort(found)
