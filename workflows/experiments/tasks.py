"""Questions and captions on held-out clips: how good a project's model is at the task that its recipe is for.

Each figure comes with 95 % over draws of the split's videos, and with what is reached without looking at the clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError
from ..console import count_of
from ..project import Project, Question, in_split
from ..search import trained
from ..sync import ClipState, in_batches, loaded_model, take_state
from ..sync import ask as questions_of_split
from .evaluate import Interval

_CLIPS_AT_A_TIME = 32
_TRIED = 200
"""Training captions of which the one that fits most clips is taken where every clip gets the same."""


class TaskEvaluation(Settings):
    """How good a model is at a task, and what is reached without the clips."""

    task: str
    """open_answer, multiple_choice or captions."""
    split: str
    """Whose clips are asked about."""
    num_asked: int
    """Questions, or clips that get a caption."""
    num_unknown: int = 0
    """Questions whose answer is not known, or not of the list that the model learned: they count as wrong."""
    left_out: Mapping[str, int] = {}
    """What could not be asked, by the reason."""
    figures: Mapping[str, Mapping[str, float]]
    """Who answers ("model", "majority", ...) to figures by name: accuracy in percent; BLEU-4, METEOR, CIDEr, a hundred
    times each, as papers print them."""
    intervals: Mapping[str, Mapping[str, Interval]]
    """The same, 95 % of each; a figure of all captions together has none."""
    differences: Mapping[str, Mapping[str, Interval]]
    """95 % of the model's figure less another's, by the other's name."""
    by_about: Mapping[str, float] = {}
    """The model's accuracy by what the questions are about."""

    def lines(self) -> Iterator[str]:
        what = "clip" if self.task == "captions" else "question"
        yield f"{self.task}: {count_of(self.num_asked, what)} of the split {self.split!r}; in brackets 95 %"
        if self.num_unknown:
            yield f"{count_of(self.num_unknown, what)} whose answer the model cannot give, counted as wrong"
        yield from (f"{count_of(count, what)} left out: {why}" for why, count in self.left_out.items())
        for who, figures in self.figures.items():
            cells = (f"{name} {value:.1f}{_bounds(self.intervals[who], name)}" for name, value in figures.items())
            yield f"  {who:22}{'  '.join(cells)}"
        for other, spread in self.differences.items():
            cells = (f"{name} [{low:+.1f}, {high:+.1f}]" for name, (low, high) in spread.items())
            yield f"  model less {other}: {'  '.join(cells)}"
        yield from (f"  about {about}: {value:.1f}" for about, value in self.by_about.items())


def _bounds(spread: Mapping[str, Interval], name: str) -> str:
    return f" [{spread[name][0]:.1f}, {spread[name][1]:.1f}]" if name in spread else ""


def evaluate_task(project: Project, *, split: str = "test") -> TaskEvaluation:
    """Judge a project's model by the task that its recipe is for.

    Raises:
        InputError: nothing to ask in this split.
        ConfigError: a recipe for retrieval, which `evaluate` judges.
        FrameloomError: no model yet.
    """
    if split not in ("train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    if project.recipe.task == "captions":
        return _captions(project, split)
    if project.recipe.task == "retrieval":
        raise ConfigError(f"training.recipe: {project.recipe.name} is for retrieval, and not for questions or captions")
    return _answers(project, split)


def _answers(project: Project, split: str) -> TaskEvaluation:
    from ...train import read_checkpoint
    from ...train.data import question_data
    from ...train.evaluate import QuestionText, TextOnly, chosen_answers

    def words(one: Question) -> QuestionText:
        return QuestionText(question=one.question, options=one.options, answer=one.answer)

    checkpoint, state = trained(project), take_state(project)
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)
    answers = read_checkpoint(checkpoint.folder).provenance.get("answers")
    if answers is None:
        raise ConfigError(f"{checkpoint.folder} keeps no list of answers: it was not trained on questions here")
    asked = questions_of_split(state, split=split, answers=answers)
    if not asked.questions:
        raise InputError(f"no question of the split {split!r} can be asked (left out: {dict(asked.left_out)})")
    is_open = project.recipe.task == "open_answer"
    data = question_data(str(project.store.root), asked.features, state.resolved.limits)
    places = range(len(asked.questions))
    guesses: dict[str, list[str]] = {}
    for who, blind in (("model", False), ("model, black frames", True)):
        numbers = chosen_answers(
            model, data.batches(places), num_answers=len(answers) if is_open else None, blind=blind
        )
        listed = (answers if is_open else one.options for one in asked.questions)
        guesses[who] = [each[number] for each, number in zip(listed, numbers.tolist(), strict=True)]
    text_only = TextOnly(words(one) for one in questions_of_split(state, split="train", answers=answers).questions)
    guesses["question alone"] = [text_only.guess(words(one)) for one in asked.questions]
    guesses["majority"] = [text_only.majority(words(one)) for one in asked.questions]
    right = {
        who: np.array([100.0 * (guess == one.answer) for guess, one in zip(given, asked.questions, strict=True)])
        for who, given in guesses.items()
    }
    about = [one.about for one in asked.questions]
    return TaskEvaluation(
        task=project.recipe.task,
        split=split,
        num_asked=len(asked.questions),
        num_unknown=asked.num_unknown,
        left_out=asked.left_out,
        by_about={
            name: float(right["model"][[each == name for each in about]].mean()) for name in sorted({*about} - {""})
        },
        **_spread({who: {"accuracy": each} for who, each in right.items()}, [one.video for one in asked.questions]),
    )


