"""How sure a figure of retrieval is: the bootstrap over videos (Efron, Annals of Statistics 1979), by percentiles.

Videos are drawn anew with replacement, each with all of its questions: questions of one video share its pictures, so
that drawing single questions would promise more than they know. Two models that were asked the same questions are
compared on the same draws: what is hard for both then cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from ..._vocabulary import InputError

NUM_DRAWS = 2000


def redrawn(
    ranks: Float[np.ndarray, " Q"], groups: Int[np.ndarray, " Q"], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """R@1, R@5, R@10 in percent and the median rank of every draw: (num_draws,) by name `r1`, `r5`, `r10`, `medr`.

    Args:
        ranks: of each question's answer, from 0; NaN for a question that could not be asked, which is a miss and has no
            place in the median.
        groups: the video of each question, numbered from 0 without gaps.
        num_draws: how often videos are drawn.
        seed: of the draws. Two models are judged on the same ones where groups and seed are the same.

    Raises:
        InputError: shapes that differ, or no question that was asked.
    """
    if ranks.shape != groups.shape or np.isnan(ranks).all():
        raise InputError(f"{ranks.shape} ranks and {groups.shape} groups: each question has both, and one was asked")
    num_groups = int(groups.max()) + 1
    hits = np.array([ranks == 0, ranks < 5, ranks < 10])
    by_rank = np.argsort(ranks)[: np.isfinite(ranks).sum()]
    rng = np.random.default_rng(seed)
    shares, medians = np.empty((num_draws, len(hits))), np.full(num_draws, np.nan)
    for draw in range(num_draws):
        weights = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)[groups]
        shares[draw] = 100.0 * (hits @ weights) / weights.sum()
        places = weights[by_rank].cumsum()
        if places[-1]:  # otherwise only questions that could not be asked were drawn
            middle = np.searchsorted(places, [(places[-1] - 1) // 2, places[-1] // 2], side="right")
            medians[draw] = ranks[by_rank[middle]].mean() + 1
    return {"r1": shares[:, 0], "r5": shares[:, 1], "r10": shares[:, 2], "medr": medians}


def redrawn_means(
    values: Mapping[str, Float[np.ndarray, " Q"]],
    groups: Int[np.ndarray, " Q"],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """The mean of each of several figures in every draw: (num_draws,) by name. All are drawn alike.

    Args:
        values: figures of each question, such as 100 where an answer is right and 0 where it is not.
        groups: the video of each question, numbered from 0 without gaps.
        num_draws: how often videos are drawn.
        seed: of the draws.

    Raises:
        InputError: no figures, or shapes that differ.
    """
    if not values or not len(groups) or any(each.shape != groups.shape for each in values.values()):
        raise InputError(f"{len(values)} figures of {groups.shape} questions: each needs one figure a question")
    num_groups = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    table = np.stack(list(values.values()))
    means = np.empty((num_draws, len(table)))
    for draw in range(num_draws):
        weights = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)[groups]
        means[draw] = table @ weights / weights.sum()
    return dict(zip(values, means.T, strict=True))


def intervals(draws: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    """The middle 95 % of draws, by name: where the figure would lie with other videos of the same kind."""
    bounds = {name: np.nanpercentile(values, (2.5, 97.5)) for name, values in draws.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
