"""The base of model configurations, recipes and reports: frozen pydantic models whose errors are frameloom's.

Values are taken strictly, as YAML and JSON write them: 1 passes for 1.0 and a list for a tuple, and nothing else passes
for anything. A key that is not a field is an error that names the nearest one.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from ._registry import nearest
from ._vocabulary import ConfigError

Item = TypeVar("Item")
Same = TypeVar("Same", bound="Settings")
Listed = Annotated[tuple[Item, ...], Strict(strict=False)]
"""A tuple that may be written as a list; its items are taken strictly."""

_TYPES = {
    "int_type": "int",
    "float_type": "float",
    "bool_type": "bool",
    "string_type": "str",
    "tuple_type": "list",
    "mapping_type": "Mapping",
    "dict_type": "Mapping",
}


class Settings(BaseModel):
    """Frozen, strict and closed. Raises ConfigError where pydantic would raise ValidationError."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            known = list(type(self).model_fields)
            raise ConfigError("; ".join(explained(each, known) for each in error.errors())) from None

    def replaced(self: Same, **changes: Any) -> Same:
        """A copy with other values for some fields, checked again."""
        return type(self)(**{**dict(self), **changes})

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints: values that JSON can hold."""
        return self.model_dump(mode="json")


def explained(problem: Any, known: list[str]) -> str:
    """One problem that pydantic found: the value, what is allowed, and for an unknown key the nearest known one."""
    where, value, context = ".".join(map(str, problem["loc"])), problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown option {where!r}: {nearest(where, known)}"
        case "missing":
            return f"the option {where!r} is missing"
        case "literal_error":
            allowed = f"one of {context['expected']}"
        case "finite_number":
            allowed = "a finite number"
        case "greater_than":
            allowed = f"above {context['gt']}"
        case "greater_than_equal":
            allowed = f"{context['ge']} or more"
        case "less_than_equal":
            allowed = f"{context['le']} or less"
        case kind if kind in _TYPES:
            allowed = f"of type {_TYPES[kind]}"
        case _:
            message = str(problem["msg"]).removeprefix("Value error, ")
            return f"{where} is {value!r}: {message}" if where else message
    return f"{where} is {value!r}; it must be {allowed}"
