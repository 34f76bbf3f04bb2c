from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from frameloom._vocabulary import ConfigError, InputError, IntegrityError
from frameloom.store import ClipTable, metadata_of, quoted
from frameloom.store.table import held, lance
from helpers.children import run_python
from helpers.stores import DIM, METADATA, make_row, unit


@pytest.fixture
def table(tmp_path):
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    return table


@pytest.fixture
def filled(table):
    table.apply([make_row(serial) for serial in range(10)])
    return table


def test_the_client_of_rest_catalogues_is_loaded_when_it_is_used(filled, tmp_path):
    code = (
        "import sys; from frameloom.store import ClipTable; print(ClipTable(sys.argv[1]).count());"
        " name = 'lance_namespace_urllib3_client'; print(name + '.api' in sys.modules);"
        " print(sys.modules[name].BranchApi.__name__, hasattr(sys.modules[name], 'nothing'))"
    )
    assert run_python(code, str(tmp_path / "vectors")).split() == ["10", "False", "BranchApi", "False"]


def counts(applied):
    return (applied.inserted, applied.updated, applied.deleted)


def test_a_table_that_is_not_there(tmp_path):
    table = ClipTable(tmp_path / "vectors")
    assert not table.exists()
    assert table.version() is None
    assert table.recover(None) == []
    table.drop()
    with pytest.raises(InputError, match=r"no table 'clips'.*run embed or sync"):
        table.count()
    assert list(tmp_path.iterdir()) == []


def test_counts_are_those_of_the_table(table):
    assert counts(table.apply([make_row(serial) for serial in range(5)])) == (5, 0, 0)
    assert counts(table.apply([make_row(serial) for serial in range(3, 8)])) == (3, 2, 0)
    assert counts(table.apply([make_row(9)], ["id-000", "id-001", "not there"])) == (1, 0, 2)
    assert counts(table.apply([], ["id-002"])) == (0, 0, 1)
    version = table.version()
    assert counts(table.apply([], ["not there"])) == (0, 0, 0)
    assert table.version() == version
    assert table.rows().column("id").to_pylist() == ["id-003", "id-004", "id-005", "id-006", "id-007", "id-009"]
    assert table.count() == 6


def test_an_update_replaces_the_row(filled):
    applied = filled.apply([make_row(3, split="val", vector=unit(99), metadata={"camera": "right"})])
    (row,) = filled.get(ids=["id-003"], columns=["split", "camera", "take", "vector", "metadata"])
    assert (row["split"], row["camera"], row["take"]) == ("val", "right", None)
    assert metadata_of(row) == {"camera": "right"}
    np.testing.assert_array_equal(np.float32(row["vector"]), unit(99))
    assert applied.version == filled.version()


def test_everything_can_be_deleted_and_written_again(filled):
    ids = filled.rows().column("id").to_pylist()
    assert filled.apply([], ids).deleted == 10
    assert filled.count() == 0
    assert filled.rows().num_rows == 0
    assert filled.search(unit(1)) == []
    assert filled.apply([make_row(1)]).inserted == 1


def test_rows_give_the_plan_columns(filled):
    rows = filled.rows()
    assert rows.schema.names == ["id", "video", "fingerprint", "row_digest"]
    assert rows.column("row_digest")[4].as_py() == make_row(4)["row_digest"]


