"""The project that ablations run on: two galleries and a training set, rendered, extracted once, and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...._files import publish_text
from ...._vocabulary import FrameloomError
from ....train import Recipe
from ....train.data import TrainingSet
from ...console import Console
from ...laboratory import MANIFEST_NAME, VIDEOS_NAME, World, make_collection
from ...project import CONFIG_NAME, Project, in_split
from ...sync import ClipState, extract_only, take_state, training_set
from .studies import Gallery
from .world import LONG_NAME, LongClip, LongWorld, make_long_clips

_BOTH_NAME = "all_captions.jsonl"

_CONFIG = f"""\
# What `frameloom ablate` measures on. With other features (pretrained `weights:`, another backbone) it
# measures on those.
collection:
  videos: [{VIDEOS_NAME}, {LONG_NAME}]
  captions: {_BOTH_NAME}
  clip_seconds: null             # a video is a clip

features:
  video:
    backbone: resnet18
    weights: null                # null: random weights from the seed
    options: {{short_side: 96}}
  audio:
    backbone: logmel_avlnet
  text:
    backbone: word2vec
    weights: null                # null: word vectors are trained from the captions of the training clips

training:
  recipe: everything_at_once_tiny

run:
  batch_videos: 32
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """How many clips of each kind there are, and the seed that they are drawn from."""

    num_train: int = 900
    num_test: int = 400
    num_long: int = 200
    seed: int = 0

    def short(self) -> World:
        """The clips to train on, and those of their length to ask for."""
        return World(num_train=self.num_train, num_val=0, num_test=self.num_test, seed=self.seed)

    def long(self) -> LongWorld:
        """The clips that are longer than those of training."""
        return LongWorld(num_clips=self.num_long, seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """The clips of a study with the names of their features in the store."""

    project: Project
    training: TrainingSet
    galleries: Mapping[Gallery, TrainingSet]


def prepare(folder: Path, worlds: Worlds, recipe: Recipe, console: Console) -> Clips:
    """Render and extract what is missing, and list what the recipe trains on.

    Raises:
        ConfigError: the folder holds clips of another world.
        FrameloomError: some clip could not be extracted.
    """
    render(folder, worlds, console)
    if not (folder / CONFIG_NAME).exists():
        publish_text(folder / CONFIG_NAME, _CONFIG)
    report = extract_only(Project.open(folder), console)
    if report.exit_code:
        raise FrameloomError(f"not every clip of {folder} was extracted: {'; '.join(report.lines())}")
    project = Project.open(folder)
    clips = take_state(project).clips
    asked = [state for state in clips if in_split(state.clip.split, "test")]
    return Clips(
        project=project,
        training=training_set(recipe, clips),
        galleries={
            "short": TrainingSet(clips=tuple(state.inputs for state in asked if not _is_long(state))),
            "long": TrainingSet(clips=tuple(state.inputs for state in asked if _is_long(state))),
        },
    )


def render(folder: Path, worlds: Worlds, console: Console) -> None:
    """Make the videos that are not there yet, and the list of all captions."""
    short, long = worlds.short(), worlds.long()
    with console.progress("render", short.num_clips, "clips") as advance:
        make_collection(folder, short, on_progress=advance)
    with console.progress("render", long.num_clips, "long clips") as advance:
        made = make_long_clips(folder, long, on_progress=advance)
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8") + _manifest(made)
    both = folder / _BOTH_NAME
    if not both.exists() or both.read_text(encoding="utf-8") != text:
        publish_text(both, text)


def _manifest(clips: Sequence[LongClip]) -> str:
    rows = [{"video": clip.video, "captions": list(clip.captions), "split": "test"} for clip in clips]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _is_long(state: ClipState) -> bool:
    return state.clip.video.split("/")[0] == LONG_NAME
