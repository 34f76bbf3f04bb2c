"""The questions of a project as training and evaluation read them: the frames of their clips, texts and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..._vocabulary import ConfigError
from ...train.data import QuestionFeatures
from ..console import count_of
from ..project import Question, in_split
from .state import State
from .survey import fingerprint_of
from .tasks import text_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The questions of one split that can be asked.

    Attributes:
        questions: as they were given.
        features: of each of them.
        answers: the list that numbers of answers are of; empty for questions with options.
        left_out: how many cannot be asked, by the reason.
    """

    questions: tuple[Question, ...]
    features: tuple[QuestionFeatures, ...]
    answers: tuple[str, ...]
    left_out: Counter[str]

    @property
    def num_unknown(self) -> int:
        """Questions whose answer is not known: teaching nothing, and never right."""
        return sum(one.answer < 0 for one in self.features)

    def lines(self) -> list[str]:
        """What a person should know of them."""
        known = [f"{count_of(self.num_unknown, 'question')} without a known answer"] if self.num_unknown else []
        return [*known, *(f"{count_of(count, 'question')} left out: {why}" for why, count in self.left_out.items())]


def ask(state: State, *, split: str, answers: Sequence[str] | None = None) -> Asked:
    """The questions of a split, of the kind that the project's recipe is for.

    Args:
        state: of the project.
        split: train, val or test.
        answers: the list of answers of open-ended questions; None takes the most frequent ones of this split, as many
            as the model has room for.

    Raises:
        ConfigError: open-ended questions, and a model without room for answers; a model that embeds nothing.
    """
    project, text = state.project, state.resolved.features.text
    wants_options = project.recipe.task == "multiple_choice"
    config = _config_of(state)
    fills_blanks = getattr(config, "task", None) == "fill_blank"
    if not getattr(config, "embeds", True):
        raise ConfigError(
            f"model.config.projections: {project.model_name} would have no vectors of its clips: set it to true"
        )
    frames = {
        video.name: tuple(one.fingerprint for one in video.modalities().get("video", ()))  # type: ignore[call-overload]
        for video in state.survey.videos
        if video.duration_seconds > 0 and not video.missing
    }
    chosen: list[tuple[Question, tuple[str, ...]]] = []
    left_out: Counter[str] = Counter()
    for one in project.questions.questions:
        if not in_split(one.split, split) or bool(one.options) != wants_options:
            continue
        texts = () if text is None else tuple(fingerprint_of(text_digest(each), text) for each in one.texts)
        entries = [project.store.entry(name) for name in texts]
        if not frames.get(one.video):
            left_out["its video has no frames"] += 1
        elif not texts or not all(entry is not None and entry.num_rows for entry in entries):
            left_out["it has no known word"] += 1
        elif fills_blanks and "[MASK]" not in one.question:
            left_out["it has no [MASK] to fill in"] += 1
        else:
            chosen.append((one, texts))
    if answers is None:
        answers = () if wants_options else _frequent(state, [one.answer for one, _ in chosen if one.answer is not None])
    numbers = {answer: number for number, answer in enumerate(answers)}
    features = tuple(
        QuestionFeatures(
            clip=f"{one.video} ({one.question or 'options'})",
            features={"video": frames[one.video]},
            texts=texts,
            answer=-1
            if one.answer is None
            else one.options.index(one.answer)
            if one.options
            else numbers.get(one.answer, -1),
            **{name: value for name in ("start_seconds", "end_seconds") if (value := getattr(one, name)) is not None},
        )
        for one, texts in chosen
    )
    return Asked(
        questions=tuple(one for one, _ in chosen), features=features, answers=tuple(answers), left_out=left_out
    )


def _config_of(state: State) -> Any:
    """The configuration of the project's model: that of a checkpoint where one is given."""
    from ...fuse import model_config

    project, given = state.project, state.resolved.given
    if given is not None:
        return model_config(given.model, **given.config)
    widths = project.widths(state.resolved.features.specs())
    return model_config(project.model_name, **{**widths, **project.model_options})


def _frequent(state: State, answers: Sequence[str]) -> tuple[str, ...]:
    """The answers that come most often, as many as the model has room for; of equals the first ones."""
    room, project = getattr(_config_of(state), "num_answers", 0), state.project
    if not room:
        raise ConfigError(
            f"model.config.num_answers: {project.model_name} has no room for answers, and {project.recipe.name} is for"
            " open-ended questions: set how many answers there are at most"
        )
    return tuple(answer for answer, _ in Counter(answers).most_common(room))
