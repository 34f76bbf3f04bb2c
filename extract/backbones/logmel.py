"""The log-mel spectrogram of AVLnet and Everything at Once: 40 bands, 100 frames a second.

Rouditchenko et al., "AVLnet: Learning Audio-Visual Language Representations from Instructional Videos" (Interspeech
2021). Followed: roudimit/AVLnet at be70e95, audio_to_spectrograms.py, as run there with librosa 0.8.1: mean removed,
pre-emphasis 0.97, 25 ms symmetric Hamming windows every 10 ms with reflected edges, power, Slaney mel bands from 20
to 8000 Hz, decibels relative to the loudest value of the file, cut off 80 below it. Computed here through torchaudio.

Deviations, each on purpose:
- The sound is made one channel and 16 kHz by FFmpeg, not by sox, and stays float: sox's 16-bit file with dither is
  left out.
- A track without samples is a status and no rows, where the official code writes 200 zeros. A silent track keeps its
  official value, all zeros (which is also the value of the loudest sound), and a message.

Legend: N samples, T = 1 + N // 160 frames, F = 201 frequencies, M = 40 mel bands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, FeatureSpec, InputError, Modality, Status
from ..buffers import lasting_array
from ..networks import Transform
from ..registry import BACKBONES, BackboneEntry
from ..types import DecodedAudio, DecodedFrames, Samples

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16_000
FFT_SIZE = 400
HOP = 160
NUM_BANDS = 40
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0
_PRE_EMPHASIS = 0.97
_GAIN_DB = -4.0
_TOP_DB = 80.0
_SMALLEST_POWER = 1e-10
_EMPTY_SAMPLES = 200
_BLOCK_FRAMES = 6000
_BLOCK_SAMPLES = 1 << 20


def log_mel(waveform: Samples, *, gain: float = 1.0, dtype: str = "float32") -> NDArray[Any]:
    """The spectrogram (T, M) of a waveform (N,) at 16 kHz, in decibels from -80 to 0.

    It is computed twice, a minute at a time: once to find the loudest value and once relative to it, so that the
    memory taken is that of the result. No samples are taken as 200 zeros, as the official code does.

    Args:
        waveform: an array, or anything that is read by slices.
        gain: what samples are multiplied by first.
        dtype: type of the result.
    """
    from torchaudio.functional import amplitude_to_DB

    track = _Track(waveform, gain=gain)
    loudest = max([_SMALLEST_POWER, *(float(mel.max()) for mel in _mel_blocks(track))])
    reference = math.log10(loudest)
    values = lasting_array((track.num_frames, NUM_BANDS), dtype)
    filled = 0
    for mel in _mel_blocks(track):
        decibels = amplitude_to_DB(mel, multiplier=10.0, amin=_SMALLEST_POWER, db_multiplier=reference)
        values[filled : filled + len(mel)] = decibels.clamp_(min=-_TOP_DB).numpy()
        filled += len(mel)
    return values


def pre_emphasised(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """The waveform (N,) without its mean, each sample less 0.97 of the one before it; the first is kept."""
    track = _Track(waveform)
    return track.emphasised(0, track.num_samples)


def power_spectrum(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared magnitudes (T, F) of a waveform (N,) as it is, without pre-emphasis."""
    track = _Track(waveform, is_plain=True)
    return np.concatenate([block.numpy() for block in _power_blocks(track)])


def mel_filters() -> NDArray[np.float32]:
    """The mel filter bank (F, M)."""
    filters: NDArray[np.float32] = _mel_filters().numpy()
    return filters


