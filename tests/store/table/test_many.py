"""Several questions at once are answered as one by one, in every way that a table is searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import InputError
from frameloom.store import ClipTable
from frameloom.store.table import index, nearest
from helpers.stores import METADATA, make_row

DIM = 16


def unit(number: int, seed: int) -> np.ndarray[Any, Any]:
    found = np.random.default_rng(seed).standard_normal((number, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=["matrix", "scan", "index"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipTable:
    """Rows in several fragments, of which some were deleted and some replaced, with ties."""
    if request.param != "matrix":
        monkeypatch.setattr(nearest, "MATRIX_BYTES", 1000)
    if request.param == "index":
        monkeypatch.setattr(index, "MATRIX_BYTES", 1000)
        monkeypatch.setattr(index, "PARTITION_ROWS", 64)
        monkeypatch.setattr(nearest, "SCANNED_ROWS", 50)
    monkeypatch.setattr(nearest, "_BLOCK_QUESTIONS", 4)
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    vectors = unit(400, 1)
    vectors[7::50] = vectors[7]
    for first in (200, 0, 300, 100):
        rows = [make_row(serial, vector=vectors[serial]) for serial in range(first, first + 100)]
        table.apply(rows, [f"id-{serial:03}" for serial in range(first - 20, first - 15) if first == 300])
    table.apply([make_row(serial, vector=vectors[serial]) for serial in range(50, 60)])
    if request.param == "index":
        table.tend_index()
        assert table.index_record() is not None
    return table


@pytest.mark.parametrize(
    ("where", "top"), [(None, 1), (None, 1000), ("id < 'id-350'", 10), ("id < 'id-020'", 10), ("id = 'none'", 10)]
)
def test_the_answers_are_those_of_one_by_one(table: ClipTable, where: str | None, top: int) -> None:
    questions = [*unit(8, 2) * 3, make_row(7, vector=unit(400, 1)[7])["vector"]]
    together = table.search_many(questions, where=where, top=top)
    assert len(together) == len(questions)
    apart = [table.search(one, where=where, top=top) for one in questions]
    assert together == apart
    assert [[row["id"] for row in table.search_many([one], top=3, columns=["id"])[0]] for one in questions[:3]] == [
        [row["id"] for row in table.search(one, top=3)] for one in questions[:3]
    ]


def test_a_wrong_question_among_them_is_refused(table: ClipTable) -> None:
    good = unit(1, 3)[0]
    assert table.search_many([], top=3) == []
    for wrong in (good[:5], np.zeros(DIM), np.full(DIM, np.nan)):
        with pytest.raises(InputError, match="query"):
            table.search_many([good, wrong])
    with pytest.raises(InputError, match="column"):
        table.search_many([good], where="none = 1")
    with pytest.raises(InputError, match="top"):
        table.search_many([good], top=0)


def test_vectors_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    table.apply([make_row(serial, vector=vector) for serial, vector in enumerate(unit(300, 4))])
    made: list[int] = []
    original = nearest._Matrix.__init__

    def counting(self: Any, *given: Any) -> None:
        made.append(1)
        original(self, *given)

    monkeypatch.setattr(nearest._Matrix, "__init__", counting)
    monkeypatch.setattr(nearest.PinnedVersion, "_by_scan", lambda *given: pytest.fail("a scan"))
    table.search_many(unit(100, 5))
    table.search_many(unit(100, 6))
    assert made == [1]