def _captions(project: Project, split: str) -> TaskEvaluation:
    from ...train.data import clip_data
    from ...train.evaluate import bleu4, cider, meteor

    checkpoint, state = trained(project), take_state(project)
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)

    def captioned(wanted: str) -> list[ClipState]:
        clips = (one for one in state.clips if in_split(one.clip.split, wanted) and one.clip.captions)
        return [one for one in clips if one.inputs.has("video")]

    clips, learned = captioned(split), captioned("train")
    if len(clips) < 2:
        raise InputError(f"the split {split!r} has {len(clips)} clips with captions: CIDEr needs at least 2")
    references = [list(one.clip.captions) for one in clips]
    written: dict[str, list[str]] = {"model": [], "model, black frames": []}
    for some in in_batches(clips, _CLIPS_AT_A_TIME):
        data = clip_data(str(project.store.root), [one.inputs for one in some], state.resolved.limits)
        for batch in data.batches(range(len(some))):
            written["model"] += captions_of(project, model, batch["video"])
    black = batch["video"]._replace(values=batch["video"].values[:1] * 0, mask=batch["video"].mask[:1])
    written["model, black frames"] = captions_of(project, model, black) * len(clips)
    tried = [one.clip.captions[0] for one in learned[:_TRIED]]
    if len(tried) > 1:
        # The training caption that says most of what is said of the other clips.
        means = [float(meteor([each] * len(tried), [[one] for one in tried]).mean()) for each in tried]
        written["majority"] = [tried[int(np.argmax(means))]] * len(clips)
    figures: dict[str, dict[str, NDArray[np.float64]]] = {
        who: {"METEOR": 100 * meteor(each, references), "CIDEr": 100 * cider(each, references)}
        for who, each in written.items()
    }
    found = _spread(figures, [one.clip.video for one in clips])
    for who, each in written.items():
        found["figures"][who] = {"BLEU-4": 100 * bleu4(each, references), **found["figures"][who]}
    return TaskEvaluation(**{"task": "captions", "split": split, "num_asked": len(clips), **found})


def captions_of(project: Project, model: object, video: object) -> list[str]:
    """What a model writes of clips, in words."""
    import torch

    text = project.resolve().features.text
    write = getattr(model, "captions", None)
    if write is None or text is None:
        raise ConfigError(f"the model {project.model_name} writes no captions: choose all_in_one")
    with torch.inference_mode():
        ids, mask = write(video)
    speller = text.request.build()
    return [speller.spelled(row[real].tolist()) for row, real in zip(ids.cpu(), mask.cpu(), strict=True)]


def _spread(figures: Mapping[str, Mapping[str, NDArray[np.float64]]], videos: list[str]) -> dict[str, Any]:
    """Means, their 95 %, and 95 % of the model's less each other's, over the same draws of videos."""
    from ...train.evaluate import intervals, redrawn_means

    groups = np.unique(videos, return_inverse=True)[1]
    draws = {who: redrawn_means(each, groups) for who, each in figures.items()}
    ours = draws["model"]
    return {
        "figures": {who: {name: float(one.mean()) for name, one in each.items()} for who, each in figures.items()},
        "intervals": {who: intervals(each) for who, each in draws.items()},
        "differences": {
            who: intervals({name: ours[name] - each[name] for name in each})
            for who, each in draws.items()
            if who != "model"
        },
    }
