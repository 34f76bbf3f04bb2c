"""A synthetic data set of captioned clips whose answers are known, for `frameloom demo` and for experiments.

Each clip is a real H.264/AAC file. What is seen (colour, background, texture, size, number) and what is heard (pitch,
timbre, rhythm) are drawn independently, and a caption names some of both, so that neither eye nor ear alone can tell
which clip is meant. `temporal` adds shape, direction of motion and order of events, for models that learn from pixels
or see time; the rest can be read by a linear probe from a frozen network with random weights.

Nothing but the content gives an answer away: names and order come from a hash, all clips are equally long, the files
hold no text and no clock, and the answers stay in memory unless asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from ..._files import publish_text
from ..._registry import nearest
from ..._settings import Listed, Settings
from ..._vocabulary import digest_of
from .attributes import ATTRIBUTES, STATIC_ATTRIBUTES
from .captions import write_caption
from .draw import Naming, draw_clips
from .files import SAMPLE_RATE_HZ, corruption_of, damage_file, encode_clip, render_missing, truncate_file, written_aside
from .pictures import render_frames
from .questions import QUESTIONS_NAME, plan_questions
from .sounds import render_sound

MANIFEST_NAME = "captions.jsonl"
ANSWERS_NAME = "answers.json"
VIDEOS_NAME = "videos"
CORRUPTIONS = ("no_audio", "truncated", "damaged")
# Raised whenever the same `World` would be drawn or rendered differently; the second, of one in which things move.
_REVISION, _MOVING_REVISION = 1, 2
_DRAWING, _NAMING = 0, 1


class World(Settings):
    """The settings of a data set. The same values give the same files."""

    num_train: int = Field(default=600, ge=0)
    """Clips to learn from."""
    num_val: int = Field(default=50, ge=0)
    """Clips to choose by."""
    num_test: int = Field(default=150, ge=0)
    """Clips to judge by."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""
    seconds: float = Field(default=4.0, gt=0, le=3600)
    """Length of each clip."""
    size: int = 96
    """Side of the square picture in pixels."""
    fps: int = Field(default=8, ge=1, le=120)
    """Frames a second."""
    temporal: bool = False
    """Vary shape, direction of motion and order of events too."""
    attributes: Listed[str] | None = None
    """The attributes that vary, by name; None is all, without the temporal ones unless `temporal`."""
    named_seen: int = Field(default=4, ge=0)
    """Seen attributes in each caption (all there are, if fewer)."""
    named_heard: int = Field(default=3, ge=0)
    """Heard attributes in each caption (all there are, if fewer)."""
    num_captions: int = Field(default=5, ge=1)
    """Captions of each clip."""
    corruption: Mapping[str, float] = Field(default_factory=dict)
    """Fraction of the clips, over all splits, without a sound track (``no_audio``), cut off (``truncated``), or with a
    stretch of garbage (``damaged``)."""

    @model_validator(mode="after")
    def _can_be_made(self) -> World:
        if self.size % 2 or not 32 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}; it must be an even number from 32 to 4096")
        if self.num_frames < 1:
            raise ValueError(f"seconds is {self.seconds}; it must be up to 3600, with a frame")
        if self.named_seen + self.named_heard < 1:
            raise ValueError("named_seen is 0; it must be 1 or more, or named_heard")
        for names, known, kind in (
            (self.attributes or (), ATTRIBUTES, "attribute of the laboratory"),
            (self.corruption, CORRUPTIONS, "corruption"),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"no {kind} is called {name!r}: {nearest(name, list(known))}")
        fractions = self.corruption.values()
        if sum(fractions) > 1 or any(fraction < 0 for fraction in fractions):
            raise ValueError(f"corruption is {self.corruption}; it must be fractions that sum to at most 1")
        return self

    @property
    def num_clips(self) -> int:
        return self.num_train + self.num_val + self.num_test

    @property
    def num_frames(self) -> int:
        return round(self.seconds * self.fps)

    @property
    def varying(self) -> tuple[str, ...]:
        if self.attributes is not None:
            return tuple(name for name in ATTRIBUTES if name in self.attributes)
        return tuple(ATTRIBUTES) if self.temporal else STATIC_ATTRIBUTES

    @property
    def digest(self) -> str:
        return digest_of([_MOVING_REVISION if "direction" in self.varying else _REVISION, self.model_dump()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One sentence and the attributes that it mentions."""

    text: str
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswer:
    """The truth about one clip, whose file is relative to the collection's folder. No corruption is an empty text."""

    video: str
    split: str
    traits: Mapping[str, str]
    captions: tuple[Caption, ...]
    corruption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A data set on disk: its folder, the truth about each clip in the manifest's order, how many are new.

    The manifest is one JSON object a line: `video` (relative to the manifest), `captions`, `split`.
    """

    folder: Path
    clips: tuple[ClipAnswer, ...]
    num_rendered: int


def make_collection(
    folder: Path,
    world: World,
    *,
    on_progress: Callable[[int], None] | None = None,
    num_workers: int | None = None,
    write_answers: bool = False,
    questions: int = 0,
) -> Collection:
    """Render a data set into a folder. Clips that are there already are kept, so that an interrupted run goes on.

    Args:
        folder: made if it is not there; the clips go into its `videos/`.
        world: what to make.
        on_progress: see `render_missing`.
        num_workers: see `render_missing`.
        write_answers: write the truth to `answers.json` too, where a pipeline could read it.
        questions: open-ended questions about each clip, and as many with options, written to `questions.jsonl`.

    Raises:
        ConfigError: such a data set cannot be made, or the folder holds videos that are not of it.
    """
    clips = plan_clips(world)

    def render(clip: ClipAnswer) -> None:
        # Seeded by the name: the same picture whichever clips are rendered before it or at the same time.
        rng = np.random.default_rng([world.seed, int(Path(clip.video).stem, 16)])
        sound = render_sound(clip.traits, seconds=world.seconds, sample_rate_hz=SAMPLE_RATE_HZ, rng=rng)
        frames = render_frames(clip.traits, size=world.size, num_frames=world.num_frames, fps=world.fps, rng=rng)
        with written_aside(folder / clip.video) as aside:
            encode_clip(aside, frames, None if clip.corruption == "no_audio" else sound, size=world.size, fps=world.fps)
            if clip.corruption == "truncated":
                truncate_file(aside)
            elif clip.corruption == "damaged":
                damage_file(aside, rng)

    by_file = {clip.video: clip for clip in clips}
    num_rendered = render_missing(
        folder / VIDEOS_NAME, by_file, render, on_progress=on_progress, num_workers=num_workers
    )
    rows = [{"video": c.video, "captions": [caption.text for caption in c.captions], "split": c.split} for c in clips]
    texts = {MANIFEST_NAME: "".join(json.dumps(row) + "\n" for row in rows)}
    if write_answers:
        texts[ANSWERS_NAME] = json.dumps([asdict(clip) for clip in clips], indent=1) + "\n"
    if questions:
        asked = plan_questions(
            ((clip.video, clip.traits) for clip in clips), varying=world.varying, per_clip=questions, seed=world.seed
        )
        texts[QUESTIONS_NAME] = "".join(json.dumps(row) + "\n" for row in asked)
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            publish_text(folder / name, text)
    return Collection(folder=folder, clips=clips, num_rendered=num_rendered)


def plan_clips(world: World) -> tuple[ClipAnswer, ...]:
    """The truth about every clip without rendering any, sorted by name.

    Raises:
        ConfigError: there are not so many clips that differ, or captions that fit one clip only.
    """
    rng = np.random.default_rng([world.seed, _DRAWING])
    naming = Naming(tuple(ATTRIBUTES[name] for name in world.varying), world.named_seen, world.named_heard)
    sizes = {"train": world.num_train, "val": world.num_val, "test": world.num_test}
    drawn = draw_clips(sizes, naming, num_captions=world.num_captions, rng=rng)
    corruptions = corruption_of(world.corruption, len(drawn), rng)
    clips = []
    for place, (clip, corruption) in enumerate(zip(drawn, corruptions, strict=True)):
        # A hash, so that sorted by name the clips are in random order.
        name = digest_of([world.digest, _NAMING, place])[:16]
        captions = tuple(Caption(text=write_caption(clip.traits, named, rng), named=named) for named in clip.named)
        clips.append(
            ClipAnswer(
                video=f"{VIDEOS_NAME}/{name}.mp4",
                split=clip.split,
                traits=clip.traits,
                captions=captions,
                corruption=corruption,
            )
        )
    return tuple(sorted(clips, key=lambda clip: clip.video))
