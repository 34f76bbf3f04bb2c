"""Retrieval metrics: recall at k and ranks.

Source: the authors' code of Everything at Once (ninatu/everything_at_once@4daeab6, `retrieval_metrics`), whose numbers
this file gives. R@k is in percent; MedR and MeanR begin at 1. Under "average" a query whose answer ties with the best
misses at 1: its rank is the mean of the tied places. Under "optimistic" it is the first of them. Under "every_place"
each of the tied places counts as a query's, and shares are divided by the number of places, so that a query with ties
weighs more than one: what the code of HowTo100M and MIL-NCE does (antoine77340/howto100m@50af0ff, metrics.py).

Test sets of which some clips could not be extracted are counted as published: those clips are misses as queries, the
gallery lacks them, and the median and mean rank leave them out (`COMPLETE_TEST_SETS`).

Legend: Q queries, G items in the gallery, N clips, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import ArrayLike, NDArray

from ..._vocabulary import InputError

Ties = Literal["average", "optimistic", "every_place"]
COMPLETE_TEST_SETS: Mapping[str, int] = {"msrvtt": 1000, "youcook2": 3350}
"""Clips of the complete test sets. The authors' features cover 968 of MSR-VTT's and 3339 of YouCook2's."""


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
        return asdict(self)


def retrieval_ranks(
    similarity: Real[np.ndarray, "Q G"], *, targets: Int[np.ndarray, " _"] | None = None, ties: Ties = "average"
) -> Float[np.ndarray, " _"]:
    """The rank, from 0, of every query's answer among the gallery: (Q,), or more of them for ties "every_place".

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
    if ties == "every_place":
        first_of_query = np.repeat(num_tied.cumsum() - num_tied, num_tied)
        places: NDArray[np.int64] = np.repeat(num_better, num_tied) + np.arange(num_tied.sum()) - first_of_query
        return places.astype(np.float64)
    ranks: NDArray[np.float64] = num_better + (0.5 * (num_tied - 1) if ties == "average" else 0.0)
    return ranks


def best_caption_ranks(
    similarity: Real[np.ndarray, "Q G"],
    *,
    targets: Int[np.ndarray, " _"],
    present: Bool[np.ndarray, " _"] | None = None,
) -> Float[np.ndarray, " _"]:
    """From a clip to its captions, of which it has several: the rank, from 0, of the best of them among all captions.

    The rule of Frozen in Time, MILES and All-in-one (`v2t_metrics`): tied captions have the mean of their places.

    Args:
        similarity: captions by clips.
        targets: the clip of each caption.
        present: captions that count; None: all. Each clip needs one.

    Returns:
        (G,), one rank for each clip.

    Raises:
        InputError: a clip without a caption; see `retrieval_ranks`.
    """
    kept = np.ones(len(targets), bool) if present is None else present
    clips = targets[kept]
    num_clips = similarity.shape[1]
    if (missing := np.setdiff1d(np.arange(num_clips), clips)).size:
        raise InputError(f"clip {missing[0]} has no caption; each clip needs one that counts")
    ranks = retrieval_ranks(similarity[kept].T[clips], ties="average")
    best = np.full(num_clips, np.inf)
    np.minimum.at(best, clips, ranks)
    return best


def retrieval_metrics(
    similarity: ArrayLike,
    *,
    targets: ArrayLike | None = None,
    ties: Ties = "average",
    num_queries: int | str | None = None,
) -> RetrievalMetrics:
    """Recall and ranks of a similarity matrix (Q, G).

    Args:
        similarity: row i is query i; the higher the better.
        targets: (Q,) column of every query's answer; None: row i's answer is column i.
        ties: see the head of this file.
        num_queries: what R@k is divided by, for test sets of which some queries could not be run; they count as misses.
            A number, or the name of a test set, see `COMPLETE_TEST_SETS`. MedR and MeanR leave them out.

    Raises:
        InputError: no query, numbers that are not finite, targets outside the gallery, a test set that is not known, or
            `num_queries` below Q.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or not len(similarity):
        raise InputError(f"similarities must be (queries, gallery) with at least one query; got {similarity.shape}")
    ranks = retrieval_ranks(similarity, targets=None if targets is None else np.asarray(targets), ties=ties)
    return metrics_of_ranks(ranks, num_queries=num_queries)


