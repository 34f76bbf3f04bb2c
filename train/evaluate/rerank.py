"""Retrieval in two stages: candidates by the similarity of vectors, ranked by a joint head that reads pairs.

Source: VindLU (klauscc/VindLU@3046548, tasks/retrieval_utils.py), after Singularity. Scores of the second stage replace
those of the first and are not added to them; whatever is not among the first candidates comes after all that is. In
either direction each query has candidates of its own. The authors' loop from videos to texts works only where the
number of candidates is a multiple of 32; this one takes any.

Legend: Q queries, G items of the gallery, K candidates, P pairs, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, InputError
from .metrics import RetrievalMetrics, best_caption_ranks, metrics_of_ranks, retrieval_metrics

if TYPE_CHECKING:
    import torch

    from ...fuse import FusionModel, Tokens

NOT_SCORED = -100.0
"""The score of whatever is not a candidate."""
Ensemble = Literal["concat", "mean", "max", "lse"]
"""How frames make one score: all of them together, or groups by themselves and the mean, the greatest or the logarithm
of the sum of exponentials of their logits (groups of one for models trained on single frames)."""
ScorePairs = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.floating]]
"""The scores (P,) of query i and item j, of P pairs of their numbers."""


def candidates(similarity: Real[np.ndarray, "Q G"], *, num_candidates: int) -> Int[np.ndarray, "Q K"]:
    """The items most similar to each query, best first, equal ones in their order; all where there are fewer.

    Raises InputError for fewer than one.
    """
    if num_candidates < 1:
        raise InputError(f"num_candidates is {num_candidates}; re-ranking needs one or more")
    order: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :num_candidates]
    return order


def reranked(
    similarity: Real[np.ndarray, "Q G"], score: ScorePairs, *, num_candidates: int = 128
) -> Float[np.ndarray, "Q G"]:
    """The second stage's scores of the first stage's candidates; `NOT_SCORED` elsewhere.

    Args:
        similarity: of the first stage, the higher the better.
        score: asked for the candidates of one query at a time.
        num_candidates: K, or all where there are fewer items.
    """
    scores = np.full(similarity.shape, NOT_SCORED, np.float32)
    for query, items in enumerate(candidates(similarity, num_candidates=num_candidates)):
        scores[query, items] = score(np.full(len(items), query), items)
    return scores


def reordered(scores: Real[np.ndarray, " K"]) -> Int[np.ndarray, " K"]:
    """Places of the candidates of one query in their new order: the scored ones by score, then the others as they were.

    Args:
        scores: of the second stage, in the first stage's order; NaN where a candidate was not scored.
    """
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable")  # NaN comes last, and stays in its order
    return order


def pair_scorer(
    model: FusionModel,
    *,
    text: Tokens,
    video: Tokens,
    queries: Literal["text", "video"] = "text",
    batch_pairs: int = 32,
    ensemble: Ensemble = "concat",
    group_frames: int = 1,
) -> ScorePairs:
    """What `reranked` asks, of a model with a joint head: each text and each video is encoded once.

    Args:
        model: in evaluation mode.
        text: what `model.states("text", ...)` gave, of all texts.
        video: what `model.states("video", ...)` gave, of all videos.
        queries: which of both the first numbers of pairs are.
        batch_pairs: pairs scored at once.
        ensemble: how frames make one score.
        group_frames: frames that are scored together, but for "concat", which takes all. They lie apart: of T frames in
            groups of g, the first group has the frames 0, T / g, 2 T / g, ...

    Raises:
        ConfigError: a model without a joint head, an ensemble that is not known, or groups of no frame.
    """
    import torch

    model.check_scores()
    if ensemble not in ("concat", "mean", "max", "lse"):
        raise ConfigError(f"ensemble is {ensemble!r}; it must be concat, mean, max or lse")
    if group_frames < 1:
        raise ConfigError(f"group_frames is {group_frames}; it must be 1 or more")

    def score(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.floating]:
        texts, videos = (first, second) if queries == "text" else (second, first)
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_pairs):
                here = slice(start, start + batch_pairs)
                rows = _rows(text, texts[here]), _rows(video, videos[here])
                scores = _scores(model, *rows, ensemble=ensemble, group_frames=group_frames).float().cpu()
                found.append(scores.expand(len(texts[here])))  # one row of each where all pairs are the same
        return torch.cat(found).numpy() if found else np.zeros(0, np.float32)

    return score


def _rows(states: Tokens, numbers: NDArray[np.int64]) -> Tokens:
    """Those of some samples; where it is one alone, one row of it, which a score takes for all."""
    import torch

    from ...fuse import Tokens

    chosen = numbers[:1] if len(np.unique(numbers)) == 1 else numbers
    places = torch.from_numpy(chosen).to(states.mask.device)
    return Tokens(states.values[places], states.mask[places])


def _scores(model: FusionModel, text: Tokens, video: Tokens, *, ensemble: Ensemble, group_frames: int) -> torch.Tensor:
    import torch

    from ...fuse import Tokens

    if ensemble == "concat":
        return model.score(text=text, video=video)
    num_pairs, num_frames = max(len(text.mask), len(video.mask)), video.mask.shape[1]
    num_groups = -(-num_frames // group_frames)
    logits, reals = [], []
    for first in range(num_groups):
        values, mask = (each[:, first::num_groups] for each in video)
        has_any = mask.bool().any(dim=1)
        seen_mask = torch.where(has_any[:, None], mask, torch.ones_like(mask))  # a model reads one frame at least
        logits.append(model.score(text=text, video=Tokens(values, seen_mask)).expand(num_pairs))
        reals.append(has_any.expand(num_pairs))
    by_group, real = torch.stack(logits, dim=1), torch.stack(reals, dim=1)
    if ensemble == "mean":
        return (by_group * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    seen = by_group.masked_fill(~real, -torch.inf)
    return seen.amax(dim=1) if ensemble == "max" else seen.logsumexp(dim=1)


def two_way_metrics(
    text_to_video: Real[np.ndarray, "Q G"],
    video_to_text: Real[np.ndarray, "G Q"],
    *,
    targets: Int[np.ndarray, " Q"] | None = None,
) -> tuple[RetrievalMetrics, RetrievalMetrics]:
    """From texts to videos, and from videos to the best of their texts; equal scores have the mean of their places.

    Args:
        text_to_video: scores of texts (rows) and videos.
        video_to_text: scores of videos (rows) and texts.
        targets: the video of each text; None: that of the same number.
    """
    answers = np.arange(len(text_to_video)) if targets is None else targets
    ranks = best_caption_ranks(video_to_text.T, targets=answers)
    return retrieval_metrics(text_to_video, targets=answers), metrics_of_ranks(ranks)
