"""Which clips a data set holds: attributes drawn evenly and independently, questions that have one answer.

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
        parts = []
        for sense, number in (("seen", self.num_seen), ("heard", self.num_heard)):
            places = [place for place, attribute in enumerate(self.attributes) if attribute.sense == sense]
            parts.append(combinations(places, min(number, len(places))))
        seen, heard = parts
        return list(product(seen, heard))


def draw_clips(sizes: dict[str, int], naming: Naming, *, num_captions: int, rng: np.random.Generator) -> list[Drawn]:
    """The clips of all splits, so many of each.

    Raises:
        ConfigError: too few combinations for so many different clips, or questions with one answer.
    """
    num_combinations = int(np.prod([len(attribute.values) for attribute in naming.attributes]))
    # A gallery is drawn by chance, which needs most combinations to be free.
    if sum(sizes.values()) > sizes.get("train", 0) and num_combinations < 2 * sum(sizes.values()):
        raise ConfigError(
            f"{sum(sizes.values())} clips are too many for {num_combinations} combinations of the attributes "
            f"{', '.join(attribute.name for attribute in naming.attributes)}: take fewer clips or more attributes"
        )
    choices = naming.choices()
    taken: set[Traits] = set()
    clips: list[Drawn] = []
    for split, num_clips in sizes.items():
        codes = _draw_evenly(naming, num_clips, rng)
        if split == "train":
            named = [repeated(choices, rng.permutation(len(choices)), num_captions) for _ in range(num_clips)]
        else:
            codes, named = _draw_gallery(naming, codes, taken, num_captions=num_captions, rng=rng)
        taken |= {tuple(row) for row in codes.tolist()}
        for row, chosen in zip(codes, named, strict=True):
            traits = {name: attribute.resting for name, attribute in ATTRIBUTES.items()}
            for attribute, code in zip(naming.attributes, row, strict=True):
                traits[attribute.name] = attribute.values[int(code)]
            names = tuple(tuple(naming.attributes[place].name for place in seen + heard) for seen, heard in chosen)
            clips.append(Drawn(split, traits, names))
    return clips


def repeated(choices: list[Any], order: Sequence[int] | Codes, num_captions: int) -> list[Any]:
    """The choices in an order, from the beginning again if there are too few."""
    return [choices[order[caption % len(order)]] for caption in range(num_captions)]


def matches(codes: Codes, places: Sequence[int]) -> NDArray[np.int64]:
    """For each clip, how many clips (itself among them) have its values of the attributes at these places, (N,)."""
    _, group, counts = np.unique(codes[:, list(places)], axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[group.reshape(-1)], np.int64)


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
    """Redraw clips that are taken or that no choice describes alone, until there are none.

    Of the choices that describe a clip alone come first those whose halves (what is seen, what is heard) are shared by
    enough other clips.
    """
    choices = naming.choices()
    for _ in range(_MAX_ROUNDS):
        alone = np.stack([matches(codes, seen + heard) == 1 for seen, heard in choices], axis=1)
        bad = [place for place, row in enumerate(codes) if tuple(row) in taken or not alone[place].any()]
        if not bad:
            break
        codes[bad] = _draw_evenly(naming, len(bad), rng)
    else:
        raise ConfigError(
            f"no {len(codes)} clips were found whose captions, naming {naming.num_seen} seen and {naming.num_heard} "
            "heard attributes, each fit one clip only: make val or test smaller, or raise named_seen or named_heard"
        )
    shared = np.stack([np.minimum(matches(codes, seen), matches(codes, heard)) for seen, heard in choices], axis=1)
    shared = np.minimum(shared, _ENOUGH_SHARING)
    named = []
    for fits, num_sharing in zip(alone, shared, strict=True):
        order = sorted(rng.permutation(np.flatnonzero(fits)), key=lambda place: -int(num_sharing[place]))
        named.append(repeated(choices, order, num_captions))
    return codes, named