def metrics_of_ranks(ranks: Real[np.ndarray, " _"], *, num_queries: int | str | None = None) -> RetrievalMetrics:
    """Recall, and the median and mean, of ranks from 0. Arguments and errors: see `retrieval_metrics`."""
    if isinstance(num_queries, str):
        if num_queries not in COMPLETE_TEST_SETS:
            raise InputError(f"test set {num_queries!r}: allowed are {', '.join(COMPLETE_TEST_SETS)}, or a number")
        num_queries = COMPLETE_TEST_SETS[num_queries]
    divisor = len(ranks) if num_queries is None else num_queries
    if divisor < len(ranks):
        raise InputError(f"num_queries is {divisor}, fewer than the {len(ranks)} queries given")
    recall = {k: 100.0 * float((ranks < k).sum()) / divisor for k in (5, 10, 50)}
    first = 100.0 * float((ranks == 0).sum()) / divisor
    median, mean = float(np.median(ranks)) + 1, float(ranks.mean()) + 1
    return RetrievalMetrics(first, recall[5], recall[10], recall[50], median, mean, divisor)


Direction = tuple[str, str]
"""The query's and the gallery's modalities, such as ("text", "video+audio")."""


def retrieval_table(
    vectors: Mapping[str, NDArray[np.floating]],
    *,
    directions: Sequence[Direction] | None = None,
    present: Mapping[str, NDArray[np.bool_]] | None = None,
    num_queries: int | str | None = None,
    ties: Ties = "average",
) -> dict[Direction, RetrievalMetrics]:
    """Retrieval between the embeddings of the same clips, in every direction.

    The answer to clip i's text is clip i's video, and so on; similarity is the cosine. Table 1 of Everything at Once
    has ("text", "video"), ("text", "video,audio") and ("text", "video+audio").

    Args:
        vectors: (N, E) by combination: "text", "video", "video+audio" (joint), "video,audio" (the mean of two).
        directions: which to compare; None: all pairs of combinations that share no modality, both ways.
        present: (N,) by modality, which clips really have it. A clip that lacks one of a direction's is left out of it,
            as a query and in the gallery. None: all have all.
        num_queries: what R@k is divided by, see `retrieval_metrics`; None: the clips that are not left out.
        ties: see the head of this file.

    Raises:
        InputError: embeddings of different numbers of clips, a direction that is not among them, or no clip left.
    """
    if len({len(rows) for rows in vectors.values()}) > 1:
        sizes = {name: len(rows) for name, rows in vectors.items()}
        raise InputError(f"the embeddings must be of the same clips; got {sizes}")
    table = {}
    if directions is None:
        directions = [(x, y) for x in vectors for y in vectors if not {*modalities_of(x)} & {*modalities_of(y)}]
    for query, gallery in directions:
        kept = _kept(query, gallery, vectors, present or {})
        similarity = _unit(vectors[query][kept]) @ _unit(vectors[gallery][kept]).T
        table[query, gallery] = retrieval_metrics(similarity, ties=ties, num_queries=num_queries)
    return table


def modalities_of(combination: str) -> list[str]:
    """The modalities of "video+audio" or "video,audio"."""
    return combination.replace(",", "+").split("+")


def _kept(
    query: str,
    gallery: str,
    vectors: Mapping[str, NDArray[np.floating]],
    present: Mapping[str, NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    for name in (query, gallery):
        if name not in vectors:
            raise InputError(f"there are no embeddings of {name!r}; there are {', '.join(vectors)}")
    kept = np.ones(len(vectors[query]), bool)
    for name in (*modalities_of(query), *modalities_of(gallery)):
        if name in present:
            if len(present[name]) != len(kept):
                raise InputError(f"present of {name} has {len(present[name])} clips, and there are {len(kept)}")
            kept &= present[name]
    if not kept.any():
        raise InputError(f"no clip has all of {query} and {gallery}: there is nothing to retrieve")
    return kept


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.floating] = rows / np.maximum(lengths, 1e-8).astype(rows.dtype)
    return unit
