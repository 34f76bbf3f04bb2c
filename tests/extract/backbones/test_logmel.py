"""The spectrogram, against the formulas written out in float64, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from frameloom._vocabulary import InputError, Status
from frameloom.extract import DecodedAudio, create_backbone
from frameloom.extract.backbones.logmel import log_mel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

RATE = 16_000


def slaney_hz(mel: NDArray) -> NDArray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def slaney_filters() -> NDArray:
    """(201, 40) triangles of equal area between 20 and 8000 Hz."""
    lowest, highest = 20 * 3 / 200, 15 + 27 * np.log(8.0) / np.log(6.4)
    borders = slaney_hz(np.linspace(lowest, highest, 42))
    frequencies = np.linspace(0, RATE / 2, 201)[:, None]
    rising = (frequencies - borders[:-2]) / (borders[1:-1] - borders[:-2])
    falling = (borders[2:] - frequencies) / (borders[2:] - borders[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (borders[2:] - borders[:-2])


def reference(waveform: NDArray) -> NDArray:
    """AVLnet's recipe step by step in float64, one frame after another."""
    samples = waveform.astype(np.float64) - waveform.astype(np.float64).mean()
    samples = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1])
    padded = np.pad(samples, 200, mode="reflect")
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    frames = [padded[first : first + 400] * window for first in range(0, len(samples) + 1, 160)]
    mel = (np.abs(np.fft.rfft(np.array(frames))) ** 2) @ slaney_filters()
    decibels = 10 * np.log10(np.maximum(mel, 1e-10) / max(mel.max(), 1e-10))
    return np.maximum(decibels, -80)


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(1, 3000), seed=st.integers(0, 99), loudness=st.sampled_from([1e-3, 0.1, 1.0]))
def test_agrees_with_the_formulas_at_any_length(num_samples: int, seed: int, loudness: float) -> None:
    waveform = (loudness * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)
    found = log_mel(waveform)
    assert found.shape == (1 + num_samples // 160, 40)
    if num_samples > 1:  # a single sample less its mean is silence
        assert_allclose(found, reference(waveform), atol=2e-2)


def test_blocks_of_a_long_track_leave_no_seam() -> None:
    waveform = (0.1 * np.random.default_rng(1).standard_normal(130 * RATE)).astype(np.float32)
    assert_allclose(log_mel(waveform), reference(waveform), atol=2e-2)


def test_a_tone_is_loudest_in_its_band() -> None:
    waveform = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    assert set(log_mel(waveform)[5:-5].argmax(axis=1)) == {int(slaney_filters()[25].argmax())}


def test_a_row_knows_what_it_heard() -> None:
    audio = DecodedAudio(np.ones(1600, np.float32), RATE, 2.0)
    times = create_backbone("logmel_avlnet").encode(audio).times
    assert times.shape == (11, 2)
    assert_allclose(times[0], [2.0, 2.0125])
    assert_allclose(times[5], [2.0375, 2.0625])
    assert_allclose(times[-1], [2.0875, 2.1])


def test_silence_is_ok_and_says_so() -> None:
    feature = create_backbone("logmel_avlnet").encode(DecodedAudio(np.zeros(3000, np.float32), RATE))
    assert feature.status is Status.OK
    assert "silent" in feature.message
    assert feature.values.shape == (19, 40)
    assert not feature.values.any()


def test_nothing_and_not_a_number_are_statuses() -> None:
    backbone = create_backbone("logmel_avlnet")
    assert backbone.encode(DecodedAudio(np.zeros(0, np.float32), RATE)).status is Status.NO_SAMPLES
    bad = backbone.encode(DecodedAudio(np.array([0.1, np.nan], np.float32), RATE))
    assert (bad.status, len(bad.values)) == (Status.NON_FINITE, 0)


def test_another_sample_rate_is_refused() -> None:
    with pytest.raises(InputError, match="8000"):
        create_backbone("logmel_avlnet").encode(DecodedAudio(np.zeros(10, np.float32), 8000))
