"""Long clips that change while they last: what models that were trained on short clips are tried on.

The shapes of a long clip take one colour after another and its sound one pitch after another, at instants of their
own; its captions name all of them, in their order. Long clips come in families that share everything else, the first
colour and the first pitch among it, so that the opening of a clip never says which one of its family is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..._settings import Settings
from ..._vocabulary import ConfigError, digest_of
from .attributes import ATTRIBUTES, STATIC_ATTRIBUTES
from .draw import repeated
from .files import SAMPLE_RATE_HZ, encode_clip, render_missing, written_aside
from .pictures import render_frames
from .sounds import render_sound

LONG_NAME = "long"
# Raised whenever the same `LongWorld` would be drawn or rendered differently.
_REVISION = 1
_CHANGING = ("colour", "pitch")
_MAX_ROUNDS = 50


class LongWorld(Settings):
    """The long clips to make. The same values give the same files."""

    num_clips: int = Field(default=200, ge=0)
    """How many."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""
    seconds: float = Field(default=16.0, gt=0)
    """Length of each clip."""
    family: int = Field(default=4, ge=1)
    """Clips that share all but their later colours and pitches."""
    num_colours: int = Field(default=3, ge=1)
    """Colours that a clip takes in turn."""
    num_pitches: int = Field(default=2, ge=1)
    """Pitches that its sound takes in turn."""
    shortest_seconds: float = Field(default=2.0, gt=0)
    """How long each colour and each pitch lasts at least."""
    named_constants: int = Field(default=2, ge=0)
    """How many of the seen things that do not change a caption names."""
    num_captions: int = Field(default=2, ge=1)
    """Captions of each clip."""
    size: int = Field(default=96, ge=32)
    """Side of the square picture in pixels."""
    fps: int = Field(default=8, ge=1)
    """Frames a second."""

    @property
    def digest(self) -> str:
        return digest_of([_REVISION, self.model_dump()])


@dataclass(frozen=True, slots=True, kw_only=True)
class LongClip:
    """The truth about one long clip, whose file is relative to the collection's folder.

    `traits` are values of attributes that do not change, `changes` those of the others with the second at which each
    ends.
    """

    video: str
    traits: Mapping[str, str]
    changes: Mapping[str, tuple[tuple[str, float], ...]]
    captions: tuple[str, ...]

    def at(self, seconds: float) -> dict[str, str]:
        return dict(self.traits) | {
            name: next((value for value, end in scenes if seconds < end), scenes[-1][0])
            for name, scenes in self.changes.items()
        }


def plan_long_clips(world: LongWorld) -> tuple[LongClip, ...]:
    """The truth about every clip without rendering any, sorted by name.

    Raises:
        ConfigError: the families cannot be that large, or no captions were found that fit one clip each.
    """
    rng = np.random.default_rng([world.seed, _REVISION])
    for _ in range(_MAX_ROUNDS):
        drawn: list[_Drawn] = []
        while len(drawn) < world.num_clips:
            drawn += _family(world, rng)
        drawn = drawn[: world.num_clips]
        named = _unambiguous(world, drawn, rng)
        if named is not None:
            break
    else:
        raise ConfigError(f"no {world.num_clips} long clips were found whose captions fit one clip each: take fewer")
    clips = []
    for place, ((traits, colours, pitches), choices) in enumerate(zip(drawn, named, strict=True)):
        changes = {}
        for name, values in zip(_CHANGING, (colours, pitches), strict=True):
            spare = world.seconds - world.shortest_seconds * len(values)
            if spare < 0:
                raise ConfigError(
                    f"{len(values)} scenes of {world.shortest_seconds} s do not fit into {world.seconds} s"
                )
            ends = np.cumsum(world.shortest_seconds + spare * rng.dirichlet(np.ones(len(values))))
            on_grid_of_frames = (np.rint(ends * world.fps) / world.fps).tolist()
            changes[name] = tuple(zip(values, [*on_grid_of_frames[:-1], world.seconds], strict=True))
        clips.append(
            LongClip(
                video=f"{LONG_NAME}/{digest_of([world.digest, place])[:16]}.mp4",
                traits=traits,
                changes=changes,
                captions=tuple(_caption((traits, colours, pitches), choice, rng) for choice in choices),
            )
        )
    return tuple(sorted(clips, key=lambda clip: clip.video))


_Drawn = tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]


