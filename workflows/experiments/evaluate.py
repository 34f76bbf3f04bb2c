"""Retrieval on held-out clips, from the table: captions ask, the clip that they were written for is the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..._files import publish_text
from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError
from ..console import count_of
from ..project import Project, in_split
from ..search import Candidate, SearchSession
from ..sync import in_batches

if TYPE_CHECKING:
    from ..search.rerank import Reranker

QUERIES_PER_BATCH = 256
RUN_DEPTH = 1000
_ABOVE = 1e6  # above every cosine: whatever was judged comes first
COLUMNS = ("r1", "r5", "r10", "medr")
Interval = tuple[float, float]


class Comparison(Settings):
    """Two models, asked the same questions, each through the rows of its most modalities."""

    combination: str
    """Of this model."""
    other: str
    """The other project's configuration."""
    other_combination: str
    """Of the other model."""
    difference: Mapping[str, float]
    """Of r1, r5, r10 in points, and of medr in ranks: this model's figure less the other's."""
    intervals: Mapping[str, Interval]
    """95 % of each difference."""


class Second(Settings):
    """A second model that judges each question's candidates again, which come from the rows of the most modalities."""

    model: str
    """That judged."""
    combination: str
    """Of the first stage."""
    candidates: int
    """Of each question."""
    recall: float
    """Share of questions in percent whose answer is among the candidates: the most that a second stage could reach."""
    metrics: Mapping[str, float]
    """Of the new order, as of the first stage."""
    intervals: Mapping[str, Interval]
    """95 % of them."""
    difference: Mapping[str, float]
    """Less those of the first stage."""
    difference_intervals: Mapping[str, Interval]
    """95 % of each difference."""
    pairs: int
    """That were judged."""
    seconds: float
    """That it took, of all questions."""
    seconds_per_question: float
    """In the mean."""
    decoded: int = 0
    """Clips whose frames were not stored."""
    without_frames: int = 0
    """Pairs that could not be judged, since their files give no frames."""

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.model} judges the first {self.candidates}: {self.pairs} pairs in {self.seconds:.1f} s,"
            f" {self.seconds_per_question:.3f} s a question; the answer is among them for {self.recall:.1f} %"
        )
        if self.without_frames:
            yield f"{self.without_frames} pairs were not judged: their files give no frames"
        yield _row("judged again", self.metrics, self.intervals)
        yield _row("difference", self.difference, self.difference_intervals, sign="+")


class Evaluation(Settings):
    """Text-to-media retrieval on one split."""

    split: str
    """The split whose clips are asked for and searched."""
    num_queries: int
    """Captions asked: the first of each item, or all."""
    num_items: int
    """Items in the gallery: videos, or spans of them that have captions of their own."""
    metrics: Mapping[str, Mapping[str, float]]
    """Combination to R@1, R@5, R@10 in percent, and median and mean rank from 1."""
    intervals: Mapping[str, Mapping[str, Interval]]
    """Combination to 95 % of r1, r5, r10 and medr, over draws of the split's videos."""
    against: Comparison | None = None
    """Another model's answers to the same questions, where one was named."""
    measures: Mapping[str, float] = {}
    """What ir-measures says of the combination of most modalities."""
    rerank: Second | None = None
    """What a second model makes of it, where one was named."""
    missing: Mapping[str, int] = {}
    """Combination to items that have none, such as a silent clip: the questions that ask for them find them last."""
    num_unasked: int = 0
    """Questions without a known word, which are misses."""
    num_absent: int = 0
    """Videos of the split with captions that are not in the table: nobody asks for them."""

    def lines(self) -> Iterator[str]:
        yield f"{self.num_queries} questions, {self.num_items} clips of the split {self.split!r}; in brackets 95 %"
        yield f"{'text -> ':20}{'R@1':>22}{'R@5':>22}{'R@10':>22}{'MedR':>22}"
        for name, values in self.metrics.items():
            yield _row(name, values, self.intervals[name])
        for name, number in self.missing.items():
            if number:
                yield f"  {name}: {number} of the {self.num_items} clips have none, and come last"
        if self.num_unasked:
            yield f"  {self.num_unasked} of the {self.num_queries} questions have no known word, and count as misses"
        if self.num_absent:
            yield f"  {count_of(self.num_absent, 'video')} of the split are not in the table, and are not asked for"
        if self.against is not None:
            yield f"{self.against.combination} less {self.against.other_combination} of {self.against.other}"
            yield _row("", self.against.difference, self.against.intervals, sign="+")
        if self.rerank is not None:
            yield from self.rerank.lines()
        for name, value in self.measures.items():
            yield f"{name}: {value:.4f}"


