"""A question about one video, answered by the project's model, or by one of its authors'.

A model answers in one of three ways. One with a head of answers (All-in-one, Clover) scores those that it learned,
whose names are in its checkpoint, or given where the authors' file has none. VindLU's QA model ranks given answers by
how probable it is to write each. Any other model with a joint head is asked how well the question with each given
answer behind it goes with the video, which needs no training for questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError, canonical_json
from ...train import read_checkpoint, read_official
from ...train.data import sample_batch
from ..project import Project
from .rerank import moved, within
from .session import SearchSession

if TYPE_CHECKING:
    from ...fuse import Tokens

VINDLU_QA = "vindlu_qa"
MOST_ANSWERS = 10_000
Way = Literal["head", "ranking", "matching"]


class Answered(Settings):
    """One answer: the model's score of it, higher is better, and its share among those that were scored."""

    answer: str
    score: float
    probability: float


class Reply(Settings):
    """The answers to one question, the best first."""

    video: str
    question: str
    model: str
    way: Way
    """head: the model chose among the answers that it learned; ranking: it ranked given ones by how probable they are;
    matching: its joint head judged the question with each given answer behind it."""
    answers: tuple[Answered, ...]

    def lines(self) -> Iterator[str]:
        yield from (f"{one.probability:6.1%}  {one.answer}" for one in self.answers)


def ask(
    project: Project,
    video: Path,
    question: str,
    *,
    answers: Sequence[str] = (),
    span: tuple[float, float] = (-np.inf, np.inf),
    weights: Path | None = None,
    model: str | None = None,
    top: int = 5,
) -> Reply:
    """Answer a question about a file, whether it is in the collection or not.

    Args:
        project: whose checkpoint answers, and whose `pixels` and `wordpiece` read the file and the question.
        video: the file.
        question: words.
        answers: to choose from; none takes those that the model learned.
        span: seconds of the file that are looked at.
        weights: the authors' published file, in the place of the checkpoint.
        model: what is in that file: all_in_one, clover, vindlu, or vindlu_qa.
        top: how many answers are given.

    Raises:
        InputError: no word that is known, no answer, one that is there twice, a span without a picture.
        ConfigError: a model that cannot answer, or not without answers to choose from.
        MediaError: a file that cannot be read.
        FrameloomError: no trained checkpoint yet.
    """
    if not question.strip():
        raise InputError("an empty question: give at least one word")
    if top < 1:
        raise InputError(f"top = {top}: 1 answer or more can be asked for")
    given = [one.strip() for one in answers]
    if not all(given) or len(set(given)) < len(given) or len(given) > MOST_ANSWERS:
        raise InputError(f"{len(given)} answers: give each once, with a word at least, and up to {MOST_ANSWERS:,}")
    known: list[str] = []
    if weights is None:
        session = SearchSession(project)
        known = list(read_checkpoint(session.checkpoint.folder).provenance.get("answers", ()))
    else:
        session = SearchSession(project, given=_published(weights, model))
    if "num_frames" not in session.resolved.limits:
        raise ConfigError(f"{session.model.name} reads rows of features and answers no questions: use all_in_one")
    frames = within(session.frames_of(video), *span)
    spec = canonical_json(session.resolved.features.media[0].spec.identity())
    device = next(session.model.parameters()).device
    clip = moved(sample_batch([{"video": frames}], session.resolved.limits, spec=spec)["video"], device)
    way, scores, names = _scores(session, question, clip, given, known)
    order = np.argsort(-scores, kind="stable")
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    found = (Answered(answer=names[one], score=scores[one], probability=shares[one]) for one in order[:top].tolist())
    name = session.model.name
    return Reply(video=str(video), question=question, model=name, way=way, answers=tuple(found))


def _published(weights: Path, model: str | None) -> Any:
    """A model from its authors' file, in evaluation mode."""
    from ...fuse import VindLUQA, create_model

    if model is None:
        raise ConfigError(f"--weights {weights}: say by --model what it is: all_in_one, clover, vindlu or {VINDLU_QA}")
    made = VindLUQA() if model == VINDLU_QA else create_model(model)
    return made.from_official(read_official(weights)).eval()


def _scores(
    session: SearchSession, question: str, clip: Tokens, given: Sequence[str], known: Sequence[str]
) -> tuple[Way, np.ndarray, list[str]]:
    """How the model answers, its scores (A,) in float64, and the answers that they are of."""
    import torch

    model = session.model

    def pieces(texts: Sequence[str]) -> Tokens:
        samples = [{"text": [session.words(text)]} for text in texts]
        return moved(sample_batch(samples, session.resolved.limits)["text"], clip.mask.device)

    is_for_answers = getattr(model.config, "task", "open_answer") in ("open_answer", "fill_blank")
    num_answers = getattr(model.config, "num_answers", 0) if is_for_answers else 0
    with torch.inference_mode():
        if num_answers and (known or not given or len(given) == num_answers):
            names = list(known or given)
            if not names:
                raise ConfigError(f"the names of the {num_answers} answers are not in the checkpoint: give --answers")
            scores = model.question_scores({"text": pieces([question]), "video": clip})[0]
            scores = scores[: len(known) or None]  # a head may have room for more answers than there were
            if len(scores) != len(names):
                raise ConfigError(f"{model.name} scores {len(scores)} answers, and {len(names)} names were given")
            if left := set(given) - set(names):
                raise InputError(f"{model.name} did not learn the answer {min(left)!r}: leave it out")
            kept = [place for place, name in enumerate(names) if not given or name in given]
            return "head", scores.double().cpu().numpy()[kept], [names[place] for place in kept]
        if not given:
            raise ConfigError(f"{model.name} has learned no answers: give some to choose from, as --answers")
        if model.name == VINDLU_QA:
            ranked = model.answer(pieces([question]), clip, pieces(given), num_candidates=len(given))
            scores = torch.empty(len(given), dtype=torch.float64)
            scores[ranked.indices[0].cpu()] = ranked.probabilities[0].double().log().cpu()
            return "ranking", scores.numpy(), list(given)
        model.check_scores()
        texts = model.states("text", pieces([f"{question} {one}" for one in given]))
        return (
            "matching",
            model.score(text=texts, video=model.states("video", clip)).double().cpu().numpy(),
            list(given),
        )