def _family(world: LongWorld, rng: np.random.Generator) -> list[_Drawn]:
    """The constant attributes, the colours and the pitches of every clip of one family."""
    traits = {name: attribute.resting for name, attribute in ATTRIBUTES.items()}
    for name in STATIC_ATTRIBUTES:
        traits[name] = str(rng.choice(ATTRIBUTES[name].values))
    later = [
        [rest for rest in combinations(ATTRIBUTES[name].values, number - 1) if traits[name] not in rest]
        for name, number in zip(_CHANGING, (world.num_colours, world.num_pitches), strict=True)
    ]
    members = list(product(*later))
    if len(members) < world.family:
        raise ConfigError(
            f"a family of {world.family} long clips is too large: there are {len(members)} different ones"
        )
    family: list[_Drawn] = []
    for place in rng.choice(len(members), world.family, replace=False):
        colours, pitches = (rng.permutation(values).tolist() for values in members[place])
        family.append((traits, (traits["colour"], *colours), (traits["pitch"], *pitches)))
    return family


def _unambiguous(
    world: LongWorld, drawn: Sequence[_Drawn], rng: np.random.Generator
) -> list[list[tuple[str, ...]]] | None:
    """For each clip the constants that its captions name so that they fit it alone; None where some has none.

    What changes is compared as a set: a caption must not need its order to be understood.
    """
    constants = [name for name in STATIC_ATTRIBUTES if ATTRIBUTES[name].sense == "seen" and name not in _CHANGING]
    choices = list(combinations(constants, world.named_constants))
    keys = {
        choice: [
            (frozenset(colours), frozenset(pitches), traits["timbre"], traits["rhythm"], *(traits[n] for n in choice))
            for traits, colours, pitches in drawn
        ]
        for choice in choices
    }
    counts = {choice: Counter(of_clips) for choice, of_clips in keys.items()}
    named = []
    for place in range(len(drawn)):
        fitting = [choice for choice in choices if counts[choice][keys[choice][place]] == 1]
        if not fitting:
            return None
        named.append(repeated(fitting, rng.permutation(len(fitting)), world.num_captions))
    return named


def _caption(drawn: _Drawn, named: Sequence[str], rng: np.random.Generator) -> str:
    """Such as "small red then green then blue shapes on a striped wall with a deep then high slow buzzing note"."""
    traits, colours, pitches = drawn

    def word(name: str, value: str) -> str:
        return str(rng.choice(ATTRIBUTES[name].words[value]))

    before = [word(name, traits[name]) for name in ("number", "size") if name in named]
    behind = [word(name, traits[name]) for name in ("background", "texture") if name in named]
    seen = [*before, " then ".join(word("colour", colour) for colour in colours), "shapes"]
    if behind:
        seen += ["on an" if behind[0][0] in "aeiou" else "on a", *behind, "wall"]
    pitch = " then ".join(word("pitch", one) for one in pitches)
    heard = ["a", pitch, word("rhythm", traits["rhythm"]), word("timbre", traits["timbre"]), "note"]
    return " ".join([*seen, "with", *heard])


def make_long_clips(
    folder: Path, world: LongWorld, *, on_progress: Callable[[int], None] | None = None, num_workers: int | None = None
) -> tuple[LongClip, ...]:
    """Render the long clips into `long/` of a folder. Those that are there already are kept.

    Raises:
        ConfigError: such clips cannot be made, or the folder holds others.
    """
    clips = plan_long_clips(world)

    def render(clip: LongClip) -> None:
        seed = [world.seed, int(Path(clip.video).stem, 16)]
        frames, sound = long_frames(world, clip, seed), long_sound(clip, seed)
        with written_aside(folder / clip.video) as aside:
            encode_clip(aside, frames, sound, size=world.size, fps=world.fps)

    by_file = {clip.video: clip for clip in clips}
    render_missing(folder / LONG_NAME, by_file, render, on_progress=on_progress, num_workers=num_workers)
    return clips


def long_frames(world: LongWorld, clip: LongClip, seed: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Scene after scene. Each is drawn from the same random numbers, so that only its colour is another."""
    begin = 0
    for colour, end_seconds in clip.changes["colour"]:
        end = round(end_seconds * world.fps)
        traits = {**clip.traits, "colour": colour}
        rng = np.random.default_rng(seed)
        yield from render_frames(traits, size=world.size, num_frames=end - begin, fps=world.fps, rng=rng)
        begin = end


def long_sound(clip: LongClip, seed: list[int]) -> NDArray[np.float32]:
    """Scene after scene, each with another pitch."""
    scenes, begin = [], 0.0
    for pitch, end in clip.changes["pitch"]:
        traits = {**clip.traits, "pitch": pitch}
        rng = np.random.default_rng([*seed, 1])
        scenes.append(render_sound(traits, seconds=end - begin, sample_rate_hz=SAMPLE_RATE_HZ, rng=rng))
        begin = end
    return np.concatenate(scenes)
