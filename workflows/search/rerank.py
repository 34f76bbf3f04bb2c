"""The second stage of retrieval: candidates of a table, judged again by a model that reads words and frames together.

Any model with a joint head (`score`) judges the candidates of any model's table: it is found by its name in the same
store, or by another project's configuration. The first stage says which clips; their frames come from the judging
project's stored `pixels`, and are decoded where they are not stored. What the model makes of a clip's frames alone is
kept in memory, so that a clip is encoded once whatever is asked; so is a batch of pairs the unit of work and of time.

`query` and `evaluate` share `Reranker.judged`. A candidate that was not judged, since its frames cannot be had or the
time was up, comes behind all that were, in the first stage's order.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, FrameloomError, MediaError, canonical_json
from ...train.data import ClipFeatures, clip_data, sample_batch
from ..project import Project
from ..sync import fingerprint_of, in_batches
from .results import Candidate, Reranking, Result, Results, Score
from .session import Query, SearchSession

if TYPE_CHECKING:
    import torch

    from ...fuse import FusionModel, Tokens

PAIRS_A_BATCH = 16
MOST_KEPT_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the second stage says of candidates.

    Attributes:
        scores: the joint head's logits, (N,), in the candidates' order; NaN where one was not judged.
        seconds: that it took.
        num_decoded: clips whose frames were not stored.
        problems: why candidates have no frames, a line for each.
    """

    scores: NDArray[np.float32]
    seconds: float
    num_decoded: int
    problems: tuple[str, ...]

    @property
    def num_pairs(self) -> int:
        """Pairs that were judged."""
        return int(np.isfinite(self.scores).sum())


