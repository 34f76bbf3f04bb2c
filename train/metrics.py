"""Retrieval metrics: recall at k and ranks.

Source: the authors' code of Everything at Once (ninatu/everything_at_once@4daeab6, `retrieval_metrics`), whose numbers
this file gives. R@k is in percent; MedR and MeanR begin at 1. Under "average" a query whose answer ties with the best
is no hit at 1: its rank is the mean of the tied places. Under "optimistic" it is the first of them.

Legend: Q queries, G items in the gallery.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Real
from numpy.typing import ArrayLike, NDArray

from .._vocabulary import InputError

Ties = Literal["average", "optimistic"]


@dataclass(frozen=True, slots=True)
class RetrievalMetrics:
    """How well queries find their answers.

    Attributes:
        r1: share of queries, in percent, whose answer comes first.
        r5: ... among the first 5.
        r10: ... among the first 10.
        r50: ... among the first 50.
        medr: median rank of the answers, from 1.
        meanr: mean rank.
        num_queries: what the shares are divided by.
    """

    r1: float
    r5: float
    r10: float
    r50: float
    medr: float
    meanr: float
    num_queries: int

    @property
    def geometric_mean(self) -> float:
        """The geometric mean of R@1, R@5 and R@10."""
        return float((self.r1 * self.r5 * self.r10) ** (1 / 3))

    def as_dict(self) -> dict[str, float]:
        """The fields by name, JSON-ready."""
        return asdict(self)


def retrieval_ranks(
    similarity: Real[np.ndarray, "Q G"], *, targets: Int[np.ndarray, " _"] | None = None, ties: Ties = "average"
) -> Float[np.ndarray, " Q"]:
    """The rank, from 0, of every query's answer among the gallery.

    Args:
        similarity: the higher the better.
        targets: column of every query's answer; None: row i's answer is column i.
        ties: what rank an answer has that is exactly as similar as others.

    Raises:
        InputError: similarities that are not finite, or targets outside the gallery.
    """
    num_queries, num_items = similarity.shape
    answers = np.arange(num_queries) if targets is None else targets
    if len(answers) != num_queries or (num_queries and not (answers.min() >= 0 and answers.max() < num_items)):
        raise InputError(f"{num_queries} queries need that many targets below {num_items}, the size of the gallery")
    if not np.isfinite(similarity).all():
        raise InputError("similarities must be finite numbers: a NaN has no rank")
    own = np.take_along_axis(similarity, answers[:, None], axis=1)
    num_better = (similarity > own).sum(axis=1)
    num_tied = (similarity == own).sum(axis=1)
    ranks: NDArray[np.float64] = num_better + (0.5 * (num_tied - 1) if ties == "average" else 0.0)
    return ranks


def retrieval_metrics(
    similarity: ArrayLike, *, targets: ArrayLike | None = None, ties: Ties = "average", num_queries: int | None = None
) -> RetrievalMetrics:
    """Recall and ranks of a similarity matrix (Q, G).

    Args:
        similarity: row i is query i; the higher the better.
        targets: (Q,) column of every query's answer; None: row i's answer is column i.
        ties: see the head of this file.
        num_queries: what R@k is divided by, for test sets of which some queries could not be run; they count as misses
            (Everything at Once: 1000 for MSR-VTT, 3350 for YouCook2). MedR and MeanR leave them out.

    Raises:
        InputError: no query, numbers that are not finite, targets outside the gallery, or `num_queries` below Q.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or not len(similarity):
        raise InputError(f"similarities must be (queries, gallery) with at least one query; got {similarity.shape}")
    ranks = retrieval_ranks(similarity, targets=None if targets is None else np.asarray(targets), ties=ties)
    divisor = len(ranks) if num_queries is None else num_queries
    if divisor < len(ranks):
        raise InputError(f"num_queries is {divisor}, fewer than the {len(ranks)} queries given")
    recall = {k: 100.0 * float((ranks < k).sum()) / divisor for k in (5, 10, 50)}
    first = 100.0 * float((ranks == 0).sum()) / divisor
    median, mean = float(np.median(ranks)) + 1, float(ranks.mean()) + 1
    return RetrievalMetrics(first, recall[5], recall[10], recall[50], median, mean, divisor)
