"""Intervals: every draw against lists written out, groups that are drawn as one, and draws that two models share."""

from __future__ import annotations

import numpy as np
import pytest
from frameloom import InputError
from frameloom.train.evaluate import intervals, redrawn, retrieval_metrics
from numpy.typing import NDArray


def spread(ranks: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    low, high = intervals(redrawn(ranks, groups))["r1"]
    return high - low


def test_a_draw_has_the_figures_of_its_videos_written_out() -> None:
    rng = np.random.default_rng(3)
    ranks = rng.integers(0, 12, 40) * 0.5
    ranks[[4, 17]] = np.nan
    groups = np.sort(np.concatenate([np.arange(15), rng.integers(0, 15, 25)]))
    found = redrawn(ranks, groups, num_draws=50, seed=7)
    draws = np.random.default_rng(7)
    for draw in range(50):
        written_out = np.concatenate([ranks[groups == video] for video in draws.integers(15, size=15)])
        asked = written_out[~np.isnan(written_out)]
        assert found["r1"][draw] == pytest.approx(100 * (written_out == 0).sum() / len(written_out))
        assert found["r5"][draw] == pytest.approx(100 * (written_out < 5).sum() / len(written_out))
        assert found["r10"][draw] == pytest.approx(100 * (written_out < 10).sum() / len(written_out))
        assert found["medr"][draw] == np.median(asked) + 1


def test_the_interval_holds_the_figure_and_is_that_of_a_binomial() -> None:
    ranks = np.where(np.arange(200) < 60, 0.0, 7.0)
    found = intervals(redrawn(ranks, np.arange(200)))
    low, high = found["r1"]
    assert low < 30 < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.3 * 0.7 / 200), rel=0.15)
    assert found["r10"] == (100.0, 100.0)
    assert retrieval_metrics(np.eye(2)).medr == intervals(redrawn(np.zeros(2), np.arange(2)))["medr"][0]


def test_questions_of_one_video_do_not_count_as_many() -> None:
    ranks = np.repeat(np.where(np.arange(40) < 20, 0.0, 3.0), 5)
    assert spread(ranks, np.repeat(np.arange(40), 5)) > 1.8 * spread(ranks, np.arange(200))


def test_two_models_are_judged_on_the_same_draws() -> None:
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 30, 100).astype(np.float64)
    groups = np.arange(100)
    one, other = redrawn(hard, groups), redrawn(hard + 1, groups)
    assert (redrawn(hard, groups)["r5"] == one["r5"]).all()
    assert (other["medr"] - one["medr"] == 1).all()
    apart = intervals(redrawn(hard, groups, seed=1))["r5"]
    difference = np.percentile(one["r5"] - other["r5"], [2.5, 97.5])
    assert difference[1] - difference[0] < apart[1] - apart[0]


def test_a_question_that_could_not_be_asked_is_a_miss() -> None:
    found = intervals(redrawn(np.array([0.0, np.nan] * 30), np.repeat(np.arange(30), 2)))
    assert found["r1"] == found["r10"] == (50.0, 50.0)
    assert found["medr"] == (1.0, 1.0)


@pytest.mark.parametrize("ranks", [np.full(3, np.nan), np.zeros(2)])
def test_what_cannot_be_drawn_is_refused(ranks: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="ranks and"):
        redrawn(ranks, np.arange(3))