class Reranker:
    """A model with a joint head, and what it made of the frames of the candidates so far.

    Args:
        project: whose model judges.

    Raises:
        FrameloomError: it is not trained yet.
        ConfigError: a model without a joint head.
    """

    def __init__(self, project: Project) -> None:
        self.session = SearchSession(project)
        self.project = project
        self.model: FusionModel = self.session.model
        self.model.check_scores()
        self.frames = self.session.resolved.features.media[0]
        self._kept: OrderedDict[tuple[str, float, float], Tokens] = OrderedDict()
        self._bytes = 0

    @classmethod
    def called(cls, project: Project, name: str) -> Reranker:
        """The one that a user means by a name: see `kept_project`."""
        from ..project.kept import kept_project

        return cls(kept_project(project, name))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def judged(
        self,
        text: str,
        candidates: Sequence[Candidate],
        *,
        budget_seconds: float | None = None,
        ensemble: Any = "concat",
        group_frames: int = 1,
    ) -> Judged:
        """The joint head's score of a question with each candidate.

        Args:
            text: the question.
            candidates: best first: where the time does not suffice, the first are judged.
            budget_seconds: no batch of pairs is begun later than this after the call; 0 judges none.
            ensemble: see `pair_scorer`.
            group_frames: see `pair_scorer`.

        Raises:
            InputError: the model knows no word of the question.
            ConfigError: an ensemble that is not known; a model that was built without its joint head.
        """
        from ...train.evaluate import pair_scorer

        begun = time.monotonic()
        scores = np.full(len(candidates), np.nan, np.float32)
        problems: dict[int, str] = {}
        num_decoded = 0
        words: Tokens | None = None
        for batch in in_batches(range(len(candidates)), PAIRS_A_BATCH):
            if budget_seconds is not None and time.monotonic() - begun >= budget_seconds:
                break
            words = self._words(text) if words is None else words
            states, failed, decoded = self._states([candidates[place] for place in batch])
            problems |= {batch[place]: problem for place, problem in failed.items()}
            num_decoded += decoded
            places = [batch[place] for place in sorted(states)]
            if places:
                video = _stacked([states[place] for place in sorted(states)])
                score = pair_scorer(
                    self.model, text=words, video=video, batch_pairs=len(places), ensemble=ensemble,
                    group_frames=group_frames,
                )  # fmt: skip
                scores[places] = score(np.zeros(len(places), np.int64), np.arange(len(places)))
        return Judged(
            scores=scores,
            seconds=time.monotonic() - begun,
            num_decoded=num_decoded,
            problems=tuple(problems[place] for place in sorted(problems)),
        )

    def answers(self, query: Query, found: Sequence[Result]) -> Results:
        """The first stage's results in the second stage's order, cut to the page that is asked for."""
        from ...train.evaluate import reordered

        assert query.text is not None
        judged = self.judged(
            query.text,
            [Candidate(Path(one.path), one.start_seconds, one.end_seconds) for one in found],
            budget_seconds=query.budget_seconds,
            ensemble=query.ensemble,
            group_frames=query.group_frames,
        )
        results = []
        for place in reordered(judged.scores).tolist()[query.offset : query.offset + query.top]:
            result, score = found[place].replaced(rank_before=place + 1), float(judged.scores[place])
            if np.isfinite(score):
                result = result.replaced(score=score, scores=(*result.scores, Score(name="rerank", value=score)))
            results.append(result)
        report = Reranking(
            model=self.model.name,
            candidates=len(found),
            judged=judged.num_pairs,
            seconds=judged.seconds,
            budget_seconds=query.budget_seconds,
            decoded=judged.num_decoded,
            problems=judged.problems,
        )
        return Results(results, reranking=report)

    def _words(self, text: str) -> Tokens:
        import torch

        batch = sample_batch([{"text": [self.session.words(text)]}], self.session.resolved.limits)
        with torch.inference_mode():
            return self.model.states("text", moved(batch["text"], self._device))

    def _states(self, clips: Sequence[Candidate]) -> tuple[dict[int, Tokens], dict[int, str], int]:
        """What the model makes of the frames of clips, by place; why some have none; how many were decoded."""
        digests = self.project.ledger.digests_of_files(dict.fromkeys(clip.path for clip in clips))
        states: dict[int, Tokens] = {}
        failed: dict[int, str] = {}
        stored: dict[int, ClipFeatures] = {}
        absent: list[int] = []
        names: dict[int, str] = {}
        for place, clip in enumerate(clips):
            digest = digests[clip.path]
            if isinstance(digest, MediaError):
                failed[place] = f"{clip.path}: {digest.status.value}: {digest.message}"
                continue
            names[place] = fingerprint_of(digest, self.frames)
            kept = self._kept.get((names[place], clip.start_seconds, clip.end_seconds))
            if kept is not None:
                self._kept.move_to_end((names[place], clip.start_seconds, clip.end_seconds))
                states[place] = kept
            elif (entry := self._entry(names[place])) is not None and entry.num_rows:
                stored[place] = ClipFeatures(
                    clip=str(place),
                    start_seconds=clip.start_seconds,
                    end_seconds=clip.end_seconds,
                    features={"video": (names[place],)},
                )
            else:
                absent.append(place)
        decoded = {}
        for place in absent:
            try:
                decoded[place] = self._decoded(clips[place])
            except FrameloomError as error:  # one file of a collection that fails is data
                failed[place] = str(error)
        for place, made in self._encoded(stored, decoded):
            states[place] = made
            self._keep((names[place], clips[place].start_seconds, clips[place].end_seconds), made)
        return states, failed, len(decoded)

    def _entry(self, name: str) -> Any:
        """What is stored under a fingerprint, also since this was opened."""
        if name not in self.project.store:
            self.project.store.refresh()
        return self.project.store.entry(name)

    def _decoded(self, clip: Candidate) -> FeatureArray:
        """The frames of a span of a file, as the backbone gives them."""
        return within(self.session.frames_of(clip.path), clip.start_seconds, clip.end_seconds)

    def _encoded(
        self, stored: dict[int, ClipFeatures], decoded: dict[int, FeatureArray]
    ) -> Iterator[tuple[int, Tokens]]:
        import torch

        from ...fuse import Tokens

        limits = self.session.resolved.limits
        batches = []
        if stored:
            data = clip_data(self.project.store, list(stored.values()), limits)
            batches += list(data.batches(range(len(stored))))
        if decoded:
            spec = canonical_json(self.frames.spec.identity())
            samples = [{"video": frames} for frames in decoded.values()]
            batches.append(sample_batch(samples, limits, spec=spec))
        places = iter([*stored, *decoded])
        with torch.inference_mode():
            for batch in batches:
                made = self.model.states("video", moved(batch["video"], self._device))
                for values, mask in zip(*made, strict=True):
                    yield next(places), Tokens(values.clone(), mask.clone())

    def _keep(self, key: tuple[str, float, float], made: Tokens) -> None:
        """Remember what was made of a clip; what was used longest ago goes first."""
        self._kept[key] = made
        self._bytes += _num_bytes(made)
        while self._bytes > MOST_KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])


def within(frames: FeatureArray, start_seconds: float, end_seconds: float) -> FeatureArray:
    """The frames of a span; where none lies in it, the one that is nearest to its middle."""
    starts, ends = frames.times.T
    inside = (starts < end_seconds) & (ends > start_seconds)
    if not inside.any():
        distance = np.abs(starts + ends - start_seconds - end_seconds)
        inside = distance == distance.min()
    return replace(frames, values=frames.values[inside], times=frames.times[inside])


def moved(tokens: Tokens, device: torch.device) -> Tokens:
    """The same on another device."""
    return tokens._replace(values=tokens.values.to(device), mask=tokens.mask.to(device))


def _num_bytes(tokens: Tokens) -> int:
    return sum(each.numel() * each.element_size() for each in tokens)


def _stacked(rows: Sequence[Tokens]) -> Tokens:
    """Clips of different lengths as one batch, padded with zeros."""
    import torch

    from ...fuse import Tokens

    longest = max(len(row.mask) for row in rows)
    values = rows[0].values.new_zeros(len(rows), longest, *rows[0].values.shape[1:])
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=values.device)
    for place, row in enumerate(rows):
        values[place, : len(row.mask)], mask[place, : len(row.mask)] = row.values, row.mask.bool()
    return Tokens(values, mask)
