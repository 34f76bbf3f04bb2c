"""Retrieval metrics against a count by hand, and the errors."""

from __future__ import annotations

import numpy as np
import pytest
from frameloom import InputError
from frameloom.train.evaluate import retrieval_metrics, retrieval_ranks
from hypothesis import given
from hypothesis import strategies as st


@given(
    scores=st.integers(1, 6).flatmap(
        lambda q: st.integers(q, 8).flatmap(
            lambda g: st.lists(st.lists(st.integers(0, 3), min_size=g, max_size=g), min_size=q, max_size=q)
        )
    ),
    data=st.data(),
)
def test_ranks_are_places_in_the_sorted_row(scores, data) -> None:
    similarity = np.array(scores, np.float32)
    targets = np.array([data.draw(st.integers(0, similarity.shape[1] - 1)) for _ in scores])
    for i, (row, target) in enumerate(zip(similarity, targets, strict=True)):
        places = [place for place, score in enumerate(sorted(row, reverse=True)) if score == row[target]]
        assert retrieval_ranks(similarity, targets=targets)[i] == np.mean(places)
        assert retrieval_ranks(similarity, targets=targets, ties="optimistic")[i] == places[0]


def test_a_perfect_retrieval() -> None:
    metrics = retrieval_metrics(np.eye(20))
    assert (metrics.r1, metrics.r5, metrics.r10, metrics.medr, metrics.meanr) == (100, 100, 100, 1, 1)
    assert metrics.geometric_mean == pytest.approx(100)
    assert metrics.as_dict()["num_queries"] == 20


def test_a_constant_similarity_finds_nothing_at_1() -> None:
    assert retrieval_metrics(np.ones((9, 9))).r1 == 0.0
    assert retrieval_metrics(np.ones((9, 9))).medr == 5.0
    assert retrieval_metrics(np.ones((9, 9)), ties="optimistic").r1 == 100.0


def test_every_place_of_a_tie_counts_where_asked() -> None:
    """As the code of HowTo100M counts: one query tied over three places weighs three times as much as the other two."""
    similarity = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])
    assert retrieval_ranks(similarity, ties="every_place").tolist() == [0, 1, 2, 0, 2]
    found = retrieval_metrics(similarity, ties="every_place")
    assert (found.r1, found.num_queries, found.medr) == (40.0, 5, 2.0)


def test_queries_that_could_not_be_run_count_as_misses() -> None:
    metrics = retrieval_metrics(np.eye(8), num_queries=10)
    assert metrics.r1 == pytest.approx(80.0)
    assert metrics.medr == 1.0


def test_more_items_than_queries() -> None:
    similarity = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.8]])
    assert retrieval_ranks(similarity, targets=np.array([1, 0])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("similarity", "options", "message"),
    [
        (np.zeros((0, 3)), {}, "at least one query"),
        (np.zeros(3), {}, "at least one query"),
        (np.array([[np.nan]]), {}, "finite"),
        (np.eye(3), {"num_queries": 2}, "fewer than the 3"),
        (np.eye(3), {"targets": np.array([0, 1, 3])}, "below 3"),
        (np.eye(3), {"targets": np.array([0, 1, -1])}, "below 3"),
        (np.eye(3), {"targets": np.array([0, 1])}, "that many targets"),
        (np.ones((3, 2)), {}, "below 2"),
    ],
)
def test_what_cannot_be_judged_is_explained(similarity, options, message) -> None:
    with pytest.raises(InputError, match=message):
        retrieval_metrics(similarity, **options)
