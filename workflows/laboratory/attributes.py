"""What can be seen and heard in the laboratory's clips, and the words for it.

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
        name: what it is called in ``World.attributes`` and in the answers.
        sense: by which sense it is noticed.
        words: for each value, the interchangeable words or phrases that captions use.
        needs_time: whether it needs pixels or time, so that pooled features of a frozen random network do not show it.
        resting: the value of clips in which it does not vary.
    """

    name: str
    sense: Literal["seen", "heard"]
    words: Mapping[str, tuple[str, ...]] = field(hash=False)
    needs_time: bool = False
    resting: str

    @property
    def values(self) -> tuple[str, ...]:
        """The values that it takes, each equally often."""
        return tuple(self.words)


COLOUR = Attribute(
    name="colour",
    resting="blue",
    sense="seen",
    words={
        "red": ("red", "scarlet", "crimson"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "cyan": ("turquoise", "cyan"),
        "blue": ("blue", "sapphire"),
        "pink": ("pink", "magenta"),
    },
)
BACKGROUND = Attribute(
    name="background",
    resting="slate",
    sense="seen",
    words={
        "night": ("black", "ebony"),
        "slate": ("grey", "slate"),
        "sand": ("beige", "sandy"),
        "snow": ("white", "snowy"),
    },
)
TEXTURE = Attribute(
    name="texture",
    resting="plain",
    sense="seen",
    words={
        "plain": ("plain", "smooth", "bare"),
        "striped": ("striped", "banded"),
        "barred": ("barred", "slatted"),
        "checked": ("checked", "chequered"),
    },
)
SIZE = Attribute(
    name="size",
    resting="large",
    sense="seen",
    words={
        "small": ("small", "little", "tiny"),
        "large": ("large", "big", "huge"),
    },
)
NUMBER = Attribute(
    name="number",
    resting="3",
    sense="seen",
    words={
        "3": ("three", "a trio of"),
        "9": ("nine", "a crowd of"),
    },
)
PITCH = Attribute(
    name="pitch",
    resting="low",
    sense="heard",
    words={
        "deep": ("deep", "bass"),
        "low": ("low", "baritone"),
        "high": ("high", "treble"),
        "shrill": ("shrill", "piercing"),
    },
)
TIMBRE = Attribute(
    name="timbre",
    resting="pure",
    sense="heard",
    words={
        "pure": ("pure", "flutelike"),
        "buzzing": ("buzzing", "reedy"),
        "hissing": ("hissing", "breathy"),
        "metallic": ("metallic", "clanging"),
    },
)
RHYTHM = Attribute(
    name="rhythm",
    resting="brisk",
    sense="heard",
    words={
        "held": ("sustained", "unbroken", "continuous"),
        "slow": ("slow", "unhurried"),
        "brisk": ("brisk", "lively"),
        "rapid": ("rapid", "frantic", "racing"),
    },
)
SHAPE = Attribute(
    name="shape",
    resting="disc",
    sense="seen",
    needs_time=True,
    words={
        "disc": ("discs", "circles"),
        "square": ("squares", "boxes"),
        "triangle": ("triangles", "wedges"),
        "ring": ("rings", "hoops"),
    },
)
DIRECTION = Attribute(
    name="direction",
    resting="still",
    sense="seen",
    needs_time=True,
    words={
        "left": ("moving left", "drifting leftwards"),
        "right": ("moving right", "drifting rightwards"),
        "up": ("rising", "drifting upwards"),
        "down": ("sinking", "drifting downwards"),
    },
)
ORDER = Attribute(
    name="order",
    resting="none",
    sense="seen",
    needs_time=True,
    words={
        "flash-shrink": ("that flash before they shrink", "that shrink after they flash"),
        "shrink-flash": ("that shrink before they flash", "that flash after they shrink"),
        "flash-hide": ("that flash before they hide", "that hide after they flash"),
        "hide-flash": ("that hide before they flash", "that flash after they hide"),
    },
)

ATTRIBUTES: Mapping[str, Attribute] = {
    attribute.name: attribute
    for attribute in (
        COLOUR, BACKGROUND, TEXTURE, SIZE, NUMBER, SHAPE, DIRECTION, ORDER, PITCH, TIMBRE, RHYTHM,
    )
}  # fmt: skip
STATIC_ATTRIBUTES = tuple(name for name, attribute in ATTRIBUTES.items() if not attribute.needs_time)
