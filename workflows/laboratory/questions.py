"""Questions about what is seen in the laboratory's clips: open-ended ones, and ones with options to choose from.

An answer is one word for the value of one attribute, of a closed list. Values are drawn evenly, so that no answer is
much more frequent than the others of its attribute, and the words of a question say nothing of the clip. The order of
events gives two questions: what happens first, and what afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .attributes import ATTRIBUTES

QUESTIONS_NAME = "questions.jsonl"
_ASKING = 2
_MAX_OPTIONS, _LEAST_OPTIONS = 5, 3
_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "colour": ("what colour are the shapes", "which colour do the figures have"),
    "background": ("what colour is the ground", "which colour does the wall behind have"),
    "texture": ("what pattern does the ground have", "how is the wall behind patterned"),
    "size": ("how large are the shapes", "of what size are the figures"),
    "number": ("how many shapes are there", "what is the number of figures"),
    "shape": ("what kind of shapes are there", "which figures are seen"),
    "direction": ("which way do the shapes move", "where do the figures drift to"),
    "first": ("what do the shapes do first", "what do the figures begin with"),
    "afterwards": ("what do the shapes do afterwards", "what do the figures end with"),
}
_EVENTS = ("first", "afterwards")


def answers_of(about: str) -> tuple[str, ...]:
    """The closed list of answers to questions about one thing."""
    if about in _EVENTS:
        return tuple(dict.fromkeys(value.split("-")[0] for value in ATTRIBUTES["order"].values))
    if about == "direction":
        return ATTRIBUTES[about].values
    return tuple(words[0] for words in ATTRIBUTES[about].words.values())


def answer_of(about: str, traits: Mapping[str, str]) -> str:
    """The answer that a clip of these traits has."""
    if about in _EVENTS:
        return traits["order"].split("-")[_EVENTS.index(about)]
    attribute = ATTRIBUTES[about]
    return answers_of(about)[attribute.values.index(traits[about])]


def plan_questions(
    clips: Iterable[tuple[str, Mapping[str, str]]], *, varying: Collection[str], per_clip: int, seed: int
) -> list[dict[str, Any]]:
    """So many open-ended questions about each clip, and as many with options; each about another thing.

    Args:
        clips: file and traits of each; the file's stem is a number in base 16, which seeds its questions.
        varying: attributes that differ from clip to clip; of those that are seen it is asked.
        per_clip: fewer where there are not so many things to ask about.
        seed: of the draws.

    Returns:
        Rows of a questions file: `video`, `question`, `answer` and `about`; of those with options `options` too, of
        which `answer` is the number, from 0. A question has options where there are three answers or more.
    """
    seen = [name for name in varying if ATTRIBUTES[name].sense == "seen"]
    things = [about for name in seen for about in (_EVENTS if name == "order" else (name,))]
    rows: list[dict[str, Any]] = []
    for video, traits in clips:
        rng = np.random.default_rng([seed, _ASKING, int(Path(video).stem, 16)])
        for has_options in (False, True):
            known = [about for about in things if len(answers_of(about)) >= _LEAST_OPTIONS or not has_options]
            for place in rng.permutation(len(known))[:per_clip]:
                about = known[place]
                wording, answer = _WORDINGS[about][int(rng.integers(2))], answer_of(about, traits)
                row = {"video": video, "question": f"{wording}?", "answer": answer, "about": about}
                if has_options:
                    others = rng.permutation([one for one in answers_of(about) if one != answer])
                    options = [str(one) for one in rng.permutation([answer, *others[: _MAX_OPTIONS - 1]])]
                    row |= {"options": options, "answer": options.index(answer)}
                rows.append(row)
    return rows
