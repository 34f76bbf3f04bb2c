"""Step localisation: the labelling against all labellings, the recalls against counts by hand, the windows, a model."""

from __future__ import annotations

import sys
from itertools import combinations, combinations_with_replacement
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.fuse import create_model
from frameloom.train.data.tokens import unit_rows
from frameloom.train.evaluate import Localised, Localiser, StepVideo, label_steps, localisation_recall, predict_steps
from frameloom.train.evaluate.localisation import step_windows, window_audio
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, float]:
    num_steps = draw(st.integers(1, 3))
    num_seconds = draw(st.integers(num_steps, num_steps + 3))
    cost = st.integers(-3, 3)
    costs = draw(st.lists(cost, min_size=num_seconds * num_steps, max_size=num_seconds * num_steps))
    return np.array(costs, np.float32).reshape(num_seconds, num_steps), float(draw(st.integers(-1, 1)))


def all_labellings(num_seconds: int, num_steps: int, *, how: str) -> list[np.ndarray]:
    """Every way to give each step, in order, one second or a run of them."""
    found = []
    if how == "one":
        for seconds in combinations(range(num_seconds), num_steps):
            labels = np.zeros((num_seconds, num_steps), bool)
            labels[list(seconds), range(num_steps)] = True
            found.append(labels)
        return found
    for bounds in combinations_with_replacement(range(num_seconds + 1), 2 * num_steps):
        if all(a < b for a, b in zip(bounds[::2], bounds[1::2], strict=True)):
            labels = np.zeros((num_seconds, num_steps), bool)
            for step in range(num_steps):
                labels[bounds[2 * step] : bounds[2 * step + 1], step] = True
            found.append(labels)
    return found


def cost_of(labels: np.ndarray, costs: np.ndarray, background: float) -> float:
    return float(costs[labels].sum() + background * (~labels.any(axis=1)).sum())


@pytest.mark.parametrize("how", ["one", "many"])
@given(problem=problems())
def test_no_labelling_is_cheaper(how: str, problem: tuple[np.ndarray, float]) -> None:
    costs, background = problem
    labellings = all_labellings(*costs.shape, how=how)
    found = label_steps(costs, seconds_per_step=how, background_cost=background)
    assert any((found == each).all() for each in labellings)
    assert cost_of(found, costs, background) == min(cost_of(each, costs, background) for each in labellings)


def test_with_as_many_seconds_as_steps_there_is_one_labelling() -> None:
    for seed in range(20):
        costs = np.random.default_rng(seed).random((4, 4)).astype(np.float32)
        assert label_steps(costs).tolist() == np.eye(4, dtype=bool).tolist()
        assert label_steps(costs, seconds_per_step="many", background_cost=-9.0).tolist() == np.eye(4).tolist()


def test_of_equal_labellings_the_published_one_is_taken() -> None:
    # All free: background last is not strictly cheaper, so that the step ends the video; in front, background stays.
    assert label_steps(np.zeros((4, 1), np.float32))[:, 0].tolist() == [False, False, False, True]
    assert label_steps(np.zeros((3, 1), np.float32), seconds_per_step="many")[:, 0].tolist() == [True, True, True]


