"""Plain data out of YAML: no tags, no anchors, nothing that JSON cannot hold, so that a file can never run or grow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

_DEEPEST = 50


class PlainLoader(yaml.SafeLoader):
    """Plain YAML: safe tags only, no aliases (a few lines of them can fill a memory), no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="anchors and aliases (& and *) are not used here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# As YAML 1.2 and JSON have it: an exponent makes a float, also without a point or a sign (1e-3, 1.5e3).
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def not_plain(value: Any, place: tuple[str, ...]) -> Iterator[str]:
    """Values that neither JSON nor fingerprints hold: dates, sets, bytes, NaN and infinity."""
    where = ".".join(place)
    if len(place) > _DEEPEST:
        yield f"{'.'.join(place[:4])}: nested more than {_DEEPEST} deep: flatten it"
    elif isinstance(value, dict):
        for key, one in value.items():
            if isinstance(key, str) and text_fault(key) is None:
                yield from not_plain(one, (*place, key))
            else:
                yield f"{where or 'the top level'}: the key {key!a:.40} is not plain text: put it in quotes"
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from not_plain(one, (*place, str(number)))
    elif isinstance(value, str) and (fault := text_fault(value)):
        yield f"{where}: {fault} (found {value!a:.60})"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: is not a finite number: give one (found {value!a:.60})"
    elif not isinstance(value, str | int | float | None):
        kinds = "a value is a number, true, false, null, a list, a mapping or a text in quotes"
        yield f"{where}: is a {type(value).__name__}: {kinds} (found {value!a:.60})"


def text_fault(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not a character: name files and folders in UTF-8"
    return "holds a NUL character: remove it" if "\0" in text else None
