"""Which frame stands for which instant, upright, in the right shape and colour."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import Status
from frameloom.extract import DecodedFrames, Decoder
from frameloom.extract.decode import DecodeEnd, FramesChunk, FramesWanted
from frameloom.extract.decode.video import FrameSampler, Timestamps, VideoPass, scaled_size
from frameloom.extract.types import Limits
from helpers.media import barcode, read_barcodes, steady, write_media
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

VARIABLE = [0.0, 0.04, 0.08, 0.9, 1.0, 1.45, 1.55, 2.6, 2.64, 4.0]
JITTER = 1.5 / 1000  # Matroska keeps milliseconds


def frames_of(decoder: Decoder, path: Path, *, rate_hz: float = 1.0, short_side: int = 64) -> DecodedFrames:
    """All frames of one request, and the demand that nothing was wrong with the file."""
    events = list(decoder.decode(path, frames=[FramesWanted(rate_hz, short_side)]))
    assert isinstance(events[-1], DecodeEnd)
    assert events[-1].video_status is Status.OK, events[-1].video_message
    chunks = [event.frames for event in events if isinstance(event, FramesChunk)]
    return DecodedFrames(
        np.concatenate([chunk.frames for chunk in chunks]), np.concatenate([chunk.times for chunk in chunks])
    )


def expected(instants: list[float], rate_hz: float) -> list[int]:
    """Frame numbers by the rule itself, from what was written: the frame whose interval holds each grid middle."""
    numbers, index = [], 0
    while (middle := (index + 0.5) / rate_hz) < instants[-1]:
        numbers += [k for k in range(len(instants) - 1) if instants[k] <= middle < instants[k + 1]]
        index += 1
    return numbers


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"bf": "3", "g": "12"}),
        ("b_frames.mkv", "libx264", {"bf": "3", "g": "12"}),
        ("b_frames.ts", "libx264", {"bf": "2", "g": "12"}),
        (
            "open_gop.mp4",
            "libx265",
            {"x265-params": "log-level=none:keyint=10:bframes=3:pools=1", "preset": "ultrafast"},
        ),
        ("mpeg4.avi", "mpeg4", {}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
@pytest.mark.parametrize("rate_hz", [1.0, 4.0])
def test_every_container_and_codec_gives_the_right_frames(
    media: Path, decoder: Decoder, name: str, codec: str, options: dict[str, str], rate_hz: float
) -> None:
    path, instants = media / name, steady(60, 20)
    if not path.exists():
        write_media(path, instants=instants, codec=codec, codec_options=options, frame_rate=20)
    found = frames_of(decoder, path, rate_hz=rate_hz)
    numbers = expected(instants, rate_hz)
    assert read_barcodes(found.frames) == numbers
    assert_allclose(found.times, [[instants[k], instants[k + 1]] for k in numbers], atol=JITTER)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
@pytest.mark.parametrize("rate_hz", [1.0, 2.0, 10.0])
def test_variable_frame_rate_goes_by_timestamps(media: Path, decoder: Decoder, name: str, rate_hz: float) -> None:
    path = media / name
    if not path.exists():
        write_media(path, instants=VARIABLE)
    found = frames_of(decoder, path, rate_hz=rate_hz)
    numbers = expected(VARIABLE, rate_hz)
    assert read_barcodes(found.frames) == numbers
    assert_allclose(found.times, [[VARIABLE[k], VARIABLE[k + 1]] for k in numbers], atol=JITTER)


def test_a_start_that_is_not_zero_counts_as_zero(media: Path, decoder: Decoder) -> None:
    path = write_media(media / "late.mp4", instants=steady(50, 25, start=7.32), container_options={"use_editlist": "0"})
    found = frames_of(decoder, path)
    assert read_barcodes(found.frames) == expected(steady(50, 25), 1.0)
    assert_allclose(found.times, [[0.48, 0.52], [1.48, 1.52]], atol=1e-4)


def test_pictures_that_begin_after_the_sound_keep_their_distance(media: Path, decoder: Decoder) -> None:
    sound = np.zeros((1, 48_000), np.float32)
    path = write_media(media / "sound_first.mkv", instants=steady(40, 20, start=1.0), sound=sound)
    found = frames_of(decoder, path)
    assert_allclose(found.times[:, 0], [1.5, 2.5], atol=0.03)  # AAC's priming moves the container's start a little
    assert all(abs(number - wanted) <= 1 for number, wanted in zip(read_barcodes(found.frames), [10, 30], strict=True))


@pytest.mark.parametrize(("num_frames", "middle"), [(1, 0), (3, 1), (9, 4)])
def test_a_video_shorter_than_a_grid_cell_gives_its_middle_frame(
    media: Path, decoder: Decoder, num_frames: int, middle: int
) -> None:
    path = write_media(media / f"short_{num_frames}.mp4", instants=steady(num_frames, 25))
    found = frames_of(decoder, path)
    assert read_barcodes(found.frames) == [middle]
    assert_allclose(found.times, [[middle / 25, (middle + 1) / 25]], atol=1e-4)


def test_a_slow_video_repeats_the_frame_that_is_still_on_display(media: Path, decoder: Decoder) -> None:
    path = write_media(media / "slides.mp4", instants=[0.0, 3.0, 6.0])
    found = frames_of(decoder, path)
    assert read_barcodes(found.frames) == [0, 0, 0, 1, 1, 1]
    assert_allclose(found.times[0], [0.0, 3.0], atol=1e-4)


def test_more_frames_than_a_chunk_arrive_in_order(clip: Path, decoder: Decoder) -> None:
    found = frames_of(decoder, clip, rate_hz=25.0)
    assert read_barcodes(found.frames) == list(range(100))


def test_one_pass_serves_several_requests(clip: Path, decoder: Decoder) -> None:
    wanted = [FramesWanted(1.0, 64), FramesWanted(5.0, 96), FramesWanted(1.0, 32)]
    together: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for event in decoder.decode(clip, frames=wanted):
        if isinstance(event, FramesChunk):
            together[event.index].append(event.frames.frames)
    for index, request in enumerate(wanted):
        alone = frames_of(decoder, clip, rate_hz=request.rate_hz, short_side=request.short_side)
        assert np.array_equal(np.concatenate(together[index]), alone.frames)


CORNERS = {
    "top left": (220, 30, 30),
    "top right": (30, 200, 30),
    "bottom left": (40, 40, 220),
    "bottom right": (230, 230, 40),
}


def corners(_: int = 0) -> np.ndarray:
    """A picture, 128 wide and 96 high, with a colour in each quarter."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:48, :64], picture[:48, 64:] = CORNERS["top left"], CORNERS["top right"]
    picture[48:, :64], picture[48:, 64:] = CORNERS["bottom left"], CORNERS["bottom right"]
    return picture