def test_a_second_takes_as_few_lines_of_python_for_twelve_steps_as_for_one() -> None:
    def lines_run(num_steps: int) -> int:
        events: list[str] = []

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            events.append(event)
            return trace

        costs = np.random.default_rng(0).standard_normal((600, num_steps)).astype(np.float32)
        traced_before = sys.gettrace()
        sys.settrace(trace)
        try:
            label_steps(costs)
        finally:
            sys.settrace(traced_before)
        return events.count("line")

    # Every step of the answer is written by one line.
    assert lines_run(12) - lines_run(1) <= 12
    assert lines_run(12) < 600 * 30


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (np.zeros((2, 3)), "a second for every step"),
        (np.zeros((2, 0)), "a second for every step"),
        (np.array([[np.nan], [0.0]]), "finite"),
    ],
)
def test_what_cannot_be_labelled_is_explained(costs: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_steps(costs)
    with pytest.raises(InputError, match=message):
        predict_steps(costs, normalise="log_softmax")


def test_words_that_are_not_known_are_refused() -> None:
    with pytest.raises(InputError, match="allowed are one, many"):
        label_steps(np.zeros((2, 1)), seconds_per_step="two")
    with pytest.raises(InputError, match="allowed are none, log_softmax"):
        predict_steps(np.zeros((2, 1)), normalise="softmax")
    with pytest.raises(InputError, match="allowed are crosstask, "):
        localisation_recall([], protocol="coin")


def test_the_log_softmax_judges_a_second_by_what_its_steps_share() -> None:
    scores = np.array([[0.9, 0.9], [0.6, 0.0], [0.0, 0.0], [0.0, 0.5]], np.float32)
    assert predict_steps(scores).argmax(axis=0).tolist() == [0, 3]
    assert predict_steps(scores, normalise="log_softmax").argmax(axis=0).tolist() == [1, 3]


def localised(task: str, truth: list[list[int]], predicted: list[int]) -> Localised:
    """One video whose step k was predicted at second predicted[k]."""
    labels = np.zeros(np.array(truth).shape, bool)
    labels[predicted, range(labels.shape[1])] = True
    return Localised(video="v", task=task, truth=np.array(truth), predicted=labels)


class TestRecall:
    VIDEOS = (
        localised("a", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1, 2]),  # 3 of 3
        localised("a", [[1, 0, 0], [0, 0, 0], [0, 0, 0]], [1, 1, 2]),  # 0 of 1
        localised("b", [[1, 0, 0], [0, 1, 0], [0, 1, 0]], [0, 0, 0]),  # 1 of 2
    )

    @pytest.mark.parametrize(
        ("protocol", "by_task", "recall"),
        [
            ("crosstask", {"a": 75.0, "b": 50.0}, 62.5),
            ("crosstask_per_video", {"a": 50.0, "b": 50.0}, 50.0),
            ("miningyoutube", {"": 50.0}, 50.0),
        ],
    )
    def test_each_protocol_counts_in_its_own_way(self, protocol: str, by_task: dict, recall: float) -> None:
        found = localisation_recall(self.VIDEOS, protocol=protocol)
        assert (dict(found.by_task), found.recall, found.num_videos) == (by_task, recall, 3)

    def test_a_step_that_is_not_shown_counts_nowhere(self) -> None:
        shown = localised("a", [[1, 0], [0, 0]], [0, 1])
        assert localisation_recall([shown], protocol="crosstask").recall == 100.0

    def test_what_has_no_recall_is_named(self) -> None:
        empty = localised("a", [[0, 0], [0, 0]], [0, 1])
        for protocol in ("crosstask_per_video", "miningyoutube"):
            with pytest.raises(InputError, match="v shows no step"):
                localisation_recall([empty], protocol=protocol)
        assert localisation_recall([empty, *self.VIDEOS], protocol="crosstask").by_task["a"] == 75.0
        with pytest.raises(InputError, match="no video of the task 'a'"):
            localisation_recall([empty], protocol="crosstask")
        with pytest.raises(InputError, match="no video to count"):
            localisation_recall([], protocol="crosstask")
        odd = Localised(video="v", task="a", truth=np.zeros((2, 2)), predicted=np.zeros((3, 2)))
        with pytest.raises(InputError, match=r"v: annotation \(2, 2\) and prediction \(3, 2\)"):
            localisation_recall([odd], protocol="crosstask")


class TestWindows:
    def test_every_second_has_one_that_ends_with_the_video(self) -> None:
        spans = [(window.start_seconds, window.end_seconds) for window in step_windows(4)]
        assert spans == [(0, 2), (0, 3), (1, 4), (2, 4)]
        assert [w.end_seconds - w.start_seconds for w in step_windows(3, radius=0)] == [1, 1, 1]
        assert step_windows(0) == []
        with pytest.raises(InputError, match="none may be negative"):
            step_windows(3, radius=-1)

    @given(num_seconds=st.integers(1, 12), radius=st.integers(0, 2), context=st.integers(0, 3))
    def test_context_is_heard_and_not_counted(self, num_seconds: int, radius: int, context: int) -> None:
        windows = step_windows(num_seconds, radius=radius, context_seconds=context)
        audio = np.arange(num_seconds * 100 + 1, dtype=np.float32)[:, None] + 1
        values, mask = window_audio(audio, windows, max_frames=10_000)
        for second, (window, row, own) in enumerate(zip(windows, values, mask, strict=True)):
            inner = (row[own, 0] - 1) / 100
            assert inner.min() >= window.start_seconds - 0.045  # half a frame window is taken off twice
            assert inner.max() <= window.end_seconds
            assert own.sum() >= 100 * (window.end_seconds - window.start_seconds) - 2
            heard = row[row[:, 0] > 0, 0] / 100
            assert heard.min() <= max(0, second - radius - context) + 0.011
            assert heard.max() >= min(num_seconds, second + radius + 1 + context) - 0.03

    def test_sound_that_ends_early_is_masked(self) -> None:
        values, mask = window_audio(np.ones((150, 4)), step_windows(5), max_frames=768)
        assert mask.sum(axis=1).tolist() == [150, 150, 52, 0, 0]
        assert not values[3:].any()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("test_everything_at_once").eval()


