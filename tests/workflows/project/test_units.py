"""How a video is cut into windows and shots."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray
from frameloom.workflows.project.units import cuts_of, shots_of, windows_of
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None)
@given(
    duration=st.floats(0.01, 2_000, allow_nan=False),
    length=st.floats(0.5, 60, allow_nan=False),
    share=st.floats(0.1, 1.0, allow_nan=False),
)
def test_windows_with_a_stride_leave_nothing_out(duration: float, length: float, share: float) -> None:
    stride = length * share
    spans = windows_of(duration, length=length, stride=stride)
    assert (spans[0][0], spans[-1][1]) == (0.0, duration)
    assert all(start == pytest.approx(number * stride) for number, (start, _) in enumerate(spans))
    assert all(one[1] >= two[0] - 1e-9 for one, two in pairwise(spans))
    assert all(end - start == pytest.approx(length) for start, end in spans[:-1])
    if len(spans) > 1:
        assert length / 2 - 1e-9 <= spans[-1][1] - spans[-1][0] <= 1.5 * length + 1e-9


def test_windows_with_a_stride_end_where_the_video_does() -> None:
    assert windows_of(20.0, length=10.0, stride=5.0) == [(0.0, 10.0), (5.0, 15.0), (10.0, 20.0)]
    assert windows_of(22.0, length=10.0, stride=5.0)[-1] == (15.0, 22.0)
    assert windows_of(7.0, length=10.0, stride=5.0) == [(0.0, 7.0)]


def changes(values: list[float]) -> FeatureArray:
    starts = np.arange(len(values)) / 25
    return FeatureArray(np.array(values, np.float16)[:, None], np.stack([starts, starts + 0.04], axis=1))


@pytest.mark.parametrize(
    ("values", "cuts"),
    [
        ([0.1, 0.9, 0.1, 0.1], [0.08]),
        ([0.1, 0.6, 0.9, 0.7, 0.1], [0.12]),  # a slow change is one, after its highest frame
        ([0.9, 0.1, 0.1, 0.8], [0.04, 0.16]),
        ([0.1, 0.5, 0.1], []),  # not above
        ([], []),
    ],
)
def test_a_run_of_high_frames_is_one_change(values: list[float], cuts: list[float]) -> None:
    assert cuts_of(changes(values), threshold=0.5) == pytest.approx(cuts)


def test_no_frame_lies_between_two_shots() -> None:
    assert shots_of(10.0, [3.0, 6.0], shortest=1.0, longest=None) == [(0.0, 3.0), (3.0, 6.0), (6.0, 10.0)]


def test_short_shots_belong_to_a_neighbour() -> None:
    assert shots_of(10.0, [0.4, 3.0, 3.3, 9.8], shortest=1.0, longest=None) == [(0.0, 3.0), (3.0, 10.0)]
    assert shots_of(0.5, [0.2], shortest=1.0, longest=None) == [(0.0, 0.5)]


def test_long_shots_are_cut_into_equal_parts() -> None:
    assert shots_of(70.0, [10.0], shortest=1.0, longest=30.0) == [(0.0, 10.0), (10.0, 40.0), (40.0, 70.0)]
    assert shots_of(90.0, [], shortest=1.0, longest=30.0) == [(0.0, 30.0), (30.0, 60.0), (60.0, 90.0)]


@settings(deadline=None)
@given(
    duration=st.floats(0.1, 1_000, allow_nan=False),
    shares=st.lists(st.floats(0, 1, allow_nan=False), max_size=20),
    longest=st.one_of(st.none(), st.floats(1, 100)),
)
def test_shots_cover_the_video_once(duration: float, shares: list[float], longest: float | None) -> None:
    spans = shots_of(duration, sorted(share * duration for share in shares), shortest=0.5, longest=longest)
    assert (spans[0][0], spans[-1][1]) == (0.0, duration)
    assert all(one[1] == two[0] for one, two in pairwise(spans))
    assert all(start < end for start, end in spans)
    if longest is not None:
        assert max(end - start for start, end in spans) <= longest * (1 + 1e-6)