class _Track:
    """A waveform made ready for the transform, of which any stretch can be asked for."""

    def __init__(self, samples: Samples, *, gain: float = 1.0, is_plain: bool = False) -> None:
        self._samples = samples if len(samples) else np.zeros(_EMPTY_SAMPLES, np.float32)
        self._gain = np.float32(gain)
        self._is_plain = is_plain
        self.num_samples = len(self._samples)
        self.num_frames = 1 + self.num_samples // HOP
        self._mean = np.float32(0.0 if is_plain else self._sum() / self.num_samples)

    def emphasised(self, first: int, last: int) -> NDArray[np.float32]:
        """Samples ``[first, last)``: amplified, without the mean, pre-emphasised."""
        before = max(0, first - 1)
        centred = self._samples[before:last] * self._gain - self._mean
        if self._is_plain:
            return centred[first - before :]
        emphasised = centred[1:] - np.float32(_PRE_EMPHASIS) * centred[:-1]
        return emphasised if first else np.append(centred[:1], emphasised)

    def padded(self, first: int, last: int) -> NDArray[np.float32]:
        """Samples ``[first, last)`` of the track with half a window before and after it, mirrored at its ends."""
        index = np.abs(np.arange(first, last) - FFT_SIZE // 2)
        period = 2 * (self.num_samples - 1)
        index = index % period if period else np.zeros_like(index)
        index = np.where(index < self.num_samples, index, period - index)
        lowest = int(index.min())
        stretch: NDArray[np.float32] = self.emphasised(lowest, int(index.max()) + 1)[index - lowest]
        return stretch

    def _sum(self) -> float:
        starts = range(0, self.num_samples, _BLOCK_SAMPLES)
        blocks = (self._samples[start : start + _BLOCK_SAMPLES] * self._gain for start in starts)
        return math.fsum(float(block.sum(dtype=np.float64)) for block in blocks)


def _mel_blocks(track: _Track) -> Iterator[torch.Tensor]:
    """Mel powers of successive minutes, (T_block, M) each."""
    return (power @ _mel_filters() for power in _power_blocks(track))


def _power_blocks(track: _Track) -> Iterator[torch.Tensor]:
    """Squared magnitudes of successive minutes, (T_block, F) each."""
    import torch
    from torchaudio.functional import spectrogram

    for first in range(0, track.num_frames, _BLOCK_FRAMES):
        last = min(first + _BLOCK_FRAMES, track.num_frames) - 1
        power = spectrogram(
            torch.from_numpy(track.padded(first * HOP, last * HOP + FFT_SIZE)),
            pad=0,
            window=torch.hamming_window(FFT_SIZE, periodic=False),
            n_fft=FFT_SIZE,
            hop_length=HOP,
            win_length=FFT_SIZE,
            power=2.0,
            normalized=False,
            center=False,
        )
        yield power.T


@functools.cache
def _mel_filters() -> torch.Tensor:
    from torchaudio.functional import melscale_fbanks

    filters: torch.Tensor = melscale_fbanks(
        n_freqs=FFT_SIZE // 2 + 1,
        f_min=_LOWEST_HZ,
        f_max=_HIGHEST_HZ,
        n_mels=NUM_BANDS,
        sample_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters


class LogMel(Transform):
    """AVLnet's spectrogram as a backbone: (T, 40) float16, a row every 10 ms."""

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The spectrogram of a whole track. Row i looks at the 25 ms around ``start + i / 100`` seconds."""
        if not isinstance(item, DecodedAudio):
            raise InputError(f"the backbone {self.spec.name!r} reads sound, not {type(item).__name__}")
        if item.sample_rate_hz != SAMPLE_RATE_HZ:
            raise InputError(f"the sound has {item.sample_rate_hz} samples a second; {SAMPLE_RATE_HZ} are needed")
        if len(item.samples) == 0:
            return FeatureArray.empty(self.spec, Status.NO_SAMPLES, "the sound track holds no sample")
        is_silent = True
        for start in range(0, len(item.samples), _BLOCK_SAMPLES):
            block = item.samples[start : start + _BLOCK_SAMPLES]
            if not np.isfinite(block).all():
                return FeatureArray.empty(self.spec, Status.NON_FINITE, "the sound holds values that are not numbers")
            is_silent = is_silent and not block.any()
        values = log_mel(item.samples, gain=10 ** (_GAIN_DB / 20), dtype=self.spec.dtype)
        message = "the sound track is silent" if is_silent else ""
        return FeatureArray(values, _times(len(values), item), Status.OK, message)


def _times(num_frames: int, audio: DecodedAudio) -> NDArray[np.float64]:
    """The span of each window in the track, (T, 2)."""
    times = lasting_array((num_frames, 2), np.float64)
    times[:, 0] = np.arange(num_frames)
    times[:, 0] *= HOP
    times[:, 1] = times[:, 0]
    times += (-FFT_SIZE // 2, FFT_SIZE // 2)
    times.clip(0, len(audio.samples), out=times)
    times /= SAMPLE_RATE_HZ
    times += audio.start_seconds
    return times


def describe() -> FeatureSpec:
    """It has no options."""
    return FeatureSpec(
        name="logmel_avlnet",
        modality=Modality.AUDIO,
        dim=NUM_BANDS,
        rate_hz=SAMPLE_RATE_HZ / HOP,
        sampling={"sample_rate_hz": SAMPLE_RATE_HZ, "hop_samples": HOP, "centred": True, "channels": "mean"},
        preprocessing={
            "gain_db": _GAIN_DB,
            "mean_removed": True,
            "pre_emphasis": _PRE_EMPHASIS,
            "window": "hamming, symmetric",
            "fft_size": FFT_SIZE,
            "padding": "reflect",
            "spectrum": "power",
            "mel_scale": "slaney",
            "lowest_hz": _LOWEST_HZ,
            "highest_hz": _HIGHEST_HZ,
            "reference": "maximum of the file",
            "top_db": _TOP_DB,
            "smallest_power": _SMALLEST_POWER,
        },
        dtype="float16",
        paper="Rouditchenko et al., AVLnet, Interspeech 2021",
    )


BACKBONES.add("logmel_avlnet", BackboneEntry(describe, LogMel.build, weights="none", number_types=()))
