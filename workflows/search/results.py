"""What a question is answered with: clips, their scores by name, and why each of them answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..._settings import Settings
from ..._vocabulary import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa


class Score(Settings):
    """One number that says how well a clip answers.

    Attributes:
        name: `sight`, `sound` or another modality, or several joined by `+`: cosine similarity of the clip's vector
            with the question's, from -1 to 1; `words`: BM25 of the captions, 0 or more; `speech`: BM25 of what is said;
            `fused`: the sum of 1 / (60 + rank) over these orders; `rerank`: the logit of a joint head, of any size.
        value: the number.
        better: which direction is better.
    """

    name: str
    value: float
    better: Literal["higher", "lower"] = "higher"


class Worth(Settings):
    """What one word of the question is worth: the cosine that the clip loses without it. Below 0, it is in the way."""

    word: str
    value: float


class Stretch(Settings):
    """Seconds ``[start_seconds, end_seconds)`` of a clip, and the cosine of these alone with the question."""

    start_seconds: float
    end_seconds: float
    value: float


class Said(Settings):
    """A segment ``[start_seconds, end_seconds)`` of what is said in a clip, and which of the words asked it has."""

    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[str, ...]


class Explanation(Settings):
    """Why a clip answers.

    Attributes:
        senses: `sight`, `sound`, `sight+sound`: the cosine of each of the clip's rows with the question.
        words: of the question, in its order; none where it has no words.
        seconds: of the clip, in their order.
        speech: segments in which words of the question are said, those with the most of them first.
    """

    senses: dict[str, float]
    words: tuple[Worth, ...]
    seconds: tuple[Stretch, ...]
    speech: tuple[Said, ...] = ()

    def lines(self, most: int = 5) -> list[str]:
        """The senses, the words that are worth most and the best seconds, a line for each."""
        found = [", ".join(f"{name} {value:.3f}" for name, value in self.senses.items())] if self.senses else []
        words = sorted(self.words, key=lambda one: -one.value)[:most]
        if words:
            found.append("words: " + ", ".join(f"{one.word} {one.value:+.3f}" for one in words))
        best = sorted(self.seconds, key=lambda one: -one.value)[:most]
        spans = ", ".join(f"{one.start_seconds:.1f}-{one.end_seconds:.1f} {one.value:.3f}" for one in best)
        said = (f"said {one.start_seconds:.1f}-{one.end_seconds:.1f}: {one.text}" for one in self.speech[:most])
        return [*found, *([f"seconds: {spans}"] if best else []), *said]


class Candidate(NamedTuple):
    """A clip to be judged: a span of a file."""

    path: Path
    start_seconds: float
    end_seconds: float


class Reranking(Settings):
    """What a second stage did.

    Attributes:
        model: that judged.
        candidates: of the first stage.
        judged: pairs of the question and a candidate; the others keep their order, behind these.
        seconds: that it took.
        budget_seconds: that it might take; None: no limit.
        decoded: clips whose frames were not stored.
        problems: why candidates have no frames.
    """

    model: str
    candidates: int
    judged: int
    seconds: float
    budget_seconds: float | None = None
    decoded: int = 0
    problems: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        done = f"{self.judged} of {self.candidates} candidates judged by {self.model} in {self.seconds:.2f} s"
        yield done + (f", the frames of {self.decoded} decoded" if self.decoded else "")
        if self.judged + len(self.problems) < self.candidates:
            yield f"the budget of {self.budget_seconds:g} s is spent: the other candidates keep their order"
        yield from self.problems


class Result(Settings):
    """One answer. Fields can be read as attributes or by name, `result["video"]`.

    Attributes:
        video: the video's identity in the collection.
        path: where the file lay when it was indexed.
        start_seconds: first instant of the clip.
        end_seconds: first instant after it.
        score: the number that answers are in the order of: cosine similarity with the question, from -1 to 1; with
            `hybrid` the fused one; of speech alone its BM25; of what a second stage judged its logit.
        rank_before: the place, from 1, among the candidates of a second stage; None without one.
        scores: every number that was computed of the clip, by name.
        clip: the clip's id, good for `like=`.
        modalities: the media of the clip that were compared, such as ``video+audio``.
        split: the clip's split, if the collection has splits.
        captions: what the collection says of the clip.
        metadata: the manifest's other columns.
        merged: how many hits the moment is made of (see `moments.py`); its span is theirs, all else the best one's.
        explanation: why it answers, where that was asked for.
    """

    video: str
    path: str
    start_seconds: float
    end_seconds: float
    score: float
    rank_before: int | None = None
    clip: str
    modalities: str
    scores: tuple[Score, ...] = ()
    split: str | None = None
    captions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    merged: int = 1
    explanation: Explanation | None = None

    @property
    def moment_seconds(self) -> float:
        """The instant to look at: the middle of the best stretch or segment of an explanation, of the clip without."""
        why = self.explanation
        best: Any = next(iter(() if why is None else why.speech), self)
        best = max(() if why is None else why.seconds, key=lambda one: one.value, default=best)
        return float(best.start_seconds + best.end_seconds) / 2

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> Iterator[str]:
        """The field names, so that `dict(result)` and `{**result}` work."""
        return iter(type(self).model_fields)


class Results(list[Result]):
    """Answers, best first: a list that can become a table.

    Attributes:
        reranking: what a second stage did; None without one.
        notes: what a person should know of them, such as words of the question that were left out.
    """

    def __init__(
        self, answers: Iterable[Result] = (), *, reranking: Reranking | None = None, notes: Sequence[str] = ()
    ) -> None:
        super().__init__(answers)
        self.reranking = reranking
        self.notes = tuple(notes)

    def to_arrow(self) -> pa.Table:
        """A row for each answer. The manifest's columns lie in `metadata`, an explanation's parts in `explanation`."""
        import pyarrow as pa

        nothing = Result(video="", path="", start_seconds=0, end_seconds=0, score=0, clip="", modalities="")
        return pa.Table.from_pylist([one.as_dict() for one in self or [nothing]]).slice(0, len(self))

    def to_pandas(self) -> Any:
        """As `to_arrow`, as a DataFrame. Raises ConfigError where pandas is not installed."""
        try:
            import pandas  # noqa: F401  pyarrow names it only when it fails
        except ModuleNotFoundError:
            raise ConfigError("a DataFrame needs pandas. Type: pip install pandas; `to_arrow` needs nothing") from None
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        """What a notebook shows: the first answers as a table, each with the picture at its moment."""
        from .thumbnails import html_of

        return html_of(self)


def reranking_of(answers: Sequence[Result]) -> Reranking | None:
    """What a second stage did, where there was one."""
    return answers.reranking if isinstance(answers, Results) else None
