"""The sound track: one channel, one rate, and every sample at its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from frameloom._vocabulary import MediaError, Status
from frameloom.extract import Decoder
from frameloom.extract.decode import AudioWanted, DecodeEnd, SamplesChunk
from frameloom.extract.decode.audio import AudioPass, to_mono
from frameloom.extract.types import Limits
from helpers.media import click_track, onsets, steady, write_media, write_wav
from numpy.testing import assert_allclose

RATE = 16_000
CODEC_FRAME = 1024 / RATE


def sound_of(decoder: Decoder, path: Path) -> tuple[np.ndarray, float, DecodeEnd]:
    events = list(decoder.decode(path, audio=AudioWanted(RATE)))
    chunks = [event for event in events if isinstance(event, SamplesChunk)]
    end = events[-1]
    assert isinstance(end, DecodeEnd)
    samples = np.concatenate([chunk.samples for chunk in chunks]) if chunks else np.zeros(0, np.float32)
    return samples, chunks[0].start_seconds if chunks else 0.0, end


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("aac.mp4", "aac", 44_100),
        ("aac.mkv", "aac", 44_100),
        ("aac.ts", "aac", 48_000),
        ("mp3.mp4", "libmp3lame", 44_100),
        ("opus.webm", "libopus", 48_000),
        ("flac.mkv", "flac", 96_000),
        ("low.mp4", "aac", 8_000),
    ],
)
def test_clicks_are_heard_when_they_were_made(media: Path, decoder: Decoder, name: str, codec: str, rate: int) -> None:
    made = [0.5, 1.25, 2.0]
    path = write_media(media / name, sound=click_track(3.0, rate, at=made), sound_rate=rate, sound_codec=codec)
    samples, start, end = sound_of(decoder, path)
    assert end.audio_status is Status.OK, end.audio_message
    # An encoder's priming may stay in a stream that has no edit list: one codec frame is allowed.
    assert_allclose(np.array(onsets(samples, RATE)) + start, made, atol=2048 / rate)
    assert abs(len(samples) / RATE - 3.0) < 4096 / rate


def test_wav_keeps_every_sample(media: Path, decoder: Decoder) -> None:
    rng = np.random.default_rng(0)
    written = rng.uniform(-0.9, 0.9, (RATE, 1)).astype(np.float32)
    samples, start, _ = sound_of(decoder, write_wav(media / "exact.wav", written, RATE))
    assert start == 0.0
    assert np.array_equal(samples, written[:, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged_in_every_sample_format(media: Path, decoder: Decoder, dtype: Any, channels: int) -> None:
    levels = np.linspace(-0.5, 0.7, channels)
    scale, offset = {np.uint8: (128, 128), np.int16: (2**15, 0), np.int32: (2**31, 0), np.float32: (1, 0)}[dtype]
    written = (np.tile(levels, (RATE // 4, 1)) * scale + offset).astype(dtype)
    samples, _, _ = sound_of(decoder, write_wav(media / f"{np.dtype(dtype).name}_{channels}.wav", written, RATE))
    assert_allclose(samples, levels.mean(), atol=0.01 if dtype == np.uint8 else 1e-4)


def test_sixteen_planar_channels_are_averaged(media: Path, decoder: Decoder) -> None:
    """More than eight: PyAV's own conversion reads past the planes' addresses there."""
    rate = 48_000
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    path = media / "sixteen.mka"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libopus", rate=rate, options={"mapping_family": "255"})
        stream.layout = "hexadecagonal"
        packed = np.repeat(tone[:, None], 16, axis=1).reshape(1, -1).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="hexadecagonal")
        frame.sample_rate = rate
        output.mux([*stream.encode(frame), *stream.encode(None)])
    samples, _, end = sound_of(decoder, path)
    assert end.audio_status is Status.OK
    middle = samples[RATE // 4 : 3 * RATE // 4]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440 / 2
    assert np.abs(middle).max() == pytest.approx(0.4, abs=0.05)


def test_resampling_keeps_a_tone(media: Path, decoder: Decoder) -> None:
    time = np.arange(2 * 44_100) / 44_100
    written = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)[:, None]
    samples, _, _ = sound_of(decoder, write_wav(media / "tone.wav", written, 44_100))
    assert abs(len(samples) - 2 * RATE) <= 1
    ideal = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(samples)) / RATE)
    assert np.abs(samples - ideal)[200:-200].max() < 5e-3


def test_a_long_track_arrives_in_chunks(media: Path, decoder: Decoder) -> None:
    written = np.linspace(-0.5, 0.5, 70 * RATE, dtype=np.float32)[:, None]
    path = write_wav(media / "long.wav", written, RATE)
    chunks = [event for event in decoder.decode(path, audio=AudioWanted(RATE)) if isinstance(event, SamplesChunk)]
    assert len(chunks) > 1
    assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), written[:, 0])


def test_sound_that_begins_late_says_so(media: Path, decoder: Decoder) -> None:
    path = write_media(
        media / "late_sound.mkv", instants=steady(60, 20), sound=click_track(1.0, RATE, at=[0.5]), sound_start=1.5
    )
    samples, start, end = sound_of(decoder, path)
    assert end.audio_status is Status.OK
    assert start == pytest.approx(1.5, abs=CODEC_FRAME)
    assert onsets(samples, RATE)[0] + start == pytest.approx(2.0, abs=2 * CODEC_FRAME)


def test_values_that_are_not_numbers_are_a_status(media: Path, decoder: Decoder) -> None:
    written = np.zeros((RATE, 1), np.float32)
    written[RATE // 2] = np.nan
    _, _, end = sound_of(decoder, write_wav(media / "nan.wav", written, RATE))
    assert end.audio_status is Status.NON_FINITE


def test_no_sound_track_is_an_absence(silent_clip: Path, decoder: Decoder) -> None:
    samples, _, end = sound_of(decoder, silent_clip)
    assert (len(samples), end.audio_status) == (0, Status.NO_AUDIO)


def block(samples: np.ndarray, rate: int = RATE) -> Any:
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate
    return frame


def walk(
    blocks: list[tuple[np.ndarray, float | None, int]], *, limits: Limits | None = None
) -> tuple[np.ndarray, AudioPass]:
    found: list[np.ndarray] = []
    run = AudioPass(sample_rate_hz=RATE, emit=found.append, limits=limits or Limits())
    for samples, start, rate in blocks:
        run.push(block(samples, rate), start)
    run.finish()
    return np.concatenate(found), run


def test_gaps_are_filled_and_overlaps_dropped_so_that_time_stays_true() -> None:
    ones = np.ones(RATE)
    samples, run = walk([(ones, 0.0, RATE), (2 * ones, 1.5, RATE), (3 * ones, 2.0, RATE), (4 * ones, None, RATE)])
    assert (run.gap_seconds, run.overlap_seconds) == (0.5, 0.5)
    assert len(samples) == 4 * RATE
    assert [samples[int(second * RATE)] for second in (0.5, 1.25, 2.2, 2.7, 3.5)] == [1, 0, 2, 3, 4]


def test_jitter_of_a_codec_frame_moves_nothing() -> None:
    ones = np.ones(1600)
    samples, run = walk([(ones, 0.0, RATE), (ones, 0.13, RATE), (ones, 0.17, RATE)])
    assert len(samples) == 4800
    assert (run.gap_seconds, run.overlap_seconds) == (0.0, 0.0)


def test_sound_from_before_zero_is_cut() -> None:
    samples, run = walk([(np.arange(RATE), -0.25, RATE)])
    assert run.start == 0.0
    assert samples[0] == RATE // 4


def test_a_rate_that_changes_midway_is_followed() -> None:
    samples, _ = walk([(np.ones(48_000), 0.0, 48_000), (np.ones(8_000), 1.0, 8_000), (np.ones(RATE), 2.0, RATE)])
    assert abs(len(samples) - 3 * RATE) <= 4
    assert_allclose(np.median(samples.reshape(-1)[: 3 * RATE - 8].reshape(-1, 8), axis=1), 1.0, atol=0.05)


def test_a_broken_clock_cannot_ask_for_endless_silence() -> None:
    with pytest.raises(MediaError) as caught:
        walk([(np.ones(RATE), 0.0, RATE), (np.ones(RATE), 1e6, RATE)], limits=Limits(max_duration_seconds=3600))
    assert caught.value.status is Status.TOO_LARGE


def test_full_scale_is_one_in_every_integer_format() -> None:
    assert to_mono([np.array([[255, 128, 0]], np.uint8)], "u8p") == pytest.approx([127 / 128, 0, -1])
    assert to_mono([np.array([[-(2**15), 2**14]], np.int16)], "s16p") == pytest.approx([-1, 0.5])
    assert to_mono([np.array([[-(2**31), 2**30]], np.int32)], "s32p") == pytest.approx([-1, 0.5])
