"""Names of combinations of modalities, and the terms of the combinatorial loss (arXiv 2112.04446, equation 3).

A combination is named by its modalities, joined by + in the model's order ("video+audio"); a term of the loss by the
two combinations that it compares ("text|video+audio"), the smaller first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError

Term = tuple[str, str]


def joined(names: Collection[str], *, order: Sequence[str]) -> str:
    """The name of a combination: its modalities in the model's order."""
    return "+".join(name for name in order if name in names)


def combination_name(combination: str, *, order: Sequence[str]) -> str:
    """A combination as somebody wrote it ("audio+video"), in the model's order.

    Raises:
        InputError: a modality that is unknown or named twice.
    """
    names = combination.split("+")
    if not set(names) <= set(order) or len(set(names)) < len(names):
        raise InputError(f"combination {combination!r}: join different ones of {', '.join(order)} by +")
    return joined(names, order=order)


def compared_combinations(modalities: Sequence[str]) -> list[str]:
    """A model's combinations: singles, pairs, and so on up to all modalities but one; of two, the pair too."""
    largest = max(len(modalities) - 1, 2)
    return ["+".join(names) for size in range(1, largest + 1) for names in combinations(modalities, size)]


def loss_terms(modalities: Sequence[str]) -> list[Term]:
    """Equation 3: every two disjoint non-empty subsets, each two once; for text, video and audio those of equation 2.

    Those of few modalities come first, then those whose first side is small, then in the order of the modalities.
    """
    sides = [names for size in range(1, len(modalities)) for names in combinations(modalities, size)]
    terms = [(x, y) for x, y in combinations(sides, 2) if not set(x) & set(y)]
    terms.sort(key=lambda term: (len(term[0]) + len(term[1]), len(term[0])))
    return [("+".join(x), "+".join(y)) for x, y in terms]


def term_of(written: str, *, order: Sequence[str], where: str) -> Term:
    """A term as somebody wrote it ("speech+video|text"), in the order of `loss_terms`.

    Raises:
        ConfigError: not two sides, an unknown modality, or one that is named twice. The nearest is named.
    """
    sides = [side.split("+") for side in written.split("|")]
    names = [name for side in sides for name in side]
    for name in names:
        if name not in order:
            raise ConfigError(f"{where}: {written!r} has no modality {name!r}: {nearest(name, list(order))}")
    if len(sides) != 2 or len(set(names)) < len(names):
        near = nearest(written, ["|".join(term) for term in loss_terms(order)])
        raise ConfigError(f"{where}: {written!r} must compare two sets without a common modality: {near}")
    placed = sorted((len(side), sorted(map(order.index, side))) for side in sides)
    x, y = ("+".join(order[index] for index in indices) for _, indices in placed)
    return x, y
