"""The vector index: which kind, used only after its recall was measured, again after growth, built again on decay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from frameloom.store import ClipTable
from frameloom.store.table import index, lance, nearest
from helpers.stores import METADATA, make_row

DIM = 16


def vectors(number: int, seed: int = 0) -> np.ndarray:
    """Thirty clusters in which every row has near neighbours."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((30, DIM))
    found = centres[rng.integers(0, 30, number)] + 0.3 * rng.standard_normal((number, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def rows(serials: range, seed: int = 0) -> list[dict]:
    found = vectors(len(serials), seed)
    return [make_row(serial, vector=vector) for serial, vector in zip(serials, found, strict=True)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes at which a table of hundreds of rows is a large one."""
    monkeypatch.setattr(index, "MATRIX_BYTES", 10_000)
    monkeypatch.setattr(nearest, "MATRIX_BYTES", 10_000)
    monkeypatch.setattr(index, "PARTITION_ROWS", 64)
    monkeypatch.setattr(nearest, "SCANNED_ROWS", 50)


@pytest.fixture
def table(tmp_path):
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    table.apply(rows(range(1000)))
    return table


@pytest.fixture
def ways(monkeypatch):
    """By which way questions were answered."""
    taken = []
    for name in ("_by_scan", "_by_index"):
        original = getattr(nearest.PinnedVersion, name)

        def counting(self, *given, original=original, name=name):
            taken.append(name)
            return original(self, *given)

        monkeypatch.setattr(nearest.PinnedVersion, name, counting)
    return taken


def recall(table, where=None, *, top=10):
    """Share of the rows of a comparison with all that the table's search finds."""
    stored = table.get(where, columns=["id", "vector"])
    matrix = np.array([one["vector"] for one in stored], np.float32)
    shares = []
    for question in vectors(30, seed=99):
        order = np.argsort(-(matrix @ question))[:top]
        found = {one["id"] for one in table.search(question, where=where, top=top, columns=["id"])}
        shares.append(len(found & {stored[place]["id"] for place in order}) / len(order))
    return np.mean(shares)


@pytest.mark.parametrize(
    ("num_rows", "dim", "kind"),
    [
        (100_000, 512, None),
        (131_072, 512, None),
        (131_073, 512, "IVF_SQ"),
        (1_000_000, 512, "IVF_SQ"),
        (10_000_000, 512, "IVF_RQ"),
        (10_000_000, 500, "IVF_SQ"),  # a bit for each number takes whole bytes
        (60, 4096, None),
    ],
)
def test_size_and_width_choose_the_kind(num_rows, dim, kind, monkeypatch):
    monkeypatch.setattr(index, "MATRIX_BYTES", 256 * 2**20)
    assert index.kind_for(num_rows, dim) == kind


def test_a_small_table_has_no_index(tmp_path, ways):
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    table.apply(rows(range(100)))
    table.tend_index()
    assert table.index_record() is None
    assert recall(table) == 1
    assert ways == ["_by_scan"]  # the second question is answered from memory


def test_an_index_answers_after_its_recall_was_measured(table, ways):
    assert recall(table) == 1
    assert {*ways} == {"_by_scan"}
    version = table.tend_index()
    record = table.index_record()
    assert version == table.version()
    assert record.kind == "IVF_SQ"
    assert (record.num_rows, record.trained_rows, record.num_partitions) == (1000, 1000, 15)
    assert 0.99 <= record.recall <= 1
    ways.clear()
    assert recall(table) >= 0.99  # of questions that are not of the table
    assert {*ways} == {"_by_index"}
    assert table.tend_index() == version  # nothing to do
    assert table.index_record() == record


def test_filtered_questions_find_what_a_comparison_finds(table, ways):
    table.tend_index()
    for where in ("take % 2 = 0", "take < 100", "take < 10", "take = 5 OR take = 7"):
        assert recall(table, where) >= 0.98
    assert recall(table, "take % 2 = 0", top=30) >= 0.98
    assert table.search(vectors(1)[0], where="take < 0") == []
    assert {*ways} == {"_by_index", "_by_scan"}


def test_a_row_has_one_score_whichever_way_finds_it(table):
    question = vectors(1, seed=5)[0]
    by_scan = table.search(question, top=5, columns=["id"])
    table.tend_index()
    assert table.search(question, top=5, columns=["id"]) == by_scan


def test_rows_that_came_later_are_found_at_once(table, ways):
    table.tend_index()
    new = rows(range(5000, 5010), seed=3)
    table.apply(new, ["id-000"])
    for row in new:
        assert table.search(row["vector"], top=1, columns=["id"])[0]["id"] == row["id"]
    assert {*ways} == {"_by_index"}


def test_after_growth_it_is_measured_again_and_at_last_built_again(table):
    table.tend_index()
    first = table.index_record()
    table.apply(rows(range(1000, 1050), seed=1))
    table.tend_index()
    assert table.index_record() == first  # by less than a tenth
    table.apply(rows(range(1050, 1500), seed=2))
    table.tend_index()
    second = table.index_record()
    assert (second.num_rows, second.trained_rows, second.built) == (1500, 1000, first.built)
    assert second.identity != first.identity
    table.apply(rows(range(1500, 2100), seed=3))
    table.tend_index()
    assert (table.index_record().trained_rows, table.index_record().num_partitions) == (2100, 32)


def test_an_index_whose_recall_has_decayed_is_built_again(table, monkeypatch):
    table.tend_index()
    first, original, shares = table.index_record(), index._recall, []

    def decayed(*given, **named):
        shares.append(0.5 if len(shares) < len(index._NPROBES) else original(*given, **named))
        return shares[-1]

    monkeypatch.setattr(index, "_recall", decayed)
    table.apply(rows(range(1000, 1200), seed=1))
    monkeypatch.setattr(index, "_NPROBES", (1, 2, 4))
    table.tend_index()
    assert table.index_record().built > first.built
    assert table.index_record().recall >= 0.99


def test_an_index_that_finds_too_little_is_not_used(table, ways, monkeypatch):
    monkeypatch.setattr(index, "_recall", lambda *given, **named: 0.9)
    table.tend_index()
    assert table.index_record().recall == 0.9
    assert recall(table) == 1
    assert {*ways} == {"_by_scan"}


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"recall": 1.0}', b"\xff" * 100])
def test_a_record_that_cannot_be_read_is_none(table, ways, content):
    table.tend_index()
    table._folder.index_record.write_bytes(content)
    assert table.index_record() is None
    assert recall(table) == 1
    assert {*ways} == {"_by_scan"}
    table.tend_index()
    assert table.index_record().recall >= 0.99


def test_the_record_of_another_index_is_not_trusted(table, ways):
    table.tend_index()
    path = table._folder.index_record
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "identity": ["0" * 32, *record["identity"][1:]]}))
    assert recall(table) == 1
    assert {*ways} == {"_by_scan"}
    table.tend_index()  # measured again, and published
    ways.clear()
    recall(table)
    assert {*ways} == {"_by_index"}


