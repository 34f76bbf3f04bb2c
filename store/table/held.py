"""Which ids a table has, as its writer needs to know: of a large table a few are asked for, or all are read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._vocabulary import IntegrityError
from .connection import Connection
from .filters import IDS_A_STATEMENT, id_filters

LARGE_ROWS = 1_000_000
MOST_ASKED = 8
"""So many calls of a run, of so many statements each, ask for their own ids. Of ten million rows a statement takes a
second; to read all ids takes six and 1.6 GB, which pays for a run that goes on."""


class HeldIds:
    """The ids that a version of a table has.

    Attributes:
        version: of which they are known; None: of none.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.forget()

    def forget(self) -> None:
        """The end of a run: 160 bytes a row are free again."""
        self.version: int | None = None
        self._ids: set[str] | None = None
        self._num_asked = 0

    def among(self, table: Any, asked: Sequence[str]) -> set[str]:
        """Those of the ids asked for that a table has, and maybe more of its ids; the set is kept by its writer.

        Raises IntegrityError where the table cannot be read, or holds an id more than once.
        """
        if self._ids is not None and self.version == int(table.version):
            return self._ids
        self._ids = None
        with self._connection.translated():
            statements: Sequence[str | None] = [None]
            if table.count_rows() > LARGE_ROWS and self._num_asked < MOST_ASKED:
                statements = [*id_filters(asked)] if len(asked) <= MOST_ASKED * IDS_A_STATEMENT else [None]
            found = [one for where in statements for one in _ids_of(table, where)]
        ids = set(found)
        if num_duplicates := len(found) - len(ids):
            name, remedy = self._connection.name, self._connection.remedy
            raise IntegrityError(f"{name} holds {num_duplicates} duplicate rows; {remedy}")
        if statements == [None]:
            self._ids = ids
        self._num_asked += 1
        return ids


def _ids_of(table: Any, where: str | None) -> list[str]:
    question = table.search().select(["id"])
    found: list[str] = (question if where is None else question.where(where)).to_arrow().column("id").to_pylist()
    return found
