"""A table of named builders. Each family of components (backbones, models) has one."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from typing import Generic, TypeVar

from ._vocabulary import UnknownNameError

Entry = TypeVar("Entry")


def nearest(name: str, known: list[str]) -> str:
    """A half sentence that helps with a misspelt name: the nearest known ones, or all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


class Registry(Generic[Entry]):
    """Names to entries. A duplicate name raises; an unknown one is answered with the nearest known names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Register an entry. Raises ValueError when the name is taken."""
        if name in self._entries:
            raise ValueError(f"the {self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise UnknownNameError(f"no {self.kind} is called {name!r}: {nearest(name, list(self._entries))}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))