def test_merging_files_unpublishes_until_it_is_measured(table, ways):
    table.tend_index()
    for serial in range(3):
        table.apply(rows(range(2000 + serial, 2001 + serial)))
    table.optimize(keep_seconds=0.0)
    before = table.index_record()
    table.tend_index()
    recall(table)
    assert {*ways} == {"_by_index"}
    assert table.index_record().built == before.built


def test_a_run_of_many_commits_ends_with_an_index_that_is_used(table, ways, monkeypatch):
    """Young versions are kept, so that there are many of them also after files were merged."""
    monkeypatch.setattr(lance, "MAX_VERSIONS", 4)
    for serial in range(6):
        table.apply(rows(range(2000 + serial, 2001 + serial)))
    table.finish()
    version = table.tend_index()
    assert table.num_versions() > lance.MAX_VERSIONS
    recall(table)
    assert {*ways} == {"_by_index"}
    assert ClipTable(table.uri).rows() == table.rows()
    assert table.tend_index() == version


def test_a_table_that_has_become_small_needs_no_index(table):
    table.tend_index()
    table.apply([], [f"id-{serial:03d}" for serial in range(100, 1000)])
    table.tend_index()
    assert table.index_record() is None
    assert index.vector_index(table._lance.open()) is None
    assert recall(table) == 1


WRITER = """
import sys
from frameloom.store import ClipTable
from frameloom.store.table import index
index.MATRIX_BYTES, index.PARTITION_ROWS = 10_000, 64
ClipTable(sys.argv[1]).tend_index()
"""


@pytest.mark.parametrize("step", ["table.committed", "table.measured", "index.half", "index.synced"])
def test_a_kill_leaves_a_table_that_opens_and_is_searched_exactly(table, step):
    done = subprocess.run(
        [sys.executable, "-c", WRITER, table.uri],
        env={**os.environ, "FRAMELOOM_FAILPOINT": f"{step}:kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert table.index_record() is None
    assert recall(table) == 1
    assert table.recover(None) == []
    table.tend_index()
    assert table.index_record().recall >= 0.99
    assert not list(Path(table.uri).glob("*.tmp"))
    assert not list(Path(table.uri).glob(".*.tmp"))


def test_a_dropped_table_takes_its_record_with_it(table):
    table.tend_index()
    table.drop()
    assert table.index_record() is None
    assert [path.name for path in Path(table.uri).iterdir()] == []
