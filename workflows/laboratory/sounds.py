"""The sound of the laboratory's clips: one voice of some pitch and timbre, in some rhythm, over faint noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float64]

_PITCHES_HZ = {"deep": 110.0, "low": 294.0, "high": 784.0, "shrill": 2093.0}
_BEATS_HZ = {"slow": 1.25, "brisk": 3.0, "rapid": 8.0}
# Multiples of the pitch and their strengths.
_PURE = ((1.0, 1.0), (2.0, 0.05))
_METALLIC = ((1.0, 0.7), (2.76, 0.8), (5.4, 0.6), (1.47, 0.4))
_BUZZ_HARMONICS = 24
_ATTACK_SECONDS = 0.008
_NOISE_FLOOR = 0.002


def render_sound(
    traits: Mapping[str, str], *, seconds: float, sample_rate_hz: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The sound track of one clip, (samples,) in [-1, 1], from its value of every attribute and its random numbers."""
    times = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    pitch_hz = _PITCHES_HZ[traits["pitch"]] * float(rng.uniform(0.94, 1.06))
    voice = _voice(traits["timbre"], pitch_hz, times, sample_rate_hz, rng)
    wave = voice / np.abs(voice).max()
    if traits["rhythm"] != "held":  # struck again and again with a quick decay
        beats_hz = _BEATS_HZ[traits["rhythm"]] * float(rng.uniform(0.92, 1.08))
        since_beat = (times * beats_hz + rng.uniform()) % 1 / beats_hz
        # Half of each beat sounds whatever its length, so that loudness on average does not tell the rhythms apart.
        ends = 0.5 / beats_hz
        wave *= np.minimum(since_beat / _ATTACK_SECONDS, 1) * (since_beat < ends) * np.exp(-0.7 * since_beat / ends)
    gain = 10 ** (float(rng.uniform(-9, -3)) / 20)
    sound: Wave = gain * wave + _NOISE_FLOOR * rng.normal(0, 1, times.shape)
    return sound.clip(-1, 1).astype(np.float32)


def _voice(timbre: str, pitch_hz: float, times: Wave, sample_rate_hz: int, rng: np.random.Generator) -> Wave:
    if timbre == "hissing":  # noise around the pitch, two thirds of an octave to each side
        spectrum = np.fft.rfft(rng.normal(0, 1, len(times)))
        octaves = np.log2(np.maximum(np.fft.rfftfreq(len(times), 1 / sample_rate_hz), 1.0) / pitch_hz)
        return np.fft.irfft(spectrum * np.exp(-0.5 * (octaves / 0.4) ** 2), len(times))
    if timbre == "buzzing":
        partials: tuple[tuple[float, float], ...] = tuple((k, 1 / k**0.5) for k in range(1, _BUZZ_HARMONICS + 1))
    else:
        partials = _PURE if timbre == "pure" else _METALLIC
    wave = np.zeros_like(times)
    for multiple, strength in partials:
        if multiple * pitch_hz < 0.95 * sample_rate_hz / 2:
            wave += strength * np.sin(2 * np.pi * (multiple * pitch_hz * times + rng.uniform()))
    return wave
