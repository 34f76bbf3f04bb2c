"""Sentences about the laboratory's clips: some of what is seen and some of what is heard, in varied wording.

Each word for a value belongs to that value alone, and none of the words around them is a value's. Nouns for what is
seen are plural and say nothing of the number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from .attributes import ATTRIBUTES

_THINGS = ("shapes", "figures", "forms", "patches")
_GROUNDS = ("ground", "backdrop", "wall", "surface")
_SOUNDS = ("tone", "sound", "note", "voice")
_PLACES = ("on", "against", "over", "in front of")
_SENTENCES = (
    "{seen} with {heard}",
    "{heard} with {seen}",
    "{seen} while {heard} plays",
    "{heard} is heard behind {seen}",
    "we see {seen} and hear {heard}",
    "we hear {heard} and see {seen}",
    "a clip of {seen} set to {heard}",
    "there is {heard} to go with {seen}",
    "the picture shows {seen}, the soundtrack is {heard}",
    "{heard} accompanies {seen}",
)


def write_caption(traits: Mapping[str, str], named: Collection[str], rng: np.random.Generator) -> str:
    """One sentence about the named attributes of a clip and no others, in a wording that is drawn."""
    words = {name: _pick(ATTRIBUTES[name].words[traits[name]], rng) for name in named}
    things = words.get("shape") or _pick(_THINGS, rng)
    before = [words[name] for name in ("number", "size", "colour") if name in words]
    after = [words[name] for name in ("direction", "order") if name in words]
    ground = _shuffled([words[name] for name in ("background", "texture") if name in words], rng)
    place = [_pick(_PLACES, rng), _with_article([*ground, _pick(_GROUNDS, rng)])] if ground else []
    seen = " ".join([*before, things, *after, *place])
    adjectives = _shuffled([words[name] for name in ("pitch", "timbre", "rhythm") if name in words], rng)
    if not adjectives:
        return seen
    heard = _with_article([*adjectives, _pick(_SOUNDS, rng)])
    if not any(ATTRIBUTES[name].sense == "seen" for name in named):
        return heard
    return _pick(_SENTENCES, rng).format(seen=seen, heard=heard)


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _shuffled(words: list[str], rng: np.random.Generator) -> list[str]:
    return [words[place] for place in rng.permutation(len(words))]
