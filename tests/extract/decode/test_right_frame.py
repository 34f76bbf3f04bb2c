"""The right frame for any instant, in every container and codec, pixel by pixel against what was written.

A request is right when the frame that comes back is the one on display at the requested instant; instants are
compared to within what the container rounds to. An instant before the first frame or after the end of the last has
no frame and gets none: nothing is repeated and nothing is clamped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import Status
from frameloom.extract import Decoder
from frameloom.extract.decode import AudioWanted, DecodeEnd, FramesChunk, FramesWanted, SamplesChunk
from frameloom.extract.windows.sampling import Segments
from helpers.numbered_media import FRAME_RATE, PAIRS, Pair, chirp_instants, read_numbers
from numpy.testing import assert_allclose
from numpy.typing import NDArray

NUM_REQUESTS = 500
NUM_SEGMENTS = (1, 3, 12)
GRID_RATES_HZ = (0.5, 1.0, 2.0, 5.0, 16.0, 24.0, 25.0, 60.0)
SHORT_SIDE = 32
DECODED_RATE_HZ = 16_000
ROUNDING = 1e-6  # of seconds in floating point
LONGEST_GUESS = 0.25  # for how long a last frame may be shown whose end is nowhere in the file
HALF_A_FRAME = 0.5 / FRAME_RATE


@dataclass
class Found:
    """What came back for one request: numbers (T,), times (T, 2), and which of the instants (T,) they are for."""

    instants: NDArray[np.float64]
    numbers: NDArray[np.int64]
    times: NDArray[np.float64]
    cells: NDArray[np.int64]


@dataclass
class Decoded:
    """What one pass over one file gave."""

    pair: Pair
    found: list[Found]
    samples: NDArray[np.float32]
    sound_start: float
    end: DecodeEnd


def instants_for(pair: Pair) -> list[tuple[float, ...] | float]:
    """The requests made of every file: random instants, each plan's own instants, and the rates of grids."""
    generator = np.random.default_rng(sum(pair.name.encode()))
    first, last = pair.starts[0], pair.starts[-1]
    random = np.sort(generator.uniform(first - 0.3, last + 0.3, NUM_REQUESTS))
    plans = [Segments(num_segments=count).instants(first, last) for count in NUM_SEGMENTS]
    plans += [
        Segments(num_segments=count, at="random").instants(first, last, generator=generator) for count in NUM_SEGMENTS
    ]
    return [tuple(random.tolist()), *(tuple(plan.tolist()) for plan in plans), *GRID_RATES_HZ]


def decode_all(decoder: Decoder, path: Path, pair: Pair) -> Decoded:
    """Ask for everything in one pass."""
    requests = instants_for(pair)
    wanted = [
        FramesWanted(request, SHORT_SIDE) if isinstance(request, float) else FramesWanted(1.0, SHORT_SIDE, request)
        for request in requests
    ]
    chunks: list[list[FramesChunk]] = [[] for _ in wanted]
    samples: list[SamplesChunk] = []
    for event in decoder.decode(path, frames=wanted, audio=AudioWanted(DECODED_RATE_HZ)):
        if isinstance(event, FramesChunk):
            chunks[event.index].append(event)
        elif isinstance(event, SamplesChunk):
            samples.append(event)
    assert isinstance(event, DecodeEnd)
    found = [_found(request, own, pair) for request, own in zip(requests, chunks, strict=True)]
    track = np.concatenate([chunk.samples for chunk in samples])
    return Decoded(pair, found, track, samples[0].start_seconds, event)


def _found(request: tuple[float, ...] | float, chunks: list[FramesChunk], pair: Pair) -> Found:
    if isinstance(request, float):
        instants = (np.arange(int((pair.starts[-1] + 1) * request)) + 0.5) / request
    else:
        instants = np.asarray(request)
    return Found(
        instants,
        np.concatenate([read_numbers(chunk.frames.frames) for chunk in chunks]),
        np.concatenate([chunk.frames.times for chunk in chunks]),
        np.concatenate([chunk.frames.cell_indices() for chunk in chunks]),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbered")


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: pair.name)
def decoded(request: pytest.FixtureRequest, folder: Path, decoder: Decoder) -> Decoded:
    return decode_all(decoder, request.param.write(folder), request.param)


def test_every_request_gets_the_frame_that_is_on_display(decoded: Decoded) -> None:
    assert decoded.end.video_status is Status.OK, decoded.end.video_message
    starts, slack = decoded.pair.starts, decoded.pair.tick_seconds + ROUNDING
    latest_end, earliest_end = starts[-1], starts[-1]
    if not decoded.pair.is_last_end_known:
        latest_end, earliest_end = starts[-1] + LONGEST_GUESS, starts[-2]
    ends = np.append(starts[1:-1], latest_end)
    for found in decoded.found:
        instants = found.instants[found.cells]
        assert (starts[found.numbers] - slack <= instants).all()
        assert (instants < ends[found.numbers] + slack).all()
        must = (starts[0] + slack <= found.instants) & (found.instants < earliest_end - slack)
        may = (starts[0] - slack <= found.instants) & (found.instants < latest_end + slack)
        assert np.isin(np.flatnonzero(must), found.cells).all()
        assert np.isin(found.cells, np.flatnonzero(may)).all()


def test_reported_times_are_those_of_the_frame(decoded: Decoded) -> None:
    starts, slack = decoded.pair.starts, decoded.pair.tick_seconds + ROUNDING
    for found in decoded.found:
        assert_allclose(found.times[:, 0], starts[found.numbers], rtol=0, atol=slack)
        has_known_end = decoded.pair.is_last_end_known | (found.numbers < len(starts) - 2)
        ends = starts[found.numbers[has_known_end] + 1]
        assert_allclose(found.times[has_known_end, 1], ends, rtol=0, atol=slack)
    assert decoded.end.video_extent is not None
    assert decoded.end.video_extent[0] == pytest.approx(starts[0], abs=slack)


def test_the_sound_is_heard_when_it_was_made(decoded: Decoded) -> None:
    assert decoded.end.audio_status is Status.OK, decoded.end.audio_message
    heard = chirp_instants(decoded.samples, DECODED_RATE_HZ, count=len(decoded.pair.chirps)) + decoded.sound_start
    assert_allclose(heard, decoded.pair.chirps, rtol=0, atol=HALF_A_FRAME)


@pytest.mark.parametrize("name", ["h264_b.mp4", "prores_turned.mov", "mpeg2.mxf", "mjpeg_gaps.avi"])
def test_a_frame_is_on_display_from_its_start_and_no_longer_at_its_end(
    folder: Path, decoder: Decoder, name: str
) -> None:
    pair = next(pair for pair in PAIRS if pair.name == name)
    starts = pair.starts[:-1]
    instants = np.sort(np.concatenate([starts, np.nextafter(starts[1:], -1.0)]))
    wanted = FramesWanted(1.0, SHORT_SIDE, tuple(instants.tolist()))
    chunks = [event for event in decoder.decode(pair.write(folder), frames=[wanted]) if isinstance(event, FramesChunk)]
    numbers = np.concatenate([read_numbers(chunk.frames.frames) for chunk in chunks])
    assert numbers.tolist() == np.repeat(np.arange(len(starts)), 2)[:-1].tolist()


def test_the_pairs_are_many_and_different() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS) >= 20
