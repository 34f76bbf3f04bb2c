"""Long clips in equal parts, and training clips grown from a narration."""

from __future__ import annotations

import numpy as np
import pytest
from frameloom._vocabulary import InputError
from frameloom.train.data.narration import NarratedClip, audio_frames_of, grown_clip, random_clip
from frameloom.train.evaluate.long_videos import equal_parts, frames_of_parts
from hypothesis import given
from hypothesis import strategies as st


@given(num_parts=st.integers(1, 6), rows=st.integers(0, 5), width=st.none() | st.integers(1, 3))
def test_parts_joined_are_the_rows(num_parts: int, rows: int, width: int | None) -> None:
    shape = (num_parts * rows,) if width is None else (num_parts * rows, width)
    given_rows = np.random.default_rng(0).standard_normal(shape)
    parts = equal_parts(given_rows, num_parts=num_parts)
    assert parts.shape[:2] == (num_parts, rows)
    np.testing.assert_array_equal(np.concatenate(list(parts)), given_rows)


@pytest.mark.parametrize("num_parts", [0, 3])
def test_parts_that_would_not_be_equal_are_refused(num_parts: int) -> None:
    with pytest.raises(InputError, match=f"8 rows cannot be cut into {num_parts}"):
        equal_parts(np.zeros((8, 2)), num_parts=num_parts)


@pytest.mark.parametrize(
    ("num_frames", "frames", "counts"),
    [
        (30, [10, 10, 10], [True, True, True]),
        (28, [10, 10, 8], [True, True, True]),
        (27, [10, 10, 10], [True, True, False]),  # 7 of 10 are not more than 70 %
        (3, [3, 10, 10], [True, False, False]),  # the first one always counts
    ],
)
def test_a_part_counts_when_most_of_it_is_real(num_frames: int, frames: list[int], counts: list[bool]) -> None:
    found = frames_of_parts(num_frames, num_parts=3, frames_per_part=10)
    assert [each.tolist() for each in found] == [frames, counts]


@st.composite
def narrations(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    gaps = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=8))
    starts, ends, now = [], [], 0
    for pause, length in gaps:
        starts.append(float(now + pause))
        now += pause + length
        ends.append(float(now))
    return starts, ends


@given(narration=narrations(), min_seconds=st.integers(1, 20), data=st.data())
def test_a_clip_is_whole_sentences_that_follow_one_another(
    narration: tuple[list[float], list[float]], min_seconds: int, data: st.DataObject
) -> None:
    starts, ends = narration
    index = data.draw(st.integers(0, len(starts) - 1))
    clip = grown_clip(starts, ends, index=index, min_seconds=min_seconds)
    first, last = min(clip.sentences), max(clip.sentences)
    assert sorted(clip.sentences) == list(range(first, last + 1))
    assert clip.sentences[0] == index
    assert (clip.start_seconds, clip.end_seconds) == (starts[first], ends[last])
    is_long = clip.end_seconds - clip.start_seconds >= min_seconds
    assert is_long or len(clip.sentences) == len(starts)
    if len(clip.sentences) > 1:  # without the last one added it was too short
        before = clip.sentences[:-1]
        assert ends[max(before)] - starts[min(before)] < min_seconds


def test_the_neighbour_of_the_shorter_span_is_added_the_earlier_one_on_a_tie() -> None:
    starts, ends = [0.0, 4.0, 6.0], [3.0, 5.0, 9.0]
    assert grown_clip(starts, ends, index=1, min_seconds=5).sentences == (1, 0)
    assert grown_clip([0.0, 4.0, 5.0], [3.0, 5.0, 7.0], index=1, min_seconds=3).sentences == (1, 2)


@given(narration=narrations(), draw=st.floats(0, 1, exclude_max=True), num_frames=st.integers(1, 9000))
def test_a_random_clip_holds_its_instant_or_no_words(
    narration: tuple[list[float], list[float]], draw: float, num_frames: int
) -> None:
    clip = random_clip(*narration, num_frames=num_frames, min_seconds=8.0, draw=draw)
    start = draw * max(0.0, int((num_frames * 160 + 200) / 16_000) - 8.0)
    if clip.sentences:
        assert clip.start_seconds <= start + 8.0
        assert clip.end_seconds >= start
    else:
        assert (clip.start_seconds, clip.end_seconds) == (start, start + 8.0)


def test_a_video_without_narration_gives_clips_without_words() -> None:
    assert random_clip([], [], num_frames=4001, min_seconds=8.0, draw=0.5) == NarratedClip(16.0, 24.0, ())


def test_the_sound_is_cut_where_the_flag_says() -> None:
    clip, how = NarratedClip(10.0, 20.0, (3,)), {"min_seconds": 8.0, "max_frames": 768}
    assert audio_frames_of(clip, shift="none", **how) == slice(998, 998 + 768)
    assert audio_frames_of(clip, **how) == audio_frames_of(clip, shift="later", **how) == slice(1398, 1398 + 768)
    drawn = [audio_frames_of(clip, shift="random", generator=np.random.default_rng(s), **how).start for s in range(20)]
    assert set(drawn) == {598, 1398}
    early = NarratedClip(1.0, 9.0, (0,))
    starts = [audio_frames_of(early, shift="random", generator=np.random.default_rng(s), **how).start for s in range(9)]
    assert set(starts) == {0, 498}
    with pytest.raises(InputError, match="generator"):
        audio_frames_of(clip, shift="random", **how)
    assert audio_frames_of(NarratedClip(10.0, 18.0, ()), **how) == slice(998, 998 + 768)  # no words, no shift
