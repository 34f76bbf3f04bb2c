"""Which clips a world holds: attributes drawn evenly and independently, questions that have one answer.

Val and test are galleries: a caption of theirs fits exactly one clip of its own split, while several clips share what
it says of the seen, and several what it says of the heard. Their full combinations of attributes never occur in
training, nor the test split's in val.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError
from .attributes import ATTRIBUTES, Attribute

Codes = NDArray[np.int64]
Traits = tuple[int, ...]
# Sharing beyond this many clips makes a modality alone no less sufficient than it already is.
_ENOUGH_SHARING = 5
_MAX_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Drawn:
    """One clip: the value of every attribute, and for each caption the attributes that it names."""

    split: str
    traits: dict[str, str]
    named: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """The ways in which captions may choose the attributes that they name."""

    attributes: tuple[Attribute, ...]
    num_seen: int
    num_heard: int

    def choices(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Every choice: the positions of the seen attributes named, and of the heard ones."""
        seen, heard = self._positions("seen"), self._positions("heard")
        parts = (
            combinations(seen, min(self.num_seen, len(seen))),
            combinations(heard, min(self.num_heard, len(heard))),
        )
        return list(product(*parts))

    def _positions(self, sense: str) -> list[int]:
        return [place for place, attribute in enumerate(self.attributes) if attribute.sense == sense]


def draw_clips(sizes: dict[str, int], naming: Naming, *, num_captions: int, rng: np.random.Generator) -> list[Drawn]:
    """The clips of all splits.

    Args:
        sizes: number of clips by split: train, val, test.
        naming: what varies and what captions may name.
        num_captions: captions of each clip.
        rng: random numbers.

    Raises:
        ConfigError: the world is too small for so many different clips, or questions with one answer.
    """
    _check_room(sizes, naming)
    taken: set[Traits] = set()
    clips: list[Drawn] = []
    for split, num_clips in sizes.items():
        codes = _draw_evenly(naming, num_clips, rng)
        if split == "train":
            named = [_some_choices(naming.choices(), num_captions, rng) for _ in range(num_clips)]
        else:
            codes, named = _draw_gallery(naming, codes, taken, num_captions=num_captions, rng=rng)
        taken |= _as_set(codes)
        clips += [_drawn(split, naming, row, choices) for row, choices in zip(codes, named, strict=True)]
    return clips


def matches(codes: Codes, places: Sequence[int]) -> NDArray[np.int64]:
    """For each clip, how many clips (itself among them) have its values of the attributes at these places, (N,)."""
    _, group, counts = np.unique(codes[:, list(places)], axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[group.reshape(-1)], np.int64)


def _check_room(sizes: dict[str, int], naming: Naming) -> None:
    num_combinations = int(np.prod([len(attribute.values) for attribute in naming.attributes]))
    num_held_out = sum(size for split, size in sizes.items() if split != "train")
    # A gallery is drawn by chance, which needs most combinations to be free.
    if num_held_out and num_combinations < 2 * sum(sizes.values()):
        raise ConfigError(
            f"{sum(sizes.values())} clips are too many for {num_combinations} combinations of the attributes "
            f"{', '.join(attribute.name for attribute in naming.attributes)}: take fewer clips or more attributes"
        )


def _draw_evenly(naming: Naming, num_clips: int, rng: np.random.Generator) -> Codes:
    """Values by position, (num_clips, attributes): each attribute's about equally often, independent of the others."""
    columns = []
    for attribute in naming.attributes:
        first = int(rng.integers(len(attribute.values)))
        columns.append(rng.permutation((first + np.arange(num_clips)) % len(attribute.values)))
    return np.stack(columns, axis=1).astype(np.int64)


def _draw_gallery(
    naming: Naming, codes: Codes, taken: Collection[Traits], *, num_captions: int, rng: np.random.Generator
) -> tuple[Codes, list[list[Any]]]:
    """Redraw clips that are taken or about which nothing unambiguous can be said, until there are none."""
    for _ in range(_MAX_ROUNDS):
        answerable, sharing = _judge(naming, codes)
        bad = [place for place, row in enumerate(codes) if tuple(row) in taken or not answerable[place].any()]
        if not bad:
            best = [_best_choices(naming, *each, num_captions, rng) for each in zip(answerable, sharing, strict=True)]
            return codes, best
        codes[bad] = _draw_evenly(naming, len(bad), rng)
    raise ConfigError(
        f"no {len(codes)} clips were found whose captions, naming {naming.num_seen} seen and {naming.num_heard} heard "
        "attributes, each fit one clip only: make val or test smaller, or raise named_seen or named_heard"
    )


def _judge(naming: Naming, codes: Codes) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For each clip and each choice of named attributes: does it fit this clip alone; how many share either half."""
    choices = naming.choices()
    alone = np.stack([matches(codes, seen + heard) == 1 for seen, heard in choices], axis=1)
    halves = [np.minimum(matches(codes, seen), matches(codes, heard)) for seen, heard in choices]
    return alone, np.stack(halves, axis=1)


def _best_choices(
    naming: Naming,
    answerable: NDArray[np.bool_],
    sharing: NDArray[np.int64],
    num_captions: int,
    rng: np.random.Generator,
) -> list[Any]:
    """The answerable choices whose halves are shared by enough other clips, in random order, repeated if too few."""
    choices = naming.choices()
    order = sorted(
        rng.permutation(np.flatnonzero(answerable)), key=lambda place: -min(int(sharing[place]), _ENOUGH_SHARING)
    )
    return [choices[order[caption % len(order)]] for caption in range(num_captions)]


def _some_choices(choices: list[Any], num_captions: int, rng: np.random.Generator) -> list[Any]:
    order = rng.permutation(len(choices))
    return [choices[order[caption % len(order)]] for caption in range(num_captions)]


def _as_set(codes: Codes) -> set[Traits]:
    return {tuple(row) for row in codes.tolist()}


def _drawn(split: str, naming: Naming, row: Codes, choices: list[Any]) -> Drawn:
    traits = {name: attribute.resting for name, attribute in ATTRIBUTES.items()}
    for attribute, code in zip(naming.attributes, row, strict=True):
        traits[attribute.name] = attribute.values[int(code)]
    named = tuple(tuple(naming.attributes[place].name for place in seen + heard) for seen, heard in choices)
    return Drawn(split, traits, named)