def test_search_is_by_cosine_and_scores_are_similarities(filled):
    query = unit(4) * 7
    found = filled.search(query, top=10, columns=["id", "video"])
    expected = sorted(((float(unit(serial) @ unit(4)), f"id-{serial:03d}") for serial in range(10)), reverse=True)
    assert [row["id"] for row in found] == [name for _, name in expected]
    assert [row["score"] for row in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert set(found[0]) == {"id", "video", "score"}
    assert "vector" not in filled.search(query)[0]


def test_filters_come_before_the_search(filled):
    found = filled.search(unit(4), where="split = 'test' AND take > 4", top=3)
    assert {row["id"] for row in found} == {"id-005", "id-007", "id-009"}
    assert filled.count("camera = 'left' AND indoors IS NULL") == 10
    assert [row["id"] for row in filled.get("take IN (8, 2)", columns=["id"])] == ["id-002", "id-008"]
    assert [row["id"] for row in filled.get("take > 3", ids=["id-008", "id-001", "id-005"])] == ["id-008", "id-005"]


@pytest.mark.parametrize("top", [1, 3, 12, 13, 40])
def test_equal_scores_are_in_the_order_of_ids_even_where_they_are_cut(table, top):
    rows = [make_row(serial, vector=unit(7)) for serial in range(40)]
    for part in (rows[30:], rows[10:20], rows[20:30], rows[:10]):
        table.apply(part)
    table.apply([make_row(99, vector=-unit(7))])
    assert [row["id"] for row in table.search(unit(7), top=top)] == [f"id-{serial:03d}" for serial in range(top)]


@pytest.mark.parametrize(
    "vector", [np.full(DIM, np.nan), np.full(DIM, np.inf), np.zeros(DIM), unit(1, DIM + 1), [[1.0] * DIM], "text", None]
)
def test_a_query_that_means_nothing_is_refused(filled, vector):
    with pytest.raises(InputError, match="query"):
        filled.search(vector)


@pytest.mark.parametrize("top", [0, -1, 10**9])
def test_top_has_bounds(filled, top):
    with pytest.raises(InputError, match="from 1 to"):
        filled.search(unit(1), top=top)


@pytest.mark.parametrize(
    "where",
    [
        "speed = 1",
        "take = 'three'",
        "take =",
        "take",
        "1 / 0 = take",
        "take = 1; DROP TABLE clips",
        "take = 1 -- rest",
        "",
        "(" * 60 + "true" + ")" * 60,
        "NOT " * 900 + "true",
        "take = 1 OR " * 2000 + "true",
    ],
)
def test_a_wrong_filter_is_the_users_error_and_changes_nothing(filled, where):
    version = filled.version()
    for ask in (filled.count, filled.get, lambda where: filled.search(unit(1), where=where)):
        with pytest.raises(InputError, match="filter"):
            ask(where)
    assert filled.version() == version
    assert filled.count() == 10


def test_a_wrong_filter_names_the_columns_that_exist(filled):
    with pytest.raises(InputError, match=r"Columns: id, clip, video,.* camera, take, loudness, indoors"):
        filled.search(unit(1), where="speed = 1")
    with pytest.raises(InputError, match="no column is called 'vidoe': did you mean video"):
        filled.get(columns=["vidoe"])


def test_semicolons_and_dashes_inside_quotes_are_text(filled):
    assert filled.count("camera = 'a;b -- c /* it''s'") == 0
    assert filled.count("\"camera\" = 'left'") == 10


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vector": np.full(DIM, np.nan)}, "'id-005'.*length nan"),
        ({"vector": np.full(DIM, np.inf)}, "'id-005'.*length inf"),
        ({"vector": np.zeros(DIM)}, "'id-005'.*length 0"),
        ({"vector": unit(1) * 2}, "'id-005'.*length 2"),
        ({"vector": unit(1, DIM + 1)}, r"'id-005'.*shape \(9,\)"),
        ({"vector": None}, "'id-005'.*shape"),
        ({"id": "id-006"}, "duplicate id 'id-006'"),
        ({"video": None}, "'id-005' has no video"),
        ({"start_seconds": "soon"}, "column 'start_seconds'"),
        ({"metadata": {"take": "three"}}, "column 'take'"),
        ({"metadata": {"speed": 1}}, "no column is called 'speed'"),
        ({"capitons": []}, "did you mean captions"),
    ],
)
def test_a_row_that_must_not_be_stored_is_refused_with_the_whole_batch(filled, changes, complaint):
    version = filled.version()
    batch = [make_row(serial) for serial in range(20, 25)] + [make_row(5, **changes), make_row(6)]
    with pytest.raises(InputError, match=complaint):
        filled.apply(batch)
    assert filled.version() == version


