"""The options of backbones, checked: numbers and choices."""

from __future__ import annotations

from typing import Any, Literal

from .._vocabulary import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]
"""The number type that a network computes in; float16 on a GPU alone."""
Dtype = Literal["float16", "float32"]
"""The number type in which its values are stored."""


def checked_number(name: str, option: str, value: Any, *, lowest: float, highest: float, whole: bool = False) -> float:
    """A backbone's option as a number, or ConfigError with what is allowed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be {what} from {lowest:g} to {highest:g}, not {value!r}"
        )
    return float(value)


def checked_whole(name: str, option: str, value: Any, *, lowest: int, highest: int) -> int:
    """A backbone's option as a whole number, or ConfigError with what is allowed."""
    return int(checked_number(name, option, value, lowest=lowest, highest=highest, whole=True))


def check_choice(name: str, option: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError where a backbone's option is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be one of {', '.join(allowed)}, not {value!r}"
        )
