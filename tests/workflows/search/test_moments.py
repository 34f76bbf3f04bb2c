"""Hits of one video that lie together are one moment, by a rule with a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from frameloom.workflows.index import Index
from frameloom.workflows.search.moments import first_moments, moments_of
from helpers.projects import run_sync, write_config


def hit(start: float, end: float, score: float, video: str = "a") -> dict[str, Any]:
    return {"video": video, "start_seconds": start, "end_seconds": end, "score": score, "clip": f"{video}{start:g}"}


def spans(found: Sequence[dict[str, Any]]) -> list[tuple[str, float, float, float, int]]:
    return [(one["clip"], one["start_seconds"], one["end_seconds"], one["score"], one["merged"]) for one in found]


def merged(*hits: dict[str, Any], **rule: float) -> list[tuple[str, float, float, float, int]]:
    return spans(moments_of(sorted(hits, key=lambda one: -one["score"]), **rule))


def test_neighbours_that_score_alike_widen_the_best() -> None:
    found = merged(hit(8, 12, 0.5), hit(4, 8, 0.46), hit(12, 16, 0.351), hit(16, 20, 0.349))
    assert found == [("a8", 4, 16, 0.5, 3), ("a16", 16, 20, 0.349, 1)]


def test_a_gap_is_bridged_and_a_longer_one_is_not() -> None:
    assert merged(hit(0, 4, 0.5), hit(8, 12, 0.5)) == [("a0", 0, 12, 0.5, 2)]
    assert len(merged(hit(0, 4, 0.5), hit(8.1, 12, 0.5))) == 2
    assert len(merged(hit(0, 4, 0.5), hit(8, 12, 0.5), gap_seconds=0.0)) == 2


def test_the_union_grows_from_hit_to_hit() -> None:
    chain = [hit(4.0 * number, 4.0 * number + 4, 0.5 - 0.001 * number) for number in range(6)]
    assert merged(*chain) == [("a0", 0, 24, 0.5, 6)]


def test_what_lies_in_a_moment_by_half_belongs_to_it() -> None:
    found = merged(hit(0, 10, 0.5), hit(5, 15, 0.3), hit(6, 16, 0.2))
    assert found == [("a0", 0, 10, 0.5, 2), ("a6", 6, 16, 0.2, 1)]


def test_other_videos_are_other_moments() -> None:
    assert len(merged(hit(0, 4, 0.5), hit(4, 8, 0.5, video="b"))) == 2


def test_scores_below_zero_are_compared_as_well() -> None:
    assert merged(hit(0, 4, -0.10), hit(4, 8, -0.12), hit(8, 12, -0.2)) == [
        ("a0", 0, 8, -0.10, 2),
        ("a8", 8, 12, -0.2, 1),
    ]


def test_more_hits_are_looked_at_until_there_are_as_many_moments() -> None:
    """Five hundred windows of one moment come before the one of another."""
    hits = [hit(number, number + 1, 0.9) for number in range(500)] + [hit(0, 1, 0.1, video="b")]
    asked: list[int] = []

    def search(*, top: int) -> list[dict[str, Any]]:
        asked.append(top)
        return hits[:top]

    assert [one["video"] for one in first_moments(search, top=2)] == ["a", "b"]
    assert asked == [200, 800]
    assert len(first_moments(search, top=1)) == 1
    assert asked[2:] == [200]


@pytest.mark.parametrize("top", [1, 2, 50])
def test_a_moment_is_the_same_however_many_are_wanted(top: int) -> None:
    hits = [hit(number, number + 1, 0.9 - 0.0001 * number) for number in range(120)]
    assert first_moments(lambda *, top: hits[:top], top=top) == first_moments(lambda *, top: hits[:top], top=1)


def test_a_search_answers_with_moments(synced: Path) -> None:
    write_config(synced, collection={"clip_seconds": 0.5})
    run_sync(synced)
    index = Index(synced)
    clips, moments = (index.search("a red picture", top=100, merge=merge) for merge in (False, True))
    assert len(clips) == 32
    assert sum(one.merged for one in moments) == 32
    assert {one.merged for one in clips} == {1}
    best = moments[0]
    assert (best.score, best.clip) == (clips[0].score, clips[0].clip)
    assert best.merged > 1
    assert best.end_seconds - best.start_seconds > 0.5
    assert len(index.search("a red picture", top=3, merge=True)) == 3
