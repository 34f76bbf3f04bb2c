"""Visible and audible attributes of the laboratory's clips, and the words for them.

Every word means one value of one attribute and nothing else, so that a caption can be understood as
an unordered set of words by models that see no word order. The exceptions are the temporal attributes, whose point is
that order matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One thing that varies from clip to clip.

    Attributes:
        name: its key in ``World.attributes`` and in the answers.
        sense: by which sense it is noticed.
        words: for each value, the interchangeable words or phrases that captions use.
        resting: the value of clips in which it does not vary.
    """

    name: str
    sense: Literal["seen", "heard"]
    words: Mapping[str, tuple[str, ...]] = field(hash=False)
    resting: str

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(self.words)


_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "scarlet", "crimson"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "cyan": ("turquoise", "cyan"),
        "blue": ("blue", "sapphire"),
        "pink": ("pink", "magenta"),
    },
    "background": {
        "night": ("black", "ebony"),
        "slate": ("grey", "slate"),
        "sand": ("beige", "sandy"),
        "snow": ("white", "snowy"),
    },
    "texture": {
        "plain": ("plain", "smooth", "bare"),
        "striped": ("striped", "banded"),
        "barred": ("barred", "slatted"),
        "checked": ("checked", "chequered"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "number": {"3": ("three", "a trio of"), "9": ("nine", "a crowd of")},
    "shape": {
        "disc": ("discs", "circles"),
        "square": ("squares", "boxes"),
        "triangle": ("triangles", "wedges"),
        "ring": ("rings", "hoops"),
    },
    "direction": {
        "left": ("moving left", "drifting leftwards"),
        "right": ("moving right", "drifting rightwards"),
        "up": ("rising", "drifting upwards"),
        "down": ("sinking", "drifting downwards"),
    },
    "order": {
        "flash-shrink": ("that flash before they shrink", "that shrink after they flash"),
        "shrink-flash": ("that shrink before they flash", "that flash after they shrink"),
        "flash-hide": ("that flash before they hide", "that hide after they flash"),
        "hide-flash": ("that hide before they flash", "that flash after they hide"),
    },
    "pitch": {
        "deep": ("deep", "bass"),
        "low": ("low", "baritone"),
        "high": ("high", "treble"),
        "shrill": ("shrill", "piercing"),
    },
    "timbre": {
        "pure": ("pure", "flutelike"),
        "buzzing": ("buzzing", "reedy"),
        "hissing": ("hissing", "breathy"),
        "metallic": ("metallic", "clanging"),
    },
    "rhythm": {
        "held": ("sustained", "unbroken", "continuous"),
        "slow": ("slow", "unhurried"),
        "brisk": ("brisk", "lively"),
        "rapid": ("rapid", "frantic", "racing"),
    },
}
_HEARD = frozenset({"pitch", "timbre", "rhythm"})
# They need pixels or time: pooled features of a frozen random network do not show them.
_TEMPORAL = frozenset({"shape", "direction", "order"})
_RESTING = {
    "colour": "blue", "background": "slate", "texture": "plain", "size": "large", "number": "3", "shape": "disc",
    "direction": "still", "order": "none", "pitch": "low", "timbre": "pure", "rhythm": "brisk",
}  # fmt: skip

ATTRIBUTES: Mapping[str, Attribute] = {
    name: Attribute(name=name, sense="heard" if name in _HEARD else "seen", words=words, resting=_RESTING[name])
    for name, words in _WORDS.items()
}
STATIC_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name not in _TEMPORAL)
