"""The rows nearest to a vector in one version of a clip table.

Candidates come from one of three ways: a scan by LanceDB, a matrix of all vectors in memory, or the table's vector
index where a record says that its recall was measured. All of them are scored again here in double precision, so that a
row has one score, whichever way has found it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import IntegrityError
from .filters import bracketed
from .index import MATRIX_BYTES, IndexRecord
from .rows import altered_rows, vectors_of

if TYPE_CHECKING:
    import pyarrow as pa

SCANNED_ROWS = 2_000  # so few that match a filter are compared one by one
_ROUNDING = 2e-6  # of scores in float32
CHECKED_ROWS = 100  # of an answer: so few are read and checked with all their columns, of more the vectors
_MORE_PROBES = 3
_FILTERS_KEPT = 64
_BLOCK_QUESTIONS = 64


class PinnedVersion:
    """One version of a table, as a reader holds it.

    Args:
        table: LanceDB's handle, which this object checks out.
        record: of the index that may be used.
        open_async: gives LanceDB's asynchronous handle on a version.
    """

    def __init__(self, table: Any, record: IndexRecord | None, open_async: Callable[[int], Any]) -> None:
        self.version = int(table.version)
        table.checkout(self.version)
        self.table, self.record = table, record
        self._handle: Any = None if record is None else open_async(self.version)
        self.num_rows = int(table.count_rows())
        schema = table.schema  # asked once: the library reads it anew each time, in 0.6 ms
        self.names: list[str] = schema.names
        self.dim = int(schema.field("vector").type.list_size)
        self._count = lru_cache(_FILTERS_KEPT)(table.count_rows)
        self._matrix: _Matrix | None = None
        self._num_questions = 0

    def nearest(
        self, query: NDArray[np.float32], where: str | None, top: int, columns: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The ``top`` rows nearest to a unit vector (D,), best first, with these columns and ``score``."""
        self._num_questions += 1
        where = bracketed(where)
        num_rows = self.num_rows if where is None else int(self._count(where))
        if num_rows == self.num_rows:
            where = None
        wanted = [*dict.fromkeys(["id", *columns, "vector", *self._checked(top, columns)])]
        if self.record is not None and num_rows > SCANNED_ROWS:
            found = self._by_index(self.record, query, where, num_rows, top, wanted)
        # One question alone is answered sooner by a scan than by reading all vectors.
        elif self.num_rows * self.dim * 4 <= MATRIX_BYTES and (self._matrix or self._num_questions > 1):
            self._matrix = self._matrix or _Matrix(self.table)
            row_ids = self._matrix.nearest(query, where, top)
            found = self.table.take_row_ids(row_ids).select(wanted).to_arrow() if row_ids else None
        else:
            found = self._by_scan(query, where, top, wanted)
        return [] if found is None else best_first(self._as_written(found), query, columns)[:top]

    def _checked(self, top: int, columns: Sequence[str]) -> list[str]:
        """The columns that are read to know that what is returned is as it was written: of few rows all."""
        if top <= CHECKED_ROWS and not {"id", "vector"}.issuperset(columns):
            return self.names
        return [name for name in self.names if name == "vector_checksum"]  # of the vector and the id

    def _as_written(self, found: pa.Table) -> pa.Table:
        """Rows without LanceDB's own columns. Raises IntegrityError for one that is not as it was written."""
        names = [name for name in self.names if name in found.schema.names]
        if len(names) < len(self.names):  # not all that the row's own checksum is of
            names = [name for name in names if name != "row_checksum"]
        raise_altered(found.select(names))
        return found

    def nearest_many(
        self, queries: Sequence[NDArray[np.float32]], where: str | None, top: int, columns: Sequence[str]
    ) -> list[list[dict[str, Any]]]:
        """`nearest` for each of several unit vectors: by one pass over a matrix that is compared, and one read of rows.

        Rows that the vector index finds are looked for question by question.
        """
        if len(queries) == 1:
            return [self.nearest(queries[0], where, top, columns)]
        condition = bracketed(where)
        num_rows = self.num_rows if condition is None else int(self._count(condition))
        by_index = self.record is not None and num_rows > SCANNED_ROWS
        if by_index or self.num_rows * self.dim * 4 > MATRIX_BYTES or not num_rows:
            return [self.nearest(query, where, top, columns) for query in queries]
        self._matrix = self._matrix or _Matrix(self.table)
        places = self._matrix.nearest_many(queries, None if num_rows == self.num_rows else condition, top)
        row_ids = sorted({one for several in places for one in several})
        wanted = [*dict.fromkeys(["id", *columns, "vector", *self._checked(len(row_ids), columns)])]
        found = self._as_written(self.table.take_row_ids(row_ids).select(wanted).to_arrow())
        order = {one: place for place, one in enumerate(row_ids)}
        picked = (found.take([order[one] for one in several]) for several in places)
        return [best_first(rows, query, columns)[:top] for rows, query in zip(picked, queries, strict=True)]

    def with_words(
        self, words: str, query: NDArray[np.float32] | None, where: str | None, top: int, columns: Sequence[str], *,
        text: str,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The ``top`` rows whose column of text holds the words best, with ``words`` (BM25) and ``score``."""
        from lancedb.query import MatchQuery

        search = self.table.search(MatchQuery(words, text), query_type="fts")
        search = search if where is None else search.where(bracketed(where), prefilter=True)
        wanted = [*dict.fromkeys(["id", *columns, "vector", *self._checked(top, columns)]), "_score"]
        found = self._as_written(search.limit(top).select(wanted).to_arrow())
        rows = best_first(found, query, [*dict.fromkeys(["id", *columns]), "_score"])
        for row in rows:
            row["words"] = row.pop("_score")
        return sorted(rows, key=lambda row: (-row["words"], row["id"]))

    def _by_scan(self, query: NDArray[np.float32], where: str | None, top: int, wanted: Sequence[str]) -> pa.Table:
        search = self._search(query, where).bypass_vector_index().select([*wanted, "_distance"])
        limit = top + 1
        while True:  # until all rows that are as near as the last are there
            found = search.limit(limit).to_arrow()
            distances = np.sort(found.column("_distance").to_numpy())
            if len(distances) < limit or distances[top - 1] < distances[-1]:
                return found
            limit *= 4

    def _by_index(
        self, record: IndexRecord, query: NDArray[np.float32], where: str | None, num_rows: int, top: int,
        wanted: Sequence[str],
    ) -> pa.Table | None:  # fmt: skip
        from lancedb.background_loop import LOOP

        # The nearest of few rows, and many nearest rows, lie further away than the ten that recall was measured with.
        spread = self.num_rows / num_rows * max(1.0, top / record.top)
        nprobes = record.nprobes if spread == 1 else math.ceil((record.nprobes + _MORE_PROBES) * math.sqrt(spread))
        handle = self._handle
        search = handle.query().nearest_to(query).column("vector").distance_type("cosine")
        search = search.nprobes(min(record.num_partitions, nprobes)).refine_factor(record.refine).limit(top)
        search = search if where is None else search.where(where)

        async def ask() -> pa.Table | None:
            # Columns are taken afterwards: a search that reads all takes 25 ms, and this 17 (LanceDB 0.40).
            found = await search.with_row_id().select(["_rowid", "_distance"]).to_arrow()
            row_ids = found.column("_rowid").to_pylist()
            return await handle.take_row_ids(row_ids).select(list(wanted)).to_arrow() if row_ids else None

        rows: pa.Table | None = LOOP.run(ask())
        return rows

    def _search(self, query: NDArray[np.float32], where: str | None) -> Any:
        search = self.table.search(query, vector_column_name="vector").distance_type("cosine")
        return search if where is None else search.where(where, prefilter=True)


class _Matrix:
    """All vectors of a version in memory, with their row ids and ids."""

    def __init__(self, table: Any) -> None:
        kept = [name for name in ("id", "vector", "vector_checksum") if name in table.schema.names]
        rows = table.search().select(kept).with_row_id(True).to_arrow()
        raise_altered(rows)
        rows = rows.sort_by("_rowid")
        self._ids = rows.column("id")
        self._row_ids = rows.column("_rowid").to_numpy()
        self._vectors = vectors_of(rows)
        self._mask = lru_cache(_FILTERS_KEPT)(partial(_matching, table, self._row_ids))

    def nearest(self, query: NDArray[np.float32], where: str | None, top: int) -> list[int]:
        """Row ids of the ``top`` nearest of the rows that match."""
        return self.nearest_many([query], where, top)[0]

    def nearest_many(self, queries: Sequence[NDArray[np.float32]], where: str | None, top: int) -> list[list[int]]:
        """`nearest` for each of several questions, a block of them at a time."""
        matching = np.arange(len(self._row_ids)) if where is None else self._mask(where)
        is_few = len(matching) * 8 < len(self._row_ids)
        vectors = self._vectors[matching] if is_few else self._vectors
        found: list[list[int]] = []
        for first in range(0, len(queries), _BLOCK_QUESTIONS):
            block = queries[first : first + _BLOCK_QUESTIONS]
            # A question alone is a product of matrix and vector, which is faster than one with a matrix of one column.
            scored = (vectors @ block[0])[None] if len(block) == 1 else np.stack(block) @ vectors.T
            for query, scores in zip(block, scored if is_few else scored[:, matching], strict=True):
                rows = matching
                if len(rows) > top:
                    near = np.partition(scores, len(rows) - top)[len(rows) - top] - _ROUNDING
                    rows = rows[scores >= near]
                exact, ids = cosines(self._vectors[rows], query), self._ids.take(rows).to_pylist()
                order = sorted(range(len(rows)), key=lambda place: (-exact[place], ids[place]))[:top]
                found.append([int(one) for one in self._row_ids[rows[order]]])
        return found


def raise_altered(rows: pa.Table) -> None:
    """Raises IntegrityError for a row that is not as it was written; see `altered_rows`."""
    if altered := altered_rows(rows):
        name = rows.column("id")[altered[0]].as_py()
        raise IntegrityError(
            f"{len(altered)} of {rows.num_rows} rows that were read of the table are not what was written, such as"
            f" {name}: run `frameloom repair`, then `frameloom sync`, which embeds the stored features anew"
        )


def _matching(table: Any, row_ids: NDArray[np.uint64], where: str) -> NDArray[np.intp]:
    found = table.search().where(where).select(["id"]).with_row_id(True).to_arrow().column("_rowid").to_numpy()
    return np.searchsorted(row_ids, np.sort(found))


def cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine similarity of each row (N, D) with a vector (D,): the same for a row whichever rows are around it."""
    query = query.astype(np.float64)
    lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1)) * np.sqrt((query**2).sum())
    scores: NDArray[np.float64] = np.clip((vectors * query).sum(axis=1) / lengths, -1.0, 1.0)
    return scores


def best_first(found: pa.Table, query: NDArray[np.float32] | None, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as dictionaries of these columns and ``score``, the best first; equal ones in the order of ids.

    Without a question all have the score 0.
    """
    scores = [0.0] * found.num_rows if query is None else cosines(vectors_of(found), query).tolist()
    rows = found.select([*dict.fromkeys(["id", *columns])]).to_pylist()
    ranked = sorted(zip(rows, scores, strict=True), key=lambda pair: (-pair[1], pair[0]["id"]))
    return [{**{name: row[name] for name in columns}, "score": score} for row, score in ranked]
