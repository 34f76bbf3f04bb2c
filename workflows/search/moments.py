"""Hits of one video that lie together are one moment: what is asked for rarely fits one window or one shot.

The rule is called ``best_first_union``. The best hit begins a moment. Hits of the same video that overlap it or lie at
most `GAP_SECONDS` from it, and score at least `SHARE` of the best, widen it, one after another; the moment has the
score, the captions and the id of the best. A hit that scores less and lies in it by half or more belongs to it as well
and does not widen it. Then the best hit that is left begins the next moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

Hit = Mapping[str, Any]

RULE = "best_first_union"
GAP_SECONDS = 4.0
SHARE = 0.7
"""Chosen among 0.5 to 0.9 on the questions of `tests/benchmarks/moments.py`, with frames of a second."""
_HITS = 200
"""Hits that are looked at, at least: so that a moment does not depend on how many answers are wanted."""
_MOST_HITS = 10_000  # that a table is asked for


def first_moments(search: Callable[..., Sequence[Hit]], *, top: int) -> list[dict[str, Any]]:
    """The best `top` moments: more hits are looked at until there are as many, or no more hits.

    Args:
        search: the best ``top=`` hits, best first, with `video`, `start_seconds`, `end_seconds` and `score`.
        top: how many moments.
    """
    depth = min(max(_HITS, 4 * top), max(_MOST_HITS, top))
    while True:
        hits = search(top=depth)
        found = moments_of(hits)
        if len(found) >= top or len(hits) < depth or depth >= _MOST_HITS:
            return found[:top]
        depth = min(4 * depth, _MOST_HITS)


def moments_of(hits: Sequence[Hit], *, gap_seconds: float = GAP_SECONDS, share: float = SHARE) -> list[dict[str, Any]]:
    """Hits, best first, as moments, best first: the best hit of each, with the moment's span and `merged`, its hits."""
    of_video: dict[str, list[Hit]] = {}
    for hit in hits:
        of_video.setdefault(hit["video"], []).append(hit)
    found = [one for several in of_video.values() for one in _of_video(several, gap_seconds, share)]
    return sorted(found, key=lambda one: -one["score"])


def _of_video(hits: Sequence[Hit], gap_seconds: float, share: float) -> Iterator[dict[str, Any]]:
    while hits:
        best, *left = hits
        start, end, merged = best["start_seconds"], best["end_seconds"], 1
        least = best["score"] - (1 - share) * abs(best["score"])
        while True:
            joins = [
                hit["score"] >= least
                and hit["start_seconds"] <= end + gap_seconds
                and hit["end_seconds"] >= start - gap_seconds
                for hit in left
            ]
            if not any(joins):
                break
            joined = list(compress(left, joins))
            start = min(start, *(hit["start_seconds"] for hit in joined))
            end = max(end, *(hit["end_seconds"] for hit in joined))
            merged += len(joined)
            left = [hit for hit, is_in in zip(left, joins, strict=True) if not is_in]
        hits = [hit for hit in left if not _is_half_inside(hit, start, end)]
        merged += len(left) - len(hits)
        yield {**best, "start_seconds": start, "end_seconds": end, "merged": merged}


def _is_half_inside(hit: Hit, start: float, end: float) -> bool:
    inside = min(end, hit["end_seconds"]) - max(start, hit["start_seconds"])
    return bool(inside >= (hit["end_seconds"] - hit["start_seconds"]) / 2)
