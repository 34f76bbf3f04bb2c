"""A small world of captioned clips whose answers are known: what `frameloom demo` searches and experiments measure on.

Each clip is a real H.264/AAC file. What is seen (colour, background, texture, size, number) and what is heard (pitch,
timbre, rhythm) are drawn independently, and a caption names some of both, so that neither eye nor ear alone can tell
which clip is meant. `temporal` adds shape, direction of motion and order of events, for models that learn from pixels
or see time; the rest can be read by a linear probe from a frozen network with random weights.

Nothing but the content gives an answer away: names and order come from a hash, all clips are equally long, the files
hold no text and no clock, and the answers stay in memory unless asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..._registry import nearest
from ..._vocabulary import ConfigError, digest_of
from .attributes import ATTRIBUTES, STATIC_ATTRIBUTES
from .captions import write_caption
from .draw import Drawn, Naming, draw_clips
from .files import SAMPLE_RATE_HZ, corruption_of, damage_file, encode_clip, truncate_file, write_aside
from .pictures import render_frames
from .sounds import render_sound

MANIFEST_NAME = "captions.jsonl"
ANSWERS_NAME = "answers.json"
VIDEOS_NAME = "videos"
CORRUPTIONS = ("no_audio", "truncated", "damaged")
# Raised whenever the same world would be drawn or rendered differently.
_REVISION = 1
_DRAWING, _NAMING = 0, 1


@dataclass(frozen=True, kw_only=True)
class World:
    """What to make. The same world gives the same files.

    Attributes:
        num_train: clips to learn from.
        num_val: clips to choose by.
        num_test: clips to judge by.
        seed: of everything random.
        seconds: length of each clip.
        size: side of the square picture in pixels, an even number.
        fps: frames a second.
        temporal: vary shape, direction of motion and order of events too.
        attributes: what varies, by name; None is all, without the temporal ones unless `temporal`.
        named_seen: seen attributes in each caption (all there are, if fewer).
        named_heard: heard attributes in each caption (all there are, if fewer).
        num_captions: captions of each clip.
        corruption: fraction of the clips, over all splits, without a sound track (``no_audio``), cut off
            (``truncated``), or with a stretch of garbage (``damaged``).
    """

    num_train: int = 600
    num_val: int = 50
    num_test: int = 150
    seed: int = 0
    seconds: float = 4.0
    size: int = 96
    fps: int = 8
    temporal: bool = False
    attributes: tuple[str, ...] | None = None
    named_seen: int = 4
    named_heard: int = 3
    num_captions: int = 5
    corruption: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test", "seed", "named_seen", "named_heard"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(self.num_captions >= 1, "num_captions", self.num_captions, "1 or more")
        _require(self.size % 2 == 0 and 32 <= self.size <= 4096, "size", self.size, "an even number from 32 to 4096")
        _require(1 <= self.fps <= 120, "fps", self.fps, "from 1 to 120")
        _require(0 < self.seconds <= 3600 and self.num_frames >= 1, "seconds", self.seconds, "up to 3600, with a frame")
        _require(self.named_seen + self.named_heard >= 1, "named_seen", self.named_seen, "1 or more, or named_heard")
        for name in self.attributes or ():
            _require_known(name, tuple(ATTRIBUTES), "attribute of the laboratory")
        for name, fraction in self.corruption.items():
            _require_known(name, CORRUPTIONS, "corruption")
            _require(fraction >= 0, f"corruption {name}", fraction, "0 or more")
        total = sum(self.corruption.values())
        _require(total <= 1, "corruption", dict(self.corruption), "fractions that sum to at most 1")

    @property
    def num_clips(self) -> int:
        """Clips of all splits."""
        return self.num_train + self.num_val + self.num_test

    @property
    def num_frames(self) -> int:
        """Frames of each clip."""
        return round(self.seconds * self.fps)

    @property
    def varying(self) -> tuple[str, ...]:
        """The attributes that differ from clip to clip."""
        if self.attributes is not None:
            return tuple(name for name in ATTRIBUTES if name in self.attributes)
        return tuple(ATTRIBUTES) if self.temporal else STATIC_ATTRIBUTES

    @property
    def digest(self) -> str:
        """A name for exactly this world."""
        return digest_of([_REVISION, {**asdict(self), "corruption": dict(self.corruption)}])


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One sentence and the attributes that it tells."""

    text: str
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswer:
    """The truth about one clip.

    Attributes:
        video: path relative to the collection's folder.
        split: train, val or test.
        traits: its value of every attribute.
        captions: what is said of it.
        corruption: what was done to the file; empty for nothing.
    """

    video: str
    split: str
    traits: Mapping[str, str]
    captions: tuple[Caption, ...]
    corruption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was made.

    Attributes:
        folder: where it is.
        manifest: the captions, one JSON object a line: `video` (relative to the manifest), `captions`, `split`.
        videos: the folder of the clips.
        world: what was asked for.
        clips: the truth about each clip, in the order of the manifest.
        num_rendered: clips that were not there before.
    """

    folder: Path
    manifest: Path
    videos: Path
    world: World
    clips: tuple[ClipAnswer, ...]
    num_rendered: int

    def in_split(self, split: str) -> tuple[ClipAnswer, ...]:
        """The clips of one split."""
        return tuple(clip for clip in self.clips if clip.split == split)


def make_collection(
    folder: Path,
    world: World,
    *,
    on_progress: Callable[[int], None] | None = None,
    num_workers: int | None = None,
    write_answers: bool = False,
) -> Collection:
    """Render a world into a folder. Clips that are there already are kept, so that an interrupted run goes on.

    Args:
        folder: made if it is not there; the clips go into its `videos/`.
        world: what to make.
        on_progress: called with the number of clips that are done since it was called last.
        num_workers: clips rendered at the same time; None is one for each processor that this process may use.
        write_answers: write the truth to `answers.json` too, where a pipeline could read it.

    Raises:
        ConfigError: the world cannot be, or the folder holds videos that are not of this world.
    """
    clips = plan_clips(world)
    videos = folder / VIDEOS_NAME
    _refuse_strangers(videos, clips)
    videos.mkdir(parents=True, exist_ok=True)
    num_rendered = _render_missing(folder, world, clips, on_progress=on_progress, num_workers=num_workers)
    manifest = folder / MANIFEST_NAME
    _write_text(manifest, "".join(_manifest_line(clip) for clip in clips))
    if write_answers:
        _write_text(folder / ANSWERS_NAME, json.dumps([asdict(clip) for clip in clips], indent=1) + "\n")
    return Collection(
        folder=folder, manifest=manifest, videos=videos, world=world, clips=clips, num_rendered=num_rendered
    )


def plan_clips(world: World) -> tuple[ClipAnswer, ...]:
    """The truth about every clip of a world without rendering any, sorted by name.

    Raises:
        ConfigError: the world is too small for so many clips that differ, or for captions that fit one clip only.
    """
    rng = np.random.default_rng([world.seed, _DRAWING])
    naming = Naming(tuple(ATTRIBUTES[name] for name in world.varying), world.named_seen, world.named_heard)
    sizes = {"train": world.num_train, "val": world.num_val, "test": world.num_test}
    drawn = draw_clips(sizes, naming, num_captions=world.num_captions, rng=rng)
    corruptions = corruption_of(world.corruption, len(drawn), rng)
    names = _names(world, len(drawn))
    clips = [
        ClipAnswer(
            video=f"{VIDEOS_NAME}/{name}.mp4",
            split=clip.split,
            traits=clip.traits,
            captions=_captions(clip, rng),
            corruption=corruption,
        )
        for clip, corruption, name in zip(drawn, corruptions, names, strict=True)
    ]
    return tuple(sorted(clips, key=lambda clip: clip.video))


def _names(world: World, num_clips: int) -> list[str]:
    """A name for each place in the drawing: a hash, so that sorted by name the clips are in random order."""
    return [digest_of([world.digest, _NAMING, place])[:16] for place in range(num_clips)]


def _captions(clip: Drawn, rng: np.random.Generator) -> tuple[Caption, ...]:
    return tuple(Caption(text=write_caption(clip.traits, named, rng), named=named) for named in clip.named)


def _render_missing(
    folder: Path,
    world: World,
    clips: tuple[ClipAnswer, ...],
    *,
    on_progress: Callable[[int], None] | None,
    num_workers: int | None,
) -> int:
    """Render what is not there. Threads suffice: the encoders and most of the drawing run outside Python's lock."""
    missing = [clip for clip in clips if not (folder / clip.video).exists()]
    report = on_progress or (lambda _num_clips: None)
    report(len(clips) - len(missing))
    with ThreadPoolExecutor(num_workers or len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda clip: _render(folder / clip.video, world, clip), missing):
            report(1)
    return len(missing)


