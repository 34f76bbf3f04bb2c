"""Which frames stand for a video: windows on a grid, segments of a span, and the published rules by frame index."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, InputError
from frameloom.extract import DecodedFrames
from frameloom.extract.windows.sampling import End, Segments, Windows
from frameloom.extract.windows.windows import Window, WindowCutter
from frameloom.train.data.frame_indices import Draws, clover_indices, frozen_in_time_indices, vindlu_indices
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

PLANS = st.builds(
    Windows,
    frame_rate_hz=st.just(4.0),
    num_frames=st.integers(1, 6),
    stride_frames=st.integers(1, 8),
    end=st.sampled_from(["drop", "zeros", "repeat"]),
)
# Runs of cells with a few holes: among cells drawn one by one, hardly any window would be whole.
CELLS = st.builds(
    lambda first, count, holes: [cell for cell in range(first, first + count) if cell - first not in holes],
    first=st.integers(0, 9),
    count=st.integers(0, 30),
    holes=st.sets(st.integers(0, 30), max_size=3),
)


def frames_of(cells: Sequence[int], *, size: int = 1) -> DecodedFrames:
    """Pictures that say which cell they are (1 for cell 0), each on display for its cell."""
    index = np.array(cells, np.int64)
    pictures = np.broadcast_to((index + 1).astype(np.uint8)[:, None, None, None], (len(index), size, size, 3))
    return DecodedFrames(pictures, np.stack([index / 4, (index + 1) / 4], axis=1), index)


def cut(plan: Windows, chunks: Sequence[DecodedFrames]) -> list[Window]:
    cutter = WindowCutter(plan)
    return [window for chunk in chunks for window in cutter.push(chunk)] + list(cutter.finish())


def shown(window: Window) -> list[int]:
    """The cells of a window; -1 where it is black."""
    return [int(picture.flat[0]) - 1 for picture in window.pictures]


def expected(plan: Windows, cells: Sequence[int]) -> list[list[int]]:
    """The rule of `Windows`, written down over the set of all cells at once."""
    if not cells:
        return []
    base, newest, present = cells[0], cells[-1], set(cells)
    firsts = range(base, newest + 1, plan.stride_frames)
    spans = [range(first, first + plan.num_frames) for first in firsts]
    full = [list(span) for span in spans if span[-1] <= newest and present.issuperset(span)]
    open_spans = [span for span in spans if span[-1] > newest]
    if not open_spans or (plan.end == "drop" and full):
        return full
    left = [cell for cell in cells if cell >= open_spans[0].start]
    if left != list(range(open_spans[0].start, newest + 1)):
        return full
    filler = -1 if plan.end == "zeros" else left[-1]
    return [*full, left + [filler] * (plan.num_frames - len(left))]


class TestWindows:
    @given(plan=PLANS, cells=CELLS)
    def test_every_window_is_made_of_consecutive_cells(self, plan: Windows, cells: list[int]) -> None:
        windows = cut(plan, [frames_of(cells)])
        assert [shown(window) for window in windows] == expected(plan, cells)
        for window in windows:
            real = [cell for cell in shown(window) if cell >= 0]
            assert window.times == (real[0] / 4, (real[-1] + 1) / 4)
            assert len(window.pictures) == plan.num_frames

    @given(plan=PLANS, cells=CELLS, borders=st.sets(st.integers(0, 30)))
    def test_chunk_borders_do_not_matter(self, plan: Windows, cells: list[int], borders: set[int]) -> None:
        edges = [0, *sorted(border for border in borders if border < len(cells)), len(cells)]
        chunks = [frames_of(cells[a:b]) for a, b in itertools.pairwise(edges) if a < b]
        together = cut(plan, [frames_of(cells)])
        apart = cut(plan, chunks)
        assert [shown(window) for window in apart] == [shown(window) for window in together]
        assert [window.times for window in apart] == [window.times for window in together]

    @given(plan=PLANS, cells=CELLS, where=st.integers(0, 30))
    def test_a_window_of_two_sizes_is_left_out(self, plan: Windows, cells: list[int], where: int) -> None:
        chunks = [frames_of(cells[:where]), frames_of(cells[where:], size=2)]
        whole = [shown(window) for window in cut(plan, [frames_of(cells)])]
        found = [shown(window) for window in cut(plan, chunks)]
        change = cells[where] if where < len(cells) else 99
        one_size = [
            cells for cells in whole if max(cells) < change or min(cell for cell in cells if cell >= 0) >= change
        ]
        late = found[len(one_size) :]
        assert found[: len(one_size)] == one_size
        assert len(late) <= (plan.end == "drop")  # which fills an only window

    @pytest.mark.parametrize(
        ("end", "rows"),
        [
            ("drop", [[0, 1, 2, 3]]),
            ("zeros", [[0, 1, 2, 3], [4, 5, -1, -1]]),
            ("repeat", [[0, 1, 2, 3], [4, 5, 5, 5]]),
        ],
    )
    def test_each_policy_at_the_end(self, end: End, rows: list[list[int]]) -> None:
        plan = Windows(frame_rate_hz=4, num_frames=4, stride_frames=4, end=end)
        assert [shown(window) for window in cut(plan, [frames_of(range(6))])] == rows

    @pytest.mark.parametrize(("end", "row"), [("drop", [0, 1, 1]), ("zeros", [0, 1, -1]), ("repeat", [0, 1, 1])])
    def test_an_only_window_is_never_dropped(self, end: End, row: list[int]) -> None:
        plan = Windows(frame_rate_hz=4, num_frames=3, end=end)
        (window,) = cut(plan, [frames_of([0, 1])])
        assert (shown(window), window.times) == (row, (0.0, 0.5))

    def test_a_gap_leaves_out_the_windows_over_it_and_no_other(self) -> None:
        plan = Windows(frame_rate_hz=4, num_frames=2)
        windows = cut(plan, [frames_of([3, 4, 6, 7, 8])])
        assert [shown(window) for window in windows] == [[3, 4], [6, 7], [7, 8]]

    def test_what_lies_between_windows_is_not_held(self) -> None:
        plan = Windows(frame_rate_hz=8, num_frames=2, stride_frames=500)
        cutter = WindowCutter(plan)
        frames = frames_of(range(1200))
        found = list(cutter.push(frames))
        assert len(found) == 3
        assert len(cutter._held) <= plan.num_frames
        assert all(picture.base is None for window in found for picture in window.pictures)

    @given(plan=PLANS)
    def test_a_plan_survives_being_data(self, plan: Windows) -> None:
        assert Windows.from_data({**plan.as_data(), "rows_per_window": 3}) == plan
        assert plan.rate_hz == 4.0 / plan.stride_frames

    @pytest.mark.parametrize(
        "how", [{"frame_rate_hz": 0}, {"frame_rate_hz": 2, "num_frames": 0}, {"frame_rate_hz": 2, "end": "wrap"}]
    )
    def test_impossible_plans_are_refused(self, how: dict) -> None:
        with pytest.raises(ConfigError):
            Windows(**how)


class TestSegments:
    @given(
        num_segments=st.integers(1, 50),
        start=st.floats(0, 1e5),
        length=st.floats(1e-9, 1e5),
        seed=st.none() | st.integers(0, 99),
    )
    def test_instants_ascend_within_the_span(
        self, num_segments: int, start: float, length: float, seed: int | None
    ) -> None:
        end = start + length
        assume(end > start)
        segments = Segments(num_segments=num_segments, at="middle" if seed is None else "random")
        instants = segments.instants(start, end, generator=None if seed is None else np.random.default_rng(seed))
        assert len(instants) == num_segments
        assert (np.diff(instants) >= 0).all()
        assert start <= instants[0]
        assert instants[-1] < end

    @given(num_segments=st.integers(1, 20), seed=st.integers(0, 99))
    def test_each_segment_gives_one(self, num_segments: int, seed: int) -> None:
        middles = Segments(num_segments=num_segments).instants(10.0, 10.0 + num_segments)
        np.testing.assert_allclose(middles, 10.5 + np.arange(num_segments))
        drawn = Segments(num_segments=num_segments, at="random")
        instants = drawn.instants(10.0, 10.0 + num_segments, generator=np.random.default_rng(seed))
        np.testing.assert_array_equal(np.floor(instants), 10 + np.arange(num_segments))
        assert not np.allclose(instants, middles)

    def test_rounding_does_not_reach_the_end(self) -> None:
        start = np.nextafter(1.0, 2.0)  # an odd last bit: half way to the next number rounds up to it
        end = np.nextafter(start, 2.0)
        assert start + 0.5 * (end - start) == end
        assert Segments(num_segments=1).instants(start, end).tolist() == [start]

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="empty"):
            Segments(num_segments=2).instants(3.0, 3.0)
        with pytest.raises(ConfigError, match="generator"):
            Segments(num_segments=2, at="random").instants(0.0, 1.0)
        with pytest.raises(ConfigError, match="count"):
            Segments(num_segments=0)


LENGTHS, COUNTS = st.integers(1, 400), st.integers(1, 40)
SEEDS = st.none() | st.integers(0, 20)


def how_of(seed: int | None) -> dict:
    return {} if seed is None else {"at": "random", "draws": Draws(seed)}


class TestFrameIndices:
    @given(length=LENGTHS, num_frames=COUNTS, seed=SEEDS)
    def test_frozen_in_time_takes_one_frame_of_each_segment(
        self, length: int, num_frames: int, seed: int | None
    ) -> None:
        indices = frozen_in_time_indices(length, num_frames=num_frames, **how_of(seed))
        assert_inside(indices, length=length, count=min(num_frames, length))
        assert (np.diff(indices) > 0).all()
        edges = np.linspace(0, length, len(indices) + 1).astype(int)
        assert ((edges[:-1] <= indices) & (indices < edges[1:])).all()

    @given(length=LENGTHS, num_frames=COUNTS, seed=SEEDS)
    def test_vindlu_gives_as_many_as_asked(self, length: int, num_frames: int, seed: int | None) -> None:
        indices = vindlu_indices(length, num_frames=num_frames, **how_of(seed))
        assert_inside(indices, length=length, count=num_frames)
        assert (np.diff(indices) >= 0).all()
        assert len(np.unique(indices)) == min(num_frames, length)

    @given(length=LENGTHS, num_clips=COUNTS, clip_frames=st.integers(1, 8), interval=st.integers(1, 5), seed=SEEDS)
    def test_clover_s_clips_are_evenly_spaced_frames(
        self, length: int, num_clips: int, clip_frames: int, interval: int, seed: int | None
    ) -> None:
        indices = clover_indices(
            length, num_clips=num_clips, clip_frames=clip_frames, frame_interval=interval, **how_of(seed)
        )
        assert_inside(indices, length=length, count=num_clips * clip_frames)
        clips = indices.reshape(num_clips, clip_frames)
        assert ((np.diff(clips, axis=1) - interval) % length == 0).all()
        room = length - clip_frames * interval + 1
        if room > 1 and (seed is None or length > num_clips):  # long enough that no index begins again at 0
            assert (np.diff(clips[:, 0]) >= 0).all()
            assert (np.diff(clips, axis=1) == interval).all()

    def test_clover_s_rounded_starts_may_begin_again(self) -> None:
        """0, 0.5, 1 and 1.5, rounded to even: the last one is the video's length."""
        indices = clover_indices(2, num_clips=4, at="random", draws=Draws(0))
        assert indices.tolist() == [0, 0, 1, 0]

    def test_the_seed_decides(self) -> None:
        first, again, other = (
            frozen_in_time_indices(100, num_frames=8, at="random", draws=Draws(seed)) for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("rule", [frozen_in_time_indices, vindlu_indices])
    def test_what_cannot_be_is_refused(self, rule) -> None:
        with pytest.raises(InputError, match="draws"):
            rule(10, num_frames=2, at="random")
        with pytest.raises(InputError, match="middle or random"):
            rule(10, num_frames=2, at="start")
        for length, num_frames in ((0, 2), (10, 0)):
            with pytest.raises(InputError, match="at least one"):
                rule(length, num_frames=num_frames)
        with pytest.raises(InputError, match="at least one"):
            clover_indices(10, num_clips=2, frame_interval=0)


def assert_inside(indices: NDArray, *, length: int, count: int) -> None:
    assert indices.dtype == np.int64
    assert len(indices) == count
    assert indices.min() >= 0
    assert indices.max() < length