def named_corners(picture: np.ndarray) -> list[str]:
    """The names of the colours found in the four corners, in reading order."""
    height, width = picture.shape[:2]
    spots = [picture[y, x].astype(int) for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]
    return [min(CORNERS, key=lambda name: np.abs(spot - CORNERS[name]).sum()) for spot in spots]


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda picture: picture),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # clockwise by a quarter
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).transpose(1, 0, 2)),
    ],
)
def test_pictures_come_upright(tmp_path: Path, decoder: Decoder, matrix: Any, upright: Any) -> None:
    path = write_media(tmp_path / "turned.mp4", instants=steady(25, 25), paint=corners, matrix=matrix)
    found = frames_of(decoder, path, short_side=48).frames[0]
    wanted = upright(corners())
    assert named_corners(found) == named_corners(wanted)
    assert found.shape[:2] == (wanted.shape[0] // 2, wanted.shape[1] // 2)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_odd_sizes_and_ten_bits(tmp_path: Path, decoder: Decoder, pixel_format: str) -> None:
    width, height = (161, 97) if pixel_format == "yuv444p" else (162, 98)
    path = write_media(
        tmp_path / "odd.mp4",
        instants=steady(50, 25),
        paint=lambda number: barcode(number, width=width, height=height),
        pixel_format=pixel_format,
    )
    found = frames_of(decoder, path)
    assert found.frames.shape[1:] == (64, int(width * 64 / height), 3)
    assert read_barcodes(found.frames) == expected(steady(50, 25), 1.0)


def test_non_square_pixels_are_made_square(tmp_path: Path, decoder: Decoder) -> None:
    path = write_media(tmp_path / "wide.mp4", instants=steady(25, 25), pixel_aspect=Fraction(2))
    assert frames_of(decoder, path, short_side=48).frames.shape[1:3] == (48, 160)
    info = decoder.probe(path)
    assert info.video is not None
    assert (info.video.width, info.video.height) == (320, 96)


@pytest.mark.parametrize("color_range", [1, 2], ids=["limited range", "full range"])
@pytest.mark.parametrize("colorspace", [1, 5], ids=["BT.709", "BT.601"])
def test_colours_follow_the_stream_s_tags(tmp_path: Path, decoder: Decoder, color_range: int, colorspace: int) -> None:
    colour = np.array([200, 60, 90], np.uint8)
    path = write_media(
        tmp_path / "colour.mp4",
        instants=steady(25, 25),
        paint=lambda _: np.broadcast_to(colour, (96, 128, 3)).copy(),
        tags={"color_range": color_range, "colorspace": colorspace},
    )
    found = frames_of(decoder, path).frames[0].reshape(-1, 3).astype(int)
    assert np.abs(found - colour).max() <= 6


@given(
    durations=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=40),
    rate_hz=st.floats(0.2, 30.0),
    start=st.floats(0.0, 5.0),
)
def test_the_sampler_agrees_with_the_rule(durations: list[float], rate_hz: float, start: float) -> None:
    instants = [start, *(start + np.cumsum(durations)).tolist()]
    rows: list[tuple[float, float]] = []
    sampler = FrameSampler(
        FramesWanted(rate_hz, 32), scaler=NoScaler(), emit=lambda found: rows.extend(map(tuple, found.times))
    )
    run = VideoPass(show=sampler.offer, default_duration=1.0, limits=Limits())
    for first, last in pairwise(instants):
        run.push(StandIn(), first, last - first)
    run.finish()
    sampler.flush()
    middles = [(k + 0.5) / rate_hz for k in range(math.ceil(run.end * rate_hz) + 1)]
    ends = [*instants[1:-1], run.end]
    wanted = [
        (first, last)
        for middle in middles
        for first, last in zip(instants, ends, strict=False)
        if first <= middle < last
    ]
    assert rows == wanted
    assert sampler.num_rows == len(wanted)