def _render(path: Path, world: World, clip: ClipAnswer) -> None:
    # Seeded by the name: the same picture whichever clips are rendered before it or beside it.
    rng = np.random.default_rng([world.seed, int(path.stem, 16)])
    sound = render_sound(clip.traits, seconds=world.seconds, sample_rate_hz=SAMPLE_RATE_HZ, rng=rng)
    frames = render_frames(clip.traits, size=world.size, num_frames=world.num_frames, fps=world.fps, rng=rng)

    def write(aside: Path) -> None:
        encode_clip(aside, frames, None if clip.corruption == "no_audio" else sound, size=world.size, fps=world.fps)
        if clip.corruption == "truncated":
            truncate_file(aside)
        elif clip.corruption == "damaged":
            damage_file(aside, rng)

    write_aside(path, write)


def _refuse_strangers(videos: Path, clips: tuple[ClipAnswer, ...]) -> None:
    if videos.exists() and not videos.is_dir():
        raise ConfigError(f"{videos} is not a folder: choose another place for the clips")
    present = {path.name for path in videos.glob("*.mp4")} if videos.exists() else set()
    strangers = sorted(present - {Path(clip.video).name for clip in clips})
    if strangers:
        raise ConfigError(
            f"{videos} holds {len(strangers)} videos that are not of this world (such as {strangers[0]}): "
            "choose an empty folder, or the world that they were made for"
        )


def _manifest_line(clip: ClipAnswer) -> str:
    row = {"video": clip.video, "captions": [caption.text for caption in clip.captions], "split": clip.split}
    return json.dumps(row) + "\n"


def _write_text(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_aside(path, lambda aside: _put_text(aside, text))


def _put_text(path: Path, text: str) -> None:
    path.write_text(text)


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"world: {name} is {value!r}; it must be {allowed}")


def _require_known(name: str, known: tuple[str, ...], kind: str) -> None:
    if name not in known:
        raise ConfigError(f"no {kind} is called {name!r}: {nearest(name, list(known))}")