def _row(name: str, values: Mapping[str, float], intervals: Mapping[str, Interval], sign: str = "") -> str:
    cells = (f"{values[one]:{sign}.1f} [{intervals[one][0]:.1f}, {intervals[one][1]:.1f}]" for one in COLUMNS)
    return f"  {name:18}" + "".join(f"{cell:>22}" for cell in cells)


def evaluate(
    project: Project,
    *,
    split: str = "test",
    captions: str = "first",
    against: Project | None = None,
    run: Path | None = None,
    measures: Sequence[str] = (),
    rerank: str | None = None,
    candidates: int = 100,
    budget_seconds: float | None = None,
) -> Evaluation:
    """R@1, R@5, R@10 and the median rank of text -> video, audio and video+audio on one split, with 95 % intervals.

    The windows of one video that share their captions are one item, and its best window counts.

    Args:
        project: which was synced.
        split: train, val or test.
        captions: whether each item's first caption asks, or all of them.
        against: another project over the same clips; the difference comes with its interval, over the same draws.
        run: where to write the answers as a TREC run, and next to it the right ones, with the ending `.qrels`.
        measures: of ir-measures, such as ``nDCG@10``. With `rerank`, they and the run are of its order.
        rerank: a second model, as `query --rerank` takes it.
        candidates: that it judges of each question.
        budget_seconds: that it may take for each.

    Raises:
        InputError: the split has no clip with captions, the other project has other ones, a measure that is not known,
            a run that ends in `.qrels`.
        ConfigError: measures without the extra `trec`.
    """
    from ...train.evaluate import intervals, redrawn

    if run is not None and run.suffix == ".qrels":
        raise InputError(f"{run}: the right answers are written under this ending: give the run another one")
    if candidates < 1:
        raise InputError(f"candidates = {candidates}: a second model judges 1 or more")
    asked = Questions(project, split=split, captions=captions)
    judge = None if rerank is None else asked.session.reranker(rerank)
    metrics, spread = {}, {}
    for name in asked.combinations:
        similarity: NDArray[np.floating] = asked.similarity(name)
        metrics[name] = asked.metrics(similarity)
        spread[name] = intervals(redrawn(asked.ranks(similarity), asked.groups))
    compared = None
    if against is not None:
        compared = _compared(asked, Questions(against, split=split, captions=captions))
    second = None
    if judge is not None:
        second, similarity = _judged_again(asked, judge, similarity, candidates, budget_seconds)
    measured: dict[str, float] = {}
    if run is not None or measures:
        found, right = asked.trec(similarity)
        measured = _measured(measures, found, right)
        if run is not None:
            publish_text(
                run, "".join(f"{q} Q0 {item} {rank} {RUN_DEPTH - rank} frameloom\n" for q, item, rank in found)
            )
            publish_text(run.with_suffix(".qrels"), "".join(f"{q} 0 {item} 1\n" for q, item in right))
    return Evaluation(
        split=split,
        num_queries=len(asked.questions),
        num_items=len(asked.items),
        metrics=metrics,
        intervals=spread,
        against=compared,
        measures=measured,
        rerank=second,
        missing={name: len(asked.items) - len(asked.found(name)) for name in metrics},
        num_unasked=asked.num_unasked,
        num_absent=asked.num_absent,
    )


def _judged_again(
    asked: Questions, judge: Reranker, similarity: NDArray[np.floating], number: int, budget_seconds: float | None
) -> tuple[Second, NDArray[np.float64]]:
    """What a second model makes of the candidates, and numbers (A, items) that have its order."""
    from ...train.evaluate import candidates, intervals, redrawn

    combination = asked.combinations[-1]
    windows, order = asked.best_windows(combination), similarity.astype(np.float64)
    pairs = decoded = without = 0
    seconds, found = 0.0, np.zeros(len(asked.questions), bool)
    for row, question in enumerate(asked.places):
        items = [
            one for one in candidates(similarity[row][None], num_candidates=number)[0] if similarity[row, one] >= -1
        ]
        found[question] = asked.targets[question] in items
        text = asked.questions[question][1]
        try:
            judge.session.words(text)
        except InputError:  # it knows none of them, and leaves the order as it is
            continue
        judged = judge.judged(text, [windows(row, one) for one in items], budget_seconds=budget_seconds)
        known = np.isfinite(judged.scores)
        order[row, np.array(items)[known]] = _ABOVE + judged.scores[known]
        pairs, decoded, without = pairs + judged.num_pairs, decoded + judged.num_decoded, without + len(judged.problems)
        seconds += judged.seconds
    before, after = asked.ranks(similarity), asked.ranks(order)
    old, new = asked.metrics(similarity), asked.metrics(order)
    draws, old_draws = redrawn(after, asked.groups), redrawn(before, asked.groups)
    second = Second(
        model=judge.model.name,
        combination=combination,
        candidates=min(number, len(asked.items)),
        recall=100.0 * float(found.mean()),
        metrics=new,
        intervals=intervals(draws),
        difference={column: new[column] - old[column] for column in COLUMNS},
        difference_intervals=intervals({column: draws[column] - old_draws[column] for column in COLUMNS}),
        pairs=pairs,
        seconds=seconds,
        seconds_per_question=seconds / len(asked.places),
        decoded=decoded,
        without_frames=without,
    )
    return second, order