class NoScaler:
    """Gives a picture of one pixel, whatever it is shown."""

    def scaled(self, frame: Any, short_side: int) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)


class StandIn:
    """As much of a decoded frame as the walk itself looks at."""

    width = height = 8

    def __init__(self, *, is_corrupt: bool = False, key_frame: bool = True) -> None:
        self.is_corrupt = is_corrupt
        self.key_frame = key_frame


@pytest.mark.parametrize(("keyframes", "kept"), [({0, 1, 2, 3}, [0, 2, 3]), ({0, 3}, [0, 3]), ({0}, [0])])
def test_a_damaged_picture_and_what_is_built_on_it_stand_for_nothing(keyframes: set[int], kept: list[int]) -> None:
    times: list[Any] = []
    sampler = FrameSampler(FramesWanted(1.0, 32), scaler=NoScaler(), emit=lambda found: times.extend(found.times))
    run = VideoPass(show=sampler.offer, default_duration=1.0, limits=Limits())
    for index in range(4):
        run.push(StandIn(is_corrupt=index == 1, key_frame=index in keyframes), float(index), 1.0)
    run.finish()
    sampler.flush()
    assert [row[0] for row in times] == kept
    assert run.num_corrupt == 4 - len(kept)


def test_timestamps_that_go_backward_are_counted_and_left_out() -> None:
    run = VideoPass(show=lambda _: None, default_duration=1.0, limits=Limits())
    for start in (0.0, 1.0, 0.5, 1.0, 2.0):
        run.push(StandIn(), start, 1.0)
    run.finish()
    assert (run.num_frames, run.num_misplaced, run.end) == (3, 2, 3.0)


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([(0, 0), (1, 1), (2, 2)], [0, 1, 2]),
        ([(1, 1), (2, 2), (4, 3), (3, 4), (5, 5)], [1, 2, 4, 4, 5]),  # an AVI with B-frames: pts go back, dts do not
        ([(0, None), (3, None), (6, None)], [0, 3, 6]),
        ([(None, 0), (None, 1), (None, None)], [0, 1, None]),
    ],
)
def test_the_more_regular_timestamps_are_believed(pairs: list[Any], wanted: list[Any]) -> None:
    timestamps = Timestamps()
    assert [timestamps.best(pts, dts) for pts, dts in pairs] == wanted


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), side=st.integers(32, 512))
def test_the_short_side_gets_the_size_and_the_other_its_share(width: int, height: int, side: int) -> None:
    new_width, new_height = scaled_size(width, height, side)
    assert min(new_width, new_height) == side
    long = max(width, height) * side / min(width, height)
    assert max(new_width, new_height) == int(long)
