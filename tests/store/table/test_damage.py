"""A bit that changes in any file of the table is found before what it says is shown or shown to LanceDB."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from frameloom._vocabulary import IntegrityError
from frameloom.store import ClipTable
from frameloom.store.health import Kind, repair_table, verify_table
from helpers.stores import DIM, METADATA, make_row, unit

QUESTION = unit(3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with deleted rows and an index of captions."""
    table = ClipTable(tmp_path_factory.mktemp("written"))
    table.create(DIM, METADATA)
    table.apply([make_row(serial) for serial in range(12)])
    table.apply([make_row(2, split="val"), make_row(20)], ["id-005", "id-007"])
    table.tend_index()
    return Path(table.uri)


@pytest.fixture
def table(written: Path, tmp_path: Path) -> ClipTable:
    return ClipTable(shutil.copytree(written, tmp_path / "copy"))


def contents(table: ClipTable) -> dict[str, dict]:
    return {row["id"]: row for row in table.get(columns=table.schema().names)}


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def files(table: ClipTable, pattern: str) -> list[Path]:
    return sorted(path for path in (Path(table.uri) / "clips.lance").rglob(pattern) if path.is_file())


def mended(table: ClipTable) -> list[str]:
    """What is left after a repair, which must be rows as they were written."""
    list(repair_table(table, last_durable_version=table.version()))
    assert list(verify_table(table)) == []
    return sorted(table.rows().column("id").to_pylist()) if table.exists() else []


@pytest.mark.parametrize("pattern", ["*.manifest", "_deletions/*"])
def test_a_flipped_bit_in_what_says_which_rows_there_are(table: ClipTable, pattern: str) -> None:
    whole, randomly = contents(table), random.Random(0)
    (path, *_) = files(table, pattern)  # the newest manifest sorts first
    for _ in range(12):
        folder = shutil.copytree(table.uri, Path(table.uri).with_name("flipped"), dirs_exist_ok=False)
        copy = ClipTable(folder)
        target = folder / path.relative_to(table.uri)
        flip(target, randomly.randrange(target.stat().st_size), randomly.randrange(8))
        for ask in (
            copy.count,
            lambda copy=copy: copy.search(QUESTION),
            lambda copy=copy: copy.recover(copy.version()),
        ):
            with pytest.raises(IntegrityError, match="frameloom repair"):
                ask()
        assert {one.kind for one in verify_table(copy)} == {Kind.TABLE}
        left = mended(copy)
        found = contents(copy) if left else {}
        assert all(name in ("id-002", "id-005", "id-007") or row == whole[name] for name, row in found.items())
        copy.create(DIM, METADATA)
        copy.apply([{**make_row(30)}])
        assert list(verify_table(copy)) == []
        shutil.rmtree(folder)


def test_a_flipped_bit_in_an_older_version_is_set_aside_by_the_next_run(table: ClipTable) -> None:
    before = contents(ClipTable(table.uri))
    flip(files(table, "*.manifest")[-1], 40)
    assert contents(table) == before
    (line,) = table.recover(table.version())
    assert "set aside" in line
    assert contents(table) == before
    assert list(verify_table(table)) == []


def test_a_flipped_bit_in_an_index_is_found_and_the_index_made_again(table: ClipTable) -> None:
    before = contents(table)
    target = max(files(table, "_indices/*/*"), key=lambda path: path.stat().st_size)
    flip(target, target.stat().st_size // 2)
    assert [one.kind for one in verify_table(table)] == [Kind.TABLE]
    assert mended(table) == sorted(before)
    table.tend_index()
    assert contents(table) == before
    assert table.search_text("caption", QUESTION, top=20)
    assert list(verify_table(table)) == []


def test_no_flipped_bit_of_the_data_is_served(table: ClipTable) -> None:
    whole, randomly = contents(table), random.Random(1)
    wanted = [{**row, "score": None} for row in table.search(QUESTION, top=12)]
    num_found = 0
    for number in range(40):
        folder = shutil.copytree(table.uri, Path(table.uri).with_name(f"flipped{number}"))
        copy = ClipTable(folder)
        target = randomly.choice(files(copy, "data/*.lance"))
        flip(target, randomly.randrange(target.stat().st_size), randomly.randrange(8))
        findings = list(verify_table(copy))
        num_found += bool(findings)
        for _ in range(2):  # by a scan, and by the matrix of the vectors
            try:
                served = [{**row, "score": None} for row in copy.search(QUESTION, top=12)]
            except IntegrityError:
                assert findings
            else:
                assert served == wanted or findings
                assert all(row in wanted for row in served)
        if not findings:
            assert contents(copy) == whole
        else:
            names = mended(copy)
            assert all(
                contents(copy)[name] == whole[name] for name in names if name not in ("id-002", "id-005", "id-007")
            )
        shutil.rmtree(folder)
    assert num_found


@pytest.mark.parametrize(
    "values", [{"vector": unit(99).tolist()}, {"fingerprint": "0" * 32}, {"split": "val"}, {"take": 77}], ids=str
)
def test_a_row_that_is_another_one_is_not_served_and_is_named(table: ClipTable, values: dict) -> None:
    table._lance.open().update(where="id = 'id-003'", values=values)
    table._folder.sync_since(set())
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"id-003.*frameloom repair"):
            table.search(QUESTION)
    assert {(one.kind, one.key) for one in verify_table(table)} == {(Kind.BAD_ROW, "id-003")}
    assert "id-003" not in mended(table)
    assert table.search(QUESTION)[0]["id"] != "id-003"


def test_the_vector_of_another_row_has_another_checksum(table: ClipTable) -> None:
    table._lance.open().update(where="id = 'id-003'", values={"vector": unit(4).tolist()})
    for columns in (None, ["id"], ["path"]):
        with pytest.raises(IntegrityError, match="id-003"):
            table.search(unit(4), columns=columns)


def test_rows_of_questions_asked_together_are_compared_with_their_checksums(table: ClipTable) -> None:
    table._lance.open().update(where="id = 'id-003'", values={"path": "another.mp4"})
    with pytest.raises(IntegrityError, match="id-003"):
        table.search_many([unit(4), QUESTION], top=1, columns=["path"])
    assert table.search_many([QUESTION], top=1, columns=["id"])[0][0]["id"] == "id-003"  # which is what was written


def test_a_column_that_is_added_later_changes_no_checksum(table: ClipTable) -> None:
    table.add_metadata_columns({**METADATA, "late": "string"})
    assert list(verify_table(table)) == []
    assert table.search(QUESTION)[0]["id"] == "id-003"


def test_a_table_of_an_older_format_is_read_without_checksums(table: ClipTable) -> None:
    table._lance.open().drop_columns(["row_checksum", "vector_checksum"])
    assert table.search(QUESTION)[0]["id"] == "id-003"
    table.apply([make_row(3, vector=unit(3)), make_row(99, vector=unit(9))])  # and written without them
    assert "vector_checksum" not in table.schema().names
    assert {row["id"] for row in table.search(unit(9), top=2, columns=["id"])} >= {"id-099"}


def test_damaged_data_is_not_told_as_a_wrong_filter(table: ClipTable) -> None:
    for path in files(table, "data/*.lance"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError, match="frameloom repair"):
        table.search(QUESTION, where="split = 'test'")
