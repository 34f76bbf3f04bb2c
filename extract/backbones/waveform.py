"""The raw waveform: what models that learn from sound itself read, cut into rows of one hop.

It has no network and no paper. The samples are those that the decoder gives, made one channel and one rate by FFmpeg.
Samples of row k are ``[k * hop, (k + 1) * hop)``. The last row is filled with zeros, its time ends where the track
does, and the message says how much of it is real. Joined, the rows are the track.

Legend: N samples, T = ceil(N / hop) rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..buffers import lasting_array
from ..networks import Transform
from ..options import checked_whole
from ..registry import BACKBONES, BackboneEntry
from ..types import DecodedAudio, DecodedFrames, Samples

SAMPLE_RATES_HZ = (16_000, 22_050, 44_100, 48_000)
_ROWS_PER_SECOND = 100
_BLOCK_SAMPLES = 1 << 20


class Waveform(Transform):
    """Samples as rows (T, hop)."""

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The rows of a whole track. Row k covers ``[k * hop, (k + 1) * hop)`` samples from the track's start."""
        if not isinstance(item, DecodedAudio):
            raise InputError(f"the backbone {self.spec.name!r} reads sound, not {type(item).__name__}")
        rate, num_samples = int(self.spec.sampling["sample_rate_hz"]), len(item.samples)
        if item.sample_rate_hz != rate:
            raise InputError(f"the sound has {item.sample_rate_hz} samples a second; {rate} are needed")
        if num_samples == 0:
            return FeatureArray.empty(self.spec, Status.NO_SAMPLES, "the sound track holds no sample")
        rows = cut_into_rows(item.samples, hop=self.spec.dim, dtype=self.spec.dtype)
        borders = np.minimum(np.arange(len(rows) + 1) * self.spec.dim, num_samples) / rate + item.start_seconds
        if not np.isfinite(rows).all():
            message = f"the sound holds values that are not numbers, or that {self.spec.dtype} cannot hold"
            return FeatureArray.empty(self.spec, Status.NON_FINITE, message)
        times = np.stack([borders[:-1], borders[1:]], axis=1)
        real = num_samples % self.spec.dim
        message = f"the last row holds {real} of {self.spec.dim} samples; the rest of it is zeros" if real else ""
        return FeatureArray(rows, times, Status.OK, message)


def cut_into_rows(samples: Samples, *, hop: int, dtype: str) -> NDArray[Any]:
    """(T, hop) rows of N samples, copied a block at a time. Values beyond the type's range become infinite."""
    num_rows = -(-len(samples) // hop)
    values = lasting_array((num_rows * hop,), dtype)
    for start in range(0, len(samples), _BLOCK_SAMPLES):
        block = samples[start : start + _BLOCK_SAMPLES]
        with np.errstate(over="ignore"):
            values[start : start + len(block)] = block
    return values.reshape(num_rows, hop)


def describe(*, sample_rate_hz: int = 16_000, hop_samples: int | None = None) -> FeatureSpec:
    """`hop_samples` of None is 10 ms, rounded down to whole samples."""
    name = "waveform_16khz"
    if sample_rate_hz not in SAMPLE_RATES_HZ:
        allowed = ", ".join(map(str, SAMPLE_RATES_HZ))
        raise ConfigError(f"the option sample_rate_hz of the backbone {name!r} is one of {allowed}: {sample_rate_hz!r}")
    hop = sample_rate_hz // _ROWS_PER_SECOND if hop_samples is None else hop_samples
    hop = checked_whole(name, "hop_samples", hop, lowest=1, highest=sample_rate_hz)
    return FeatureSpec(
        name=name,
        modality=Modality.AUDIO,
        dim=hop,
        rate_hz=sample_rate_hz / hop,
        sampling={"sample_rate_hz": int(sample_rate_hz), "hop_samples": hop, "centred": False, "channels": "mean"},
        preprocessing={"scale": 1.0, "padding": "zeros after the last sample"},
        paper="none: the decoder's samples as they are",
    )


BACKBONES.add("waveform_16khz", BackboneEntry(describe, Waveform.build, weights="none", number_types=("dtype",)))