def test_a_missing_column_and_an_id_on_both_sides_are_refused(filled):
    row = make_row(1)
    del row["model"]
    with pytest.raises(InputError, match="need a column 'model'"):
        filled.apply([row])
    with pytest.raises(InputError, match="'id-001' is both"):
        filled.apply([make_row(1)], ["id-001"])


def test_rows_may_come_as_an_arrow_table(filled):
    rows = pa.Table.from_pylist(
        [{**make_row(serial), "metadata": "{}", "vector": unit(serial).tolist()} for serial in (3, 30)]
    )
    assert counts(filled.apply(rows)) == (1, 1, 0)
    np.testing.assert_allclose(filled.get(ids=["id-030"], columns=["vector"])[0]["vector"], unit(30))
    with pytest.raises(InputError, match="column 'vector'"):
        filled.apply(rows.drop(["vector"]).append_column("vector", pa.array([[1.0], [1.0]])))


def test_metadata_columns_grow(filled):
    filled.add_metadata_columns({"take": "int64", "weather": "string"})
    filled.apply([make_row(1, metadata={"weather": "rain"})])
    assert filled.count("weather = 'rain'") == 1
    assert filled.count("weather IS NULL") == 9
    filled.create(DIM, {"lens": "double"})
    assert "lens" in filled.schema().names
    with pytest.raises(ConfigError, match=r"'take' is string.*int64"):
        filled.add_metadata_columns({"take": "string"})


@pytest.mark.parametrize("name", ["id", "Vector", "score", "_rowid", "a.b", "", "x" * 64, "it's", 'say "hi"', "tab\t"])
def test_metadata_names_that_cannot_be_columns_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="metadata"):
        ClipTable(tmp_path / "vectors").create(DIM, {name: "string"})
    assert list(tmp_path.iterdir()) == []


def test_metadata_names_with_blanks_and_capitals_can_be_filtered(tmp_path):
    table = ClipTable(tmp_path)
    table.create(DIM, {"Shot by": "string", "straße": "int64"})
    table.apply([make_row(1, metadata={"Shot by": "Ada", "straße": 3})])
    assert table.count("\"Shot by\" = 'Ada' AND `straße` = 3") == 1
    with pytest.raises(ConfigError, match="differ only in case"):
        table.add_metadata_columns({"Take": "int64", "take": "int64"})
    with pytest.raises(ConfigError, match="'object'; allowed: string"):
        table.add_metadata_columns({"x": "object"})


@pytest.mark.parametrize("name", ["", "Clips", "1clips", ".hidden", "../clips", "a-b", "x" * 64])
def test_a_table_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="table name"):
        ClipTable(tmp_path, name)


def test_a_model_of_another_width_is_refused(filled):
    with pytest.raises(ConfigError, match="width 8, and the model gives 16"):
        filled.create(16, {})


def test_a_table_of_another_format_is_refused(filled):
    filled._lance.database().create_table("other", schema=pa.schema([pa.field("id", pa.string())]))
    with pytest.raises(ConfigError, match="format none"):
        ClipTable(filled.uri, "other").count()


def test_a_dropped_table_is_gone_and_can_be_made_again(filled):
    filled.drop()
    assert not filled.exists()
    filled.create(4, {})
    assert (filled.dim(), filled.count(), filled.rows().num_rows) == (4, 0, 0)


