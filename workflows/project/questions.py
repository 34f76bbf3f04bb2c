"""Questions about videos: a manifest (.jsonl, .csv, .parquet) with the columns `video`, `question` and `answer`.

Open-ended: `answer` is a text, one of a closed list that training learns. With `options` (a list of texts) `answer` is
the number of the right one, from 0. Without `answer` it is unknown: nothing is learned from it, and no guess is right.
Optional: `start_seconds`, `end_seconds`, and `about`, by which accuracies are grouped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..._vocabulary import ConfigError
from .collection import Video, in_split
from .manifest import Scalar, Span, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about a video, or a span of it.

    Attributes:
        video: the video's identity.
        split: of the video, or of the span; None for training.
        question: the words; may be empty where there are options, which are then read alone.
        options: to choose from; none of an open-ended question.
        answer: the right answer, or the right option; None where it is unknown.
        about: what it is about.
        start_seconds: first instant; None: of the video.
        end_seconds: first instant after it; None: of the video.
    """

    video: str
    split: str | None
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    about: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What a model reads: the question, or a text for each option."""
        return question_texts(self.question, self.options)


def question_texts(question: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """What a model reads of a question: its words, or with options a text for each.

    All-in-one's form (showlab/all-in-one@ae0e288, its data set of TGIF-QA): the question, all options, the option.
    Without a question an option is read alone, as in multiple choice among captions.
    """
    if not options or not question:
        return tuple(options) or (question,)
    listed = " ".join(options)
    return tuple(f"{question} Options: {listed} Answer: {option}" for option in options)


class Questions(NamedTuple):
    """What a file of questions holds.

    Attributes:
        questions: about videos of the collection.
        unmatched: `video` values of rows that name no video of the collection.
    """

    questions: tuple[Question, ...] = ()
    unmatched: tuple[str, ...] = ()

    def texts(self, split: str | None = None) -> Iterator[str]:
        """What a model reads of them, of all or of one split."""
        for one in self.questions:
            yield from one.texts if split is None or in_split(one.split, split) else ()


def read_questions(path: Path, videos: Sequence[Video]) -> Questions:
    """Read a file of questions.

    Raises:
        ConfigError: it cannot be read, a row holds no question or an answer that cannot be; the row is named.
    """
    by_path = {video.path: video for video in videos}
    found, unmatched = [], []
    for number, (name, row) in enumerate(read_manifest(path, needs_captions=False), 1):
        video = by_path.get(Path(os.path.abspath(path.parent / os.path.expanduser(name))))  # noqa: PTH100, PTH111
        try:
            if video is None:
                question_of(row, video=name, split=None)
                unmatched.append(name)
                continue
            splits = {span.split for span in video.spans if _overlap(span, row)}
            if len(splits) > 1:
                raise ValueError(f"{name!r} is in several splits there: give a span in one of them")
            found.append(question_of(row, video=video.video, split=next(iter(splits), None)))
        except ValueError as fault:
            raise ConfigError(f"{path}, question {number}: {fault}") from None
    return Questions(tuple(found), tuple(unmatched))


def question_of(row: Span, *, video: str, split: str | None) -> Question:
    """The question of a row. Raises ValueError for what a row cannot hold."""
    words = {name: row.metadata.get(name) for name in ("question", "about")}
    question, about = ("" if one is None else " ".join(str(one).split()) for one in words.values())
    options = _options(row.metadata.get("options"))
    answer = row.metadata.get("answer")
    answer = answer.strip() or None if isinstance(answer, str) else answer
    if not question and not options:
        raise ValueError("no `question`: give words, or `options` to choose from")
    if row.split is not None and row.split != (split or "train"):
        raise ValueError(f"split {row.split!r}, and the video is in {split or 'train'!r} there: leave it out")
    right: str | None = None if answer is None else str(answer)
    if options and answer is not None:
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
            raise ValueError(f"answer {answer!r}: the number of the right option, from 0 to {len(options) - 1}")
        right = options[answer]
    return Question(
        video=video,
        split=split,
        question=question,
        options=options,
        answer=right,
        about=about,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
    )


def _options(given: Scalar) -> tuple[str, ...]:
    """The options of a row, which a manifest keeps as JSON."""
    if given is None or given == "":
        return ()
    try:
        listed = json.loads(str(given))
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
        raise ValueError(f"options must be a list of texts, found {str(given)!r:.60}")
    options = tuple(" ".join(one.split()) for one in listed)
    if len(set(options)) < max(2, len(options)):
        raise ValueError(f"options must be two different texts or more, found {str(given)!r:.60}")
    return options


def _overlap(span: Span, row: Span) -> bool:
    """Whether a row of the collection's manifest speaks of the time that a question asks about."""
    begins, ends = (each.start_seconds or 0.0 for each in (span, row)), (each.end_seconds for each in (row, span))
    return all(end is None or begin < end for begin, end in zip(begins, ends, strict=True))
