"""What a project's training learns from: clips, narrated videos, or questions."""

from __future__ import annotations

from collections.abc import Iterable

from ...train import Recipe
from ...train.data import NarratedVideo, TrainingSet
from ..project import in_split
from .questions import Asked, ask
from .state import ClipState, State


def training_set(recipe: Recipe, clips: Iterable[ClipState]) -> TrainingSet:
    """The training split: clips that have two modalities to bring together, or narrated videos.

    The captions of a narrated video's spans are its sentences; those without a known word are left out.
    """
    mine = [state for state in clips if in_split(state.clip.split, "train")]
    if not recipe.narration:
        modalities = [sum(map(bool, (one.inputs.captions, *one.inputs.features.values()))) for one in mine]
        chosen = (state.inputs for state, number in zip(mine, modalities, strict=True) if number >= 2)
        return TrainingSet(clips=tuple(chosen))
    by_video: dict[str, list[ClipState]] = {}
    for state in mine:
        by_video.setdefault(state.clip.video, []).append(state)
    videos = []
    for video, states in by_video.items():
        said = sorted((one for one in states if one.inputs.captions), key=lambda one: one.clip.start_seconds)
        features = {
            name: next((one.inputs.features[name] for one in states if one.inputs.has(name)), ())
            for name in ("video", "audio")
        }
        narrated = NarratedVideo(
            key=video,
            features=features,
            starts=tuple(one.clip.start_seconds for one in said),
            ends=tuple(one.clip.end_seconds for one in said),
            sentences=tuple(one.clip.captions[0] for one in said),
            captions=tuple(one.inputs.captions[0] for one in said),
        )
        videos.append(narrated)
    return TrainingSet(videos=tuple(videos))


def examples_of(state: State) -> tuple[TrainingSet, Asked | None]:
    """What a training of this project learns from, and of a recipe for questions how they were chosen."""
    if state.project.recipe.task not in ("open_answer", "multiple_choice"):
        return training_set(state.project.recipe, state.clips), None
    asked = ask(state, split="train")
    return TrainingSet(questions=asked.features), asked
