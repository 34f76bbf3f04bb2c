"""Orders of answers: two lists fused, duplicates left out, answers that differ from each other first.

Reciprocal rank fusion: Cormack, Clarke and Buettcher, SIGIR 2009. Maximal marginal relevance: Carbonell and Goldstein,
SIGIR 1998. Moving a question away from an example: Rocchio, 1971.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RRF_CONSTANT = 60
AWAY = 0.5  # weight of the example that answers shall be unlike


def fused(*rankings: Sequence[str]) -> dict[str, float]:
    """Ids, best first, with the sum of 1 / (60 + rank) over the rankings that they are in."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (RRF_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))


def away_from(question: NDArray[np.float32] | None, example: NDArray[np.float32]) -> NDArray[np.float32]:
    """The direction (D,) of a question less that of an example; without a question, what lies opposite."""
    example = example / np.linalg.norm(example)
    if question is None:
        return -example
    moved: NDArray[np.float32] = question / np.linalg.norm(question) - np.float32(AWAY) * example
    return moved


def distinct(vectors: NDArray[np.float32], threshold: float) -> list[int]:
    """Places, in their order, of the unit vectors (N, D) whose cosine with all that were kept before is below this."""
    kept: list[int] = []
    for place, vector in enumerate(vectors):
        if not kept or float((vectors[kept] @ vector).max()) < threshold:
            kept.append(place)
    return kept


def diverse(scores: Sequence[float], vectors: NDArray[np.float32], weight: float, number: int) -> list[int]:
    """The places of up to ``number`` answers by maximal marginal relevance.

    Each next one has the largest (1 - weight) * score - weight * (largest cosine with one that is taken already).

    Args:
        scores: relevance of each answer, at most 1.
        vectors: unit vectors (N, D) of the answers.
        weight: from 0, the order of scores, to 1.
        number: how many to take.
    """
    relevance = (1 - weight) * np.asarray(scores, np.float64)
    nearest = np.full(len(relevance), -1.0)
    taken: list[int] = []
    gain = relevance.copy()
    while len(taken) < min(number, len(relevance)):
        best = int(np.argmax(gain))
        taken.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
        gain = relevance - weight * nearest
        gain[taken] = -np.inf
    return taken


def arranged(
    rows: Sequence[dict[str, Any]], *, number: int, threshold: float | None, weight: float
) -> list[dict[str, Any]]:
    """The first ``number`` of rows with ``vector`` and ``score``, best first, without duplicates, and diverse."""
    if not rows:
        return []
    vectors = np.array([row["vector"] for row in rows], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = list(range(len(rows))) if threshold is None else distinct(vectors, threshold)
    if weight:
        highest = max(abs(row["score"]) for row in rows) or 1.0
        scores = [rows[place]["score"] / highest for place in kept]
        kept = [kept[place] for place in diverse(scores, vectors[kept], weight, number)]
    return [rows[place] for place in kept[:number]]
