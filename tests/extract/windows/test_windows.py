"""Windows in which every frame has a row of its own, seen with its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.extract.decode import DecodedFrames
from frameloom.extract.windows import WindowCutter, Windows
from hypothesis import given, settings
from hypothesis import strategies as st

PLAN = Windows(frame_rate_hz=25.0, num_frames=10, stride_frames=4, context_frames=3)


def frames_of(cells: list[int]) -> DecodedFrames:
    """Pictures that show the number of their cell."""
    numbers = np.array(cells)
    pictures = np.broadcast_to(numbers[:, None, None, None].astype(np.uint8), (len(cells), 2, 2, 3))
    return DecodedFrames(pictures, np.stack([numbers, numbers + 1], axis=1) / 25, numbers)


def shown(cells: list[int], wanted: int) -> int:
    """The frame that stands for a cell: the cell's own, or the last before it, or the first."""
    return max((cell for cell in cells if cell <= wanted), default=cells[0])


@settings(deadline=None)
@given(
    cells=st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted),
    split=st.integers(0, 60),
)
def test_every_frame_has_one_row_and_is_seen_with_its_neighbours(cells: list[int], split: int) -> None:
    cutter = WindowCutter(PLAN)
    parts = [cells[:split], cells[split:]]
    windows = [window for part in parts if part for window in cutter.push(frames_of(part))] + [*cutter.finish()]
    rows: list[int] = []
    first = cells[0]
    for number, window in enumerate(windows):
        start = first + number * PLAN.stride_frames - PLAN.context_frames
        expected = [shown(cells, start + place) for place in range(PLAN.num_frames)]
        assert [int(picture[0, 0, 0]) for picture in window.pictures] == expected
        times = np.asarray(window.times)
        assert times.shape == (PLAN.stride_frames, 2)
        kept = times[times[:, 0] < times[:, 1]]
        assert np.allclose(kept[:, 1] - kept[:, 0], 1 / 25)
        rows += [round(float(row[0]) * 25) for row in kept]
    assert rows == cells


def test_nothing_gives_nothing() -> None:
    assert [*WindowCutter(PLAN).finish()] == []


def test_the_numbers_of_a_plan_fit_together() -> None:
    with pytest.raises(ConfigError, match="num_frames = stride_frames"):
        Windows(frame_rate_hz=25.0, num_frames=10, stride_frames=5, context_frames=3)


def test_plans_without_context_are_written_as_before() -> None:
    assert "context_frames" not in Windows(frame_rate_hz=1.0).as_data()
    assert Windows.from_data(PLAN.as_data()) == PLAN