def hostile_ids() -> list[str]:
    chance = random.Random(3)
    planes = [(0x20, 0x7F), (0x01, 0x20), (0xA0, 0x2FF), (0x590, 0x6FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    letters = ["'", '"', "\\", "%", "_", "`", ";", "-", "\u202e", "\u0301"]
    letters += [chr(code) for start, end in planes for code in chance.sample(range(start, end), 15)]
    drawn = ["".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(150)]
    return sorted({"'", "''", "' OR 1=1 --", "') OR true --", "a\\'b", "%", "_", " ", "NULL", "id", *drawn})


def test_any_id_is_matched_literally(table):
    ids = hostile_ids()
    table.apply([make_row(place % 50, id=name) for place, name in enumerate(ids)])
    assert [row["id"] for row in table.get(ids=ids, columns=["id"])] == ids
    assert [table.count(f"id = {quoted(name)}") for name in ids] == [1] * len(ids)
    for name in ids[::20]:
        assert table.apply([], [name]).deleted == 1
    assert table.rows()["id"].to_pylist() == [name for place, name in enumerate(ids) if place % 20]


def test_an_injected_id_deletes_nothing_else(filled):
    assert filled.apply([], ["zzz' OR 1=1 --", "') OR true --"]).deleted == 0
    assert filled.count() == 10


def test_many_ids_are_matched_in_parts(filled):
    assert filled.apply([], [f"id-{serial:03d}" for serial in range(5)] + [f"no-{n}" for n in range(1200)]).deleted == 5
    assert len(filled.get(ids=[f"no-{n}" for n in range(1200)] + ["id-009"])) == 1


def test_what_another_process_wrote_is_seen_at_once(filled):
    program = """
import sys, json
from frameloom.store import ClipTable
table = ClipTable(sys.argv[1])
rows = table.get(columns=["id"])
print(json.dumps([table.version(), len(rows), table.apply([], ["id-000"]).version]))
"""
    assert filled.count() == 10
    done = subprocess.run([sys.executable, "-c", program, filled.uri], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    before, num_rows, after = json.loads(done.stdout)
    assert num_rows == 10
    assert filled.version() == after > before
    assert filled.count() == filled.rows().num_rows == 9
    assert "id-000" not in [row["id"] for row in filled.search(unit(0), top=10)]


def test_a_copy_in_another_process_connects_by_itself(filled):
    copy = pickle.loads(pickle.dumps(filled))
    assert copy._lance._database is None
    assert copy.count() == 10


def test_optimize_keeps_the_rows(filled):
    for serial in range(10, 16):
        filled.apply([make_row(serial)])
    before = filled.rows()
    version = filled.optimize(keep_seconds=0.0)
    assert version == filled.version()
    assert filled.rows() == before
    assert filled._read_rows() == before
    assert filled._folder.num_versions() == 1
    assert len(list((filled._folder.path / "data").iterdir())) == 1


def test_a_commit_reads_no_ids_after_the_first(filled, monkeypatch):
    monkeypatch.setattr(held, "_ids_of", lambda *_: pytest.fail("the ids were read"))
    applied = filled.apply([make_row(serial) for serial in range(8, 14)], ["id-000", "not there"])
    assert counts(applied) == (4, 2, 1)
    assert counts(filled.apply([make_row(0), make_row(13)], ["id-001"])) == (1, 1, 1)
    assert filled.count() == 13


def test_a_large_table_is_asked_for_few_ids_and_a_long_run_reads_all(filled, monkeypatch):
    seen = []
    read = held._ids_of
    monkeypatch.setattr(held, "_ids_of", lambda table, where: seen.append(where) or read(table, where))
    monkeypatch.setattr(held, "LARGE_ROWS", 5)
    monkeypatch.setattr(held, "MOST_ASKED", 2)
    fresh = ClipTable(filled.uri)
    assert counts(fresh.apply([make_row(9), make_row(10)], ["id-000", "not there"])) == (1, 1, 1)
    assert counts(fresh.apply([make_row(10), make_row(11)], ["id-010' OR 'a' = 'a"])) == (1, 1, 0)
    assert None not in seen
    assert len(seen) == 2
    for serial in (12, 13):
        assert counts(fresh.apply([make_row(serial)], [f"id-{serial - 1:03d}"])) == (1, 0, 1)
    assert seen[2:] == [None]
    fresh.finish()
    many = [f"id-{number}" for number in range(2 * held.IDS_A_STATEMENT)]
    assert counts(fresh.apply([make_row(14)], many)) == (1, 0, 0)
    assert seen[3:] == [None]
    assert fresh.count() == 12


def test_ids_are_read_again_where_another_process_has_written(filled):
    other = ClipTable(filled.uri)
    assert counts(other.apply([make_row(20)], ["id-003"])) == (1, 0, 1)
    assert counts(filled.apply([make_row(20), make_row(3)], ["id-004"])) == (1, 1, 1)
    assert filled.rows()["id"].to_pylist() == [*(f"id-{n:03d}" for n in range(10) if n != 4), "id-020"]


def test_versions_and_files_stay_few_however_many_commits_there_are(table, monkeypatch):
    monkeypatch.setattr(lance, "MAX_COMMITS", 5)
    monkeypatch.setattr(lance, "MAX_VERSIONS", 3)
    monkeypatch.setattr(lance, "FEW_VERSIONS", 3)
    monkeypatch.setattr(lance, "KEEP_SECONDS", 0.0)
    for serial in range(23):
        assert counts(table.apply([make_row(serial)], [f"id-{serial - 2:03d}"])) == (1, 0, int(serial > 1))
        assert table._folder.num_versions() <= 2 * 5 + 3
    assert table.finish() == table.version()
    assert table._folder.num_versions() <= 3
    assert table.rows()["id"].to_pylist() == ["id-021", "id-022"]


def test_rows_are_known_without_lancedb_until_a_file_changes(filled, monkeypatch):
    filled.finish()
    monkeypatch.setattr(filled, "_read_rows", lambda: pytest.fail("the table was read"))
    fresh = ClipTable(filled.uri)
    monkeypatch.setattr(fresh._lance, "database", lambda: pytest.fail("LanceDB was asked"))
    assert fresh.exists()
    assert fresh.rows().num_rows == 10
    assert fresh.recover(fresh.version()) == []
    next((filled._folder.path / "data").iterdir()).touch()
    with pytest.raises(pytest.fail.Exception):
        fresh.rows()


def test_a_damaged_copy_of_the_rows_is_not_used(filled):
    filled.finish()
    before = filled.rows()
    copy = filled._folder._copy
    for content in (b"", b"PAR1", copy.read_bytes()[:-9]):
        copy.write_bytes(content)
        assert filled.rows() == before


def test_a_flipped_bit_in_the_copy_of_the_rows_makes_no_other_rows(filled):
    filled.finish()
    before, copy = filled.rows(), filled._folder._copy
    whole = copy.read_bytes()
    for place in range(0, len(whole), 7):
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert filled._folder.kept_rows() is None
    assert filled.rows() == before


def test_which_rows_are_replaced_is_known_from_the_table_and_not_from_its_copy(filled):
    filled._folder.keep_rows(filled.rows().slice(0, 0))
    assert counts(ClipTable(filled.uri).apply([make_row(3), make_row(20)])) == (1, 1, 0)
    assert filled.count() == 11


def test_a_file_that_goes_while_the_copy_is_compared_makes_no_error(filled, monkeypatch):
    filled.finish()
    monkeypatch.setattr(filled._folder, "files", lambda: {filled._folder.path / "gone"})
    assert filled._folder.kept_rows() is None


def test_a_question_whose_version_was_dropped_is_asked_of_the_newest(filled, monkeypatch):
    reader = ClipTable(filled.uri)
    old, asked, original = reader._pinned(), [], ClipTable._pinned

    def is_gone(*given):  # LanceDB may hold a file open, and answer from it
        raise RuntimeError("lance error: Not found: data/0.lance")

    monkeypatch.setattr(old, "nearest", is_gone)
    filled.apply([], ["id-003"])
    monkeypatch.setattr(reader, "_pinned", lambda: asked.append(1) or (old if len(asked) == 1 else original(reader)))
    assert len(reader.search(unit(4), top=10)) == 9
    assert len(asked) == 2


def test_a_version_whose_files_are_gone_is_damage(filled):
    for data in (filled._folder.path / "data").iterdir():
        data.unlink()
    with pytest.raises(IntegrityError, match="then `frameloom sync`"):
        ClipTable(filled.uri).search(unit(4))


@pytest.mark.parametrize("where", [None, "take > 3", "take % 2 = 0"])
def test_from_memory_and_by_scan_the_answers_are_equal(filled, where):
    scanned = ClipTable(filled.uri).search(unit(50), where=where, top=4)
    held = ClipTable(filled.uri)
    assert [held.search(unit(50), where=where, top=4) for _ in range(3)] == [scanned] * 3
    assert held._pinned()._matrix is not None