def step_video(*, num_seconds: int = 6, audio: bool = True, rows: int | None = None) -> StepVideo:
    rng = np.random.default_rng(1)
    truth = np.zeros((num_seconds, 2), bool)
    truth[1, 0] = truth[4, 1] = True
    return StepVideo(
        video="v",
        task="cook",
        streams=[
            (rng.standard_normal((num_seconds if rows is None else rows, 16)), 1.0),
            (rng.standard_normal((num_seconds * 3 // 2 if rows is None else rows, 8)), 1.5),
        ],
        audio=rng.standard_normal((num_seconds * 100, 40)).astype(np.float32) if audio else None,
        steps=[rng.standard_normal((2, 12)), rng.standard_normal((3, 12))],
        truth=truth,
    )


class TestLocaliser:
    def test_scores_are_the_cosines_of_windows_and_steps_whatever_the_batch(self, model) -> None:
        video = step_video()
        together = Localiser().scores(model, video)
        assert together.shape == (6, 2)
        assert np.abs(together).max() <= 1 + 1e-6
        np.testing.assert_allclose(Localiser(batch_size=1).scores(model, video), together, atol=1e-5)

    def test_a_window_sees_its_own_rows_alone(self, model) -> None:
        video = step_video()
        before = Localiser().scores(model, video)
        video.streams[0][0][5] += 9.0
        video.streams[1][0][8] += 9.0
        changed = np.abs(Localiser().scores(model, video) - before).max(axis=1) > 1e-6
        assert changed.tolist() == [False, False, False, False, True, True]

    @pytest.mark.parametrize(("padding", "heard"), [("published", True), ("silenced", False)])
    def test_context_is_heard_where_padding_is_not_silenced(self, padding: str, heard: bool) -> None:
        model = create_model("test_everything_at_once", audio_padding=padding).eval()
        video, localiser = step_video(), Localiser(radius=0, context_seconds=1, combination="audio")
        before = localiser.scores(model, video)[2]
        video.audio[300:330] += 5.0  # the second after the third
        assert (np.abs(localiser.scores(model, video)[2] - before).max() > 1e-5) == heard

    def test_rows_are_cut_as_published_and_each_stream_normalised(self) -> None:
        video = step_video()
        batch = Localiser().batch(video, step_windows(6))
        assert batch["video"].mask.sum(dim=1).tolist() == [3, 5, 5, 5, 5, 3]
        rows = video.streams[1][0][3:8]  # seconds 2 to 5: floor(1.5 * 2) to ceil(1.5 * 5)
        np.testing.assert_allclose(batch["video"].values[3, :5, 16:].numpy(), unit_rows(rows), rtol=1e-6)

    def test_videos_are_localised(self, model) -> None:
        recall, results = Localiser().localise(model, [step_video(), step_video()], protocol="miningyoutube")
        assert recall.num_videos == 2
        assert recall.recall in (0.0, 50.0, 100.0)
        assert all((each.predicted.sum(axis=0) == 1).all() for each in results)

    def test_a_video_whose_rows_end_early_is_scored_with_stand_ins(self, model) -> None:
        scores = Localiser(batch_size=2).scores(model, step_video(rows=2))
        assert np.isfinite(scores).all()

    def test_what_does_not_fit_is_explained(self, model) -> None:
        with pytest.raises(InputError, match=r"v has no video\+audio: it has video"):
            Localiser().scores(model, step_video(audio=False))
        assert Localiser(combination="video").scores(model, step_video(audio=False)).shape == (6, 2)
        video = step_video()
        with pytest.raises(InputError, match=r"shape \(6, 2\) and there are 1 steps"):
            Localiser().scores(model, StepVideo(**{**vars_of(video), "steps": video.steps[:1]}))
        with pytest.raises(InputError, match="v: costs have shape"):
            Localiser().localise(model, [StepVideo(**{**vars_of(video), "truth": video.truth[:1]})])
        with pytest.raises(InputError, match="no step has a known word"):
            Localiser().scores(model, StepVideo(**{**vars_of(video), "steps": [np.zeros((0, 12))] * 2}))
        with pytest.raises(InputError, match="allowed are crosstask"):
            Localiser().localise(model, [video], protocol="youcook")


def vars_of(video: StepVideo) -> dict:
    return {name: getattr(video, name) for name in StepVideo.__slots__}