def _compared(one: Questions, other: Questions) -> Comparison:
    from ...train.evaluate import intervals, redrawn

    if one.questions != other.questions:
        shared = len({*one.questions} & {*other.questions})
        raise InputError(
            f"{other.project.base}: {len(other.questions)} questions in this split where {one.project.base} has "
            f"{len(one.questions)}, {shared} of them the same: models are compared on the same clips and captions"
        )
    found = [each.similarity(each.combinations[-1]) for each in (one, other)]
    ours, theirs = one.metrics(found[0]), other.metrics(found[1])
    draws, other_draws = redrawn(one.ranks(found[0]), one.groups), redrawn(other.ranks(found[1]), one.groups)
    return Comparison(
        combination=one.combinations[-1],
        other=str(other.project.base),
        other_combination=other.combinations[-1],
        difference={column: ours[column] - theirs[column] for column in COLUMNS},
        intervals=intervals({column: draws[column] - other_draws[column] for column in COLUMNS}),
    )


def _measured(
    names: Sequence[str], found: Sequence[tuple[str, str, int]], right: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """What ir-measures says, by the names that were given."""
    if not names:
        return {}
    try:
        import ir_measures
    except ModuleNotFoundError:
        raise ConfigError("measures other than recall come with ir-measures: pip install 'frameloom[trec]'") from None
    measures = {}
    for name in names:
        try:
            measures[name] = ir_measures.parse_measure(name)
        except (ValueError, NameError, SyntaxError) as error:
            raise InputError(f"measure {name!r:.80}: ir-measures knows no such one, see its list: {error}") from None
    run = [ir_measures.ScoredDoc(question, item, RUN_DEPTH - rank) for question, item, rank in found]
    qrels = [ir_measures.Qrel(question, item, 1) for question, item in right]
    values = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    return {name: float(values[measure]) for name, measure in measures.items()}


class Questions:
    """The captions of a split, and how alike each is to every item of it.

    Attributes:
        items: (video, captions) of each item of the gallery, in their order.
        questions: (video, caption), those of an item together.
        targets: the item that answers each question, (Q,).
        groups: the video of each question, (Q,), from 0.
        combinations: those of the table that hold media, fewest modalities first.
    """

    def __init__(self, project: Project, *, split: str, captions: str) -> None:
        if split not in ("train", "val", "test"):
            raise InputError(f"split {split!r}: allowed are train, val, test")
        if captions not in ("first", "all"):
            raise InputError(f"captions {captions!r}: allowed are first, all")
        self.project, self.split = project, split
        self.session = SearchSession(project)
        condition = f"split = '{split}'" if split != "train" else "(split = 'train' OR split IS NULL)"
        rows = project.table.get(
            where=f"{condition} AND model = '{self.session.checkpoint.digest}'",
            columns=["video", "path", "captions", "modalities", "start_seconds", "end_seconds", "vector"],
        )
        self._rows = [((row["video"], tuple(row["captions"])), row) for row in rows if row["captions"]]
        self.items = sorted({item for item, _ in self._rows})
        if len(self.items) < 2:
            there = {clip.split or "train" for video in project.collection.videos for clip in video.spans}
            others = ", ".join(sorted(there)) or "none"
            raise InputError(
                f"the split {split!r} has {len(self.items)} clips with captions: retrieval needs at least 2; the"
                f" manifest has {others} (rows without one are for training): write a column `split`, or give --split"
            )
        asked = [
            (target, caption)
            for target, (_, of_item) in enumerate(self.items)
            for caption in (of_item if captions == "all" else of_item[:1])
        ]
        self.questions = [(self.items[target][0], caption) for target, caption in asked]
        self.targets = np.array([target for target, _ in asked])
        self.groups = np.unique([video for video, _ in self.questions], return_inverse=True)[1]
        media = [one for one in project.config.store.combinations if "text" not in one.split("+")]
        stored = {row["modalities"] for _, row in self._rows}
        self.combinations = sorted(stored.intersection(media), key=lambda one: (one.count("+"), media.index(one)))

    def found(self, combination: str) -> set[tuple[str, tuple[str, ...]]]:
        """The items that have a row of a combination."""
        return {item for item, row in self._rows if row["modalities"] == combination}

    @property
    def num_unasked(self) -> int:
        return len(self.questions) - len(self._asked[1])

    @property
    def num_absent(self) -> int:
        there = {video for video, _ in self.items}
        return sum(
            video.video not in there and any(in_split(span.split, self.split) and span.captions for span in video.spans)
            for video in self.project.collection.videos
        )

    @cached_property
    def _asked(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Unit vectors (A, D) of the questions that have a known word, and their places. The others count as misses."""
        from ...train.data import sample_batch
        from ...train.evaluate import embed_batch

        samples, places = [], []
        for place, (_, caption) in enumerate(self.questions):
            with suppress(InputError):
                samples.append({"text": [self.session.words(caption)]})
                places.append(place)
        if not samples:
            raise InputError(
                "none of the captions of this split has a known word: train with captions that share words"
            )
        limits = self.session.resolved.limits
        batches = (sample_batch(some, limits) for some in in_batches(samples, QUERIES_PER_BATCH))
        vectors = [embed_batch(self.session.model, batch, ["text"])["text"] for batch in batches]
        return np.concatenate(vectors), np.array(places)

    @property
    def places(self) -> NDArray[np.int64]:
        """The questions that were asked, (A,)."""
        return self._asked[1]

    def best_windows(self, combination: str) -> Callable[[int, int], Candidate]:
        """What gives the window of an item that a question is nearest to, by the row of the question and the item."""
        vectors, _ = self._asked
        windows: dict[int, list[Any]] = {}
        position = {item: index for index, item in enumerate(self.items)}
        for item, row in self._rows:
            if row["modalities"] == combination:
                windows.setdefault(position[item], []).append(row)

        def best(question: int, item: int) -> Candidate:
            several = windows[item]
            nearest = 0
            if len(several) > 1:
                nearest = int(np.argmax([vectors[question] @ np.asarray(row["vector"], np.float32) for row in several]))
            row = several[nearest]
            return Candidate(self.project.base / row["path"], row["start_seconds"], row["end_seconds"])

        return best

    def similarity(self, combination: str) -> NDArray[np.float32]:
        """Cosine of each question that was asked with the best window of each item, (A, items).

        An item without this combination is never found: its column is -2.
        """
        vectors, _ = self._asked
        best = np.full((len(vectors), len(self.items)), -2.0, np.float32)
        position = {item: index for index, item in enumerate(self.items)}
        for item, row in self._rows:
            if row["modalities"] == combination:
                column = best[:, position[item]]
                np.maximum(column, vectors @ np.asarray(row["vector"], np.float32), out=column)
        return best

    def ranks(self, similarity: NDArray[np.floating]) -> NDArray[np.float64]:
        """The rank of each question's answer from 0, (Q,); NaN for a question that could not be asked."""
        from ...train.evaluate import retrieval_ranks

        _, places = self._asked
        ranks = np.full(len(self.questions), np.nan)
        ranks[places] = retrieval_ranks(similarity, targets=self.targets[places])
        return ranks

    def metrics(self, similarity: NDArray[np.floating]) -> dict[str, float]:
        from ...train.evaluate import retrieval_metrics

        _, places = self._asked
        found = retrieval_metrics(similarity, targets=self.targets[places], num_queries=len(self.questions))
        return {name: float(getattr(found, name)) for name in (*COLUMNS, "meanr")}

    def trec(self, similarity: NDArray[np.floating]) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
        """Each question's best items as (question, item, rank from 1), and the right ones as (question, item).

        Ranks are distinct: tools order what scores alike by its name. Items that score alike have the gallery's order
        here, which knows of no question.
        """
        spans: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
        for item, row in self._rows:
            begun, ended = spans.get(item, (row["start_seconds"], row["end_seconds"]))
            spans[item] = min(begun, row["start_seconds"]), max(ended, row["end_seconds"])
        items = [
            f"{place}:{quote(item[0])}#t={spans[item][0]:g},{spans[item][1]:g}"
            for place, item in enumerate(self.items, 1)
        ]
        counted: Counter[int] = Counter()
        questions = []
        for target in self.targets:
            counted[target] += 1
            questions.append(f"{items[target]}/{counted[target]}")
        found = [
            (questions[place], items[column], rank)
            for place, row in zip(self._asked[1], similarity, strict=True)
            for rank, column in enumerate(np.argsort(-row, kind="stable")[:RUN_DEPTH], 1)
        ]
        return found, [(question, items[target]) for question, target in zip(questions, self.targets, strict=True)]
