"""From decoded sound to one channel at one rate, on one time line. Runs in the decoder subprocess only.

Channels are averaged with equal weight (what sox does to make one channel), then resampled by libswresample.
Presentation timestamps place every block: a gap is filled with silence and an overlap dropped, both when longer than
a tenth of a second, so that sample n stays at ``start + n / rate``; the outcome says how often that was needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from av import AudioFrame, AudioResampler
from numpy.typing import NDArray

from ..._vocabulary import MediaError, Status
from ..types import Limits

_TOLERANCE_SECONDS = 0.1
_BLOCK_SECONDS = 1.0
_CHUNK_SECONDS = 30.0
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}

_PLANAR_TYPES = {"u8p": "u1", "s16p": "i2", "s32p": "i4", "s64p": "i8", "fltp": "f4", "dblp": "f8"}

Emit = Callable[[NDArray[np.float32]], None]


def to_mono(blocks: list[NDArray[Any]], sample_format: str) -> NDArray[np.float32]:
    """The mean over the channels of successive blocks (C, N) as (sum N,) float32, full scale being 1."""
    samples = np.concatenate(blocks, axis=1)
    kind = sample_format.removesuffix("p")
    if kind == "u8":
        samples = samples.astype(np.float32) - np.float32(_FULL_SCALE["u8"])
    wide = kind in ("s32", "s64", "dbl")
    mean = samples.mean(axis=0, dtype=np.float64 if wide else np.float32) / _FULL_SCALE.get(kind, 1.0)
    mono: NDArray[np.float32] = mean.astype(np.float32, copy=False)
    return mono


class _Kind(NamedTuple):
    """The properties that blocks must share to be resampled together."""

    sample_rate_hz: int
    sample_format: str
    num_channels: int


def _by_channel(frame: Any, kind: _Kind) -> NDArray[Any]:
    """A block's samples (C, N).

    Not by PyAV's own conversion: beyond eight channels it takes whatever follows the last plane's address for planes.
    """
    if not frame.format.is_planar:
        packed: NDArray[Any] = frame.to_ndarray().reshape(-1, kind.num_channels).T
        return packed
    dtype = _PLANAR_TYPES[kind.sample_format]
    return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes[: kind.num_channels]])


class AudioPass:
    """One pass over the sound of a file."""

    def __init__(self, *, sample_rate_hz: int, emit: Emit, limits: Limits) -> None:
        self.num_blocks = 0
        self.num_corrupt = 0
        self.num_non_finite = 0
        self.gap_seconds = 0.0
        self.overlap_seconds = 0.0
        self.start: float | None = None
        self.end = 0.0  # the instant after the last sample so far
        self._sample_rate_hz = sample_rate_hz
        self._emit = emit
        self._limits = limits
        self._kind: _Kind | None = None
        self._resampler: AudioResampler | None = None
        self._waiting: list[NDArray[Any]] = []
        self._num_waiting = 0
        self._output: list[NDArray[np.float32]] = []
        self._num_output = 0

    def push(self, frame: Any, start: float | None) -> None:
        """Take the next block. One without a timestamp follows the one before it."""
        if frame.is_corrupt:
            self.num_corrupt += 1
            return
        self.num_blocks += 1
        kind = _Kind(frame.sample_rate, frame.format.name, frame.layout.nb_channels)
        if kind != self._kind:
            self._restart(kind)
        samples = _by_channel(frame, kind)
        samples = self._placed(samples, self.end if start is None else start, kind.sample_rate_hz)
        self.end += samples.shape[1] / kind.sample_rate_hz
        self._check_end(self.end)
        self._append(samples, kind.sample_rate_hz)

    def finish(self) -> None:
        """Push what the resampler holds back, and hand on everything."""
        self._restart(None)
        self._hand_on()

    def _placed(self, samples: NDArray[Any], start: float, rate: int) -> NDArray[Any]:
        """The block (C, N), less its head or after some silence, so that it begins where the last one ended."""
        if self.start is None:
            self.start = self.end = max(0.0, start)
            return samples[:, max(0, round(-start * rate)) :]
        gap = start - self.end
        if gap > _TOLERANCE_SECONDS:
            self._fill(gap, rate, samples)
        elif gap < -_TOLERANCE_SECONDS:
            self.overlap_seconds += min(-gap, samples.shape[1] / rate)
            return samples[:, round(-gap * rate) :]
        return samples

    def _fill(self, gap: float, rate: int, like: NDArray[Any]) -> None:
        """Append silence, a block at a time, so that a timestamp from a broken clock cannot ask for all memory."""
        self._check_end(self.end + gap)
        self.gap_seconds += gap
        self.end += gap
        count, block = round(gap * rate), rate * 10
        silence = 128 if like.dtype == np.uint8 else 0
        for start in range(0, count, block):
            self._append(np.full((len(like), min(block, count - start)), silence, like.dtype), rate)

    def _check_end(self, end: float) -> None:
        limit = self._limits.max_duration_seconds
        if end > limit:
            raise MediaError(
                Status.TOO_LARGE, f"sound at {end:.0f} s; at most {limit:.0f} s are allowed (max_duration_seconds)"
            )

    def _append(self, samples: NDArray[Any], rate: int) -> None:
        self._waiting.append(samples)
        self._num_waiting += samples.shape[1]
        if self._num_waiting >= _BLOCK_SECONDS * rate:
            self._resample()

    def _restart(self, kind: _Kind | None) -> None:
        """Finish with blocks of the present kind and begin with another."""
        self._resample()
        if self._resampler is not None:
            self._take(self._resampler.resample(None))
        self._resampler = None
        self._kind = kind

    def _resample(self) -> None:
        if self._kind is None or not self._num_waiting:
            return
        mono = to_mono(self._waiting, self._kind.sample_format)
        self._waiting, self._num_waiting = [], 0
        if not np.isfinite(mono).all():
            self.num_non_finite += 1
        elif self._kind.sample_rate_hz == self._sample_rate_hz:
            self._store(mono)
        else:
            if self._resampler is None:
                self._resampler = AudioResampler(format="flt", layout="mono", rate=self._sample_rate_hz)
            block = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
            block.sample_rate = self._kind.sample_rate_hz
            self._take(self._resampler.resample(block))

    def _take(self, blocks: list[Any]) -> None:
        for block in blocks:
            self._store(block.to_ndarray().reshape(-1).astype(np.float32, copy=True))

    def _store(self, samples: NDArray[np.float32]) -> None:
        self._output.append(samples)
        self._num_output += len(samples)
        if self._num_output >= _CHUNK_SECONDS * self._sample_rate_hz:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._output:
            self._emit(np.concatenate(self._output))
            self._output, self._num_output = [], 0
