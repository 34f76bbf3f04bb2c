"""Raw sound in rows: every sample is there once, and the end is told honestly."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedAudio, Decoder, backbone_spec, create_backbone, extract_file
from frameloom.extract.buffers import SampleSpool
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray


def some_samples(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32)


@contextmanager
def spooled(*parts: NDArray[np.float32]) -> Iterator[SampleSpool]:
    spool = SampleSpool(max_memory_bytes=1000)
    for part in parts:
        spool.append(part)
    yield spool
    spool.close()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 2000),
    hop=st.integers(1, 500),
    rate=st.sampled_from([16_000, 22_050, 44_100, 48_000]),
    is_spooled=st.booleans(),
)
def test_the_rows_joined_are_the_track(count: int, hop: int, rate: int, is_spooled: bool) -> None:
    samples = some_samples(count)
    backbone = create_backbone("waveform_16khz", sample_rate_hz=rate, hop_samples=hop, dtype="float32")
    with spooled(samples) as spool:
        feature = backbone.encode(DecodedAudio(spool if is_spooled else samples, rate, 0.25))
    flat = feature.values.reshape(-1)
    np.testing.assert_array_equal(flat[:count], samples)
    assert not flat[count:].any()
    assert len(feature.values) == -(-count // hop)
    np.testing.assert_allclose(feature.times[:, 0], 0.25 + np.arange(len(feature.values)) * hop / rate)
    np.testing.assert_array_equal(feature.times[1:, 0], feature.times[:-1, 1])
    assert feature.times[-1, 1] == pytest.approx(0.25 + count / rate)
    left = count % hop
    words = f"the last row holds {left} of {hop} samples; the rest of it is zeros" if left else ""
    assert (feature.status, feature.message) == (Status.OK, words)


def test_the_usual_rows_are_ten_milliseconds() -> None:
    spec = backbone_spec("waveform_16khz")
    assert (spec.dim, spec.rate_hz, spec.dtype) == (160, 100.0, "float16")
    assert backbone_spec("waveform_16khz", sample_rate_hz=48_000).dim == 480
    uneven = backbone_spec("waveform_16khz", sample_rate_hz=22_050)
    assert (uneven.dim, uneven.rate_hz) == (220, 22_050 / 220)


def test_half_precision_keeps_eleven_bits() -> None:
    samples = some_samples(1600)
    values = create_backbone("waveform_16khz").encode(DecodedAudio(samples, 16_000)).values
    assert values.dtype == np.float16
    np.testing.assert_allclose(values.reshape(-1), samples, rtol=2**-11, atol=2**-24)


def test_a_long_track_takes_little_more_than_its_rows() -> None:
    backbone = create_backbone("waveform_16khz")
    with spooled(*(np.full(500_000, part / 20, np.float32) for part in range(20))) as spool:
        tracemalloc.start()
        feature = backbone.encode(DecodedAudio(spool, 16_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert feature.values.nbytes == 20_000_000
    assert peak - feature.values.nbytes - feature.times.nbytes < 16_000_000  # the whole track would be 40 MB more
    assert feature.values[-1, -1] == np.float16(0.95)


def test_what_cannot_be_used_is_a_status() -> None:
    backbone = create_backbone("waveform_16khz")
    assert backbone.encode(DecodedAudio(np.zeros(0, np.float32), 16_000)).status is Status.NO_SAMPLES
    for value in (np.nan, np.inf, 1e6):  # float16 ends at 65504
        feature = backbone.encode(DecodedAudio(np.array([0.0, value], np.float32), 16_000))
        assert (feature.status, len(feature.values)) == (Status.NON_FINITE, 0)


@pytest.mark.parametrize(
    "options",
    [{"sample_rate_hz": 8000}, {"hop_samples": 0}, {"hop_samples": 1.5}, {"hop_samples": 20_000}, {"dtype": "uint8"}],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="waveform_16khz"):
        backbone_spec("waveform_16khz", **options)


def test_sound_of_another_rate_is_refused() -> None:
    with pytest.raises(InputError, match="16000 are needed"):
        create_backbone("waveform_16khz").encode(DecodedAudio(some_samples(10), 44_100))


def test_hears_a_file_at_any_rate(clip: Path, decoder: Decoder) -> None:
    for rate in (16_000, 44_100):
        backbone = create_backbone("waveform_16khz", sample_rate_hz=rate)
        feature = extract_file(clip, [backbone], decoder=decoder)["waveform_16khz"]
        assert feature.status is Status.OK
        assert abs(len(feature.values) - 400) <= 5
        loud = np.abs(feature.values).max(axis=1) > 0.1
        assert feature.times[np.flatnonzero(loud)[0], 1] == pytest.approx(0.5, abs=0.03)
