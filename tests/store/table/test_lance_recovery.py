"""The table after kills and power cuts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from frameloom._files import FailPointError
from frameloom._vocabulary import IntegrityError, OutOfSpaceError
from frameloom.store import ClipTable
from frameloom.store.table import held
from helpers.stores import DIM, METADATA, make_row, unit

STEPS = ["table.upserted", "table.deleted", "table.committed", "table.synced"]
KILLED_AT = ["table.upserted", "table.committed"]  # between the commits, and before they are synced
WRITER = """
import sys, json
from frameloom.store import ClipTable
rows, doomed = json.load(sys.stdin)
ClipTable(sys.argv[1]).apply(rows, doomed)
"""


@pytest.fixture
def table(tmp_path):
    table = ClipTable(tmp_path / "vectors")
    table.create(DIM, METADATA)
    table.apply([make_row(serial) for serial in range(10)])
    return table


def head_manifest(table):
    return min((table._folder.path / "_versions").glob("*.manifest"))


@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_leaves_a_table_that_finishes(table, monkeypatch, step):
    durable = table.version()
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", f"{step}:raise")
    with pytest.raises(FailPointError):
        table.apply([make_row(3), make_row(50)], ["id-000"])
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert table.recover(durable) == []
    assert {f"id-{serial:03d}" for serial in range(1, 10)} <= set(table.rows()["id"].to_pylist())
    table.apply([make_row(3), make_row(50)], ["id-000"])
    assert table.rows()["id"].to_pylist() == [*(f"id-{serial:03d}" for serial in range(1, 10)), "id-050"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A table for each step, whose writer was killed at that step. The writers run side by side."""
    import json

    base = tmp_path_factory.mktemp("killed")
    batch = json.dumps([[{**make_row(50), "vector": unit(50).tolist()}], ["id-000"]])
    writers = {}
    for step in KILLED_AT:
        table = ClipTable(base / step)
        table.create(DIM, METADATA)
        durable = table.apply([make_row(serial) for serial in range(10)]).version
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, table.uri],
            stdin=subprocess.PIPE,
            env={**os.environ, "FRAMELOOM_FAILPOINT": f"{step}:kill"},
            text=True,
        )
        writer.stdin.write(batch)
        writer.stdin.close()
        writers[step] = (table, durable, writer)
    for _, _, writer in writers.values():
        assert writer.wait() == -signal.SIGKILL
    return writers


@pytest.mark.parametrize("step", KILLED_AT)
def test_a_killed_writer_leaves_a_table_that_opens_and_finishes(killed, step):
    table, durable, _ = killed[step]
    assert table.recover(durable) == []
    assert table.count() == (11 if step == "table.upserted" else 10)
    table.apply([make_row(50)], ["id-000"])
    assert table.rows()["id"].to_pylist() == [*(f"id-{serial:03d}" for serial in range(1, 10)), "id-050"]


@pytest.mark.parametrize("kept", ["nothing", "half", "zeros"])
@pytest.mark.parametrize("known", [True, False])
def test_a_torn_newest_version_is_set_aside(table, kept, known):
    durable = table.version()
    table.apply([make_row(50)], ["id-000"])
    while table.version() != durable:  # both commits of the apply
        manifest = head_manifest(table)
        whole = manifest.read_bytes()
        torn = {"nothing": b"", "half": whole[: len(whole) // 2], "zeros": bytes(len(whole))}[kept]
        manifest.write_bytes(torn)
        with pytest.raises(IntegrityError, match=r"run `frameloom repair`, then `frameloom sync`"):
            table.count()
        told = table.recover(durable if known else None)
        assert len(told) == 1
        assert "set aside as" in told[0]
    assert table.count() == 10
    assert table.recover(durable) == []
    assert len(list((table._folder.path.parent / ".quarantine" / "clips.lance").iterdir())) == 2
    assert table.apply([make_row(50)], ["id-000"]).version > durable
    assert table.rows().num_rows == 10


@pytest.mark.parametrize("kept", [b"", None])
def test_a_version_whose_data_never_reached_the_disk_is_set_aside(table, kept):
    durable = table.version()
    before = set((table._folder.path / "data").iterdir())
    table.apply([make_row(50)])
    (new,) = set((table._folder.path / "data").iterdir()) - before
    new.unlink() if kept is None else new.write_bytes(kept)
    (told,) = table.recover(durable)
    assert "was never finished" in told
    assert table.version() == durable
    assert table.rows().num_rows == table.count() == 10


def test_a_version_with_pages_of_zeros_is_set_aside(table):
    durable = table.version()
    before = set((table._folder.path / "data").iterdir())
    table.apply([make_row(50)])
    (new,) = set((table._folder.path / "data").iterdir()) - before
    numbers, content = unit(50).tobytes(), new.read_bytes()
    assert numbers in content
    new.write_bytes(content.replace(numbers, bytes(len(numbers))))
    (told,) = table.recover(durable)
    assert "1 rows are not what was written" in told
    assert table.count() == 10


def test_what_a_killed_process_left_next_to_the_table_is_removed(table):
    table.finish()
    folder = table._folder.path.parent
    (folder / "..clips.rows.none.1-1.tmp").write_bytes(b"?")
    (folder / ".clips.lance.dropped" / "data").mkdir(parents=True)
    assert table.recover(table.version()) == []
    assert sorted(path.name for path in folder.iterdir()) == [".clips.files", ".clips.rows", "clips.lance"]


def test_a_torn_first_version_means_that_there_is_no_table(tmp_path):
    table = ClipTable(tmp_path)
    table.create(DIM, METADATA)
    head_manifest(table).write_bytes(b"")
    assert len(table.recover(None)) == 1
    assert not table.exists()
    table.create(DIM, METADATA)
    assert table.apply([make_row(1)]).inserted == 1


def test_a_durable_version_that_cannot_be_read_is_never_set_aside(table):
    durable = table.version()
    for data in (table._folder.path / "data").iterdir():
        data.write_bytes(b"")
    with pytest.raises(IntegrityError, match="frameloom repair"):
        table.recover(durable)
    assert table.version() == durable


def test_a_table_older_than_the_ledger_says_so_and_goes_on(table):
    (told,) = table.recover(table.version() + 5)
    assert "missing rows are embedded anew" in told


def test_every_new_file_and_its_folders_are_synced_before_apply_returns(table, monkeypatch):
    synced = set()
    fsync = os.fsync

    def watched(descriptor):
        fsync(descriptor)
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", watched)
    folder = table._folder.path
    before = set(folder.rglob("*"))
    table.apply([make_row(3), make_row(50)], ["id-000"])
    new = set(folder.rglob("*")) - before
    assert len(new) >= 6  # data, deletions, transactions and two manifests
    assert {str(path) for path in new} <= synced
    assert {str(path.parent) for path in new} | {str(folder), str(folder.parent)} <= synced


def test_a_full_disk_is_out_of_space(table, monkeypatch):
    from frameloom.store.table import lance

    def full(*given, **named):
        raise RuntimeError("lance error: LanceError(IO): write failed: No space left on device (os error 28)")

    monkeypatch.setattr(lance.ClipTable, "_upsert", full)
    with pytest.raises(OutOfSpaceError, match="free some space"):
        table.apply([make_row(50)])
    monkeypatch.undo()
    assert table.count() == 10


def test_wrong_counts_are_never_silent(table, monkeypatch):
    from frameloom.store.table import lance

    monkeypatch.setattr(lance.ClipTable, "_upsert", lambda *given, **named: None)
    with pytest.raises(IntegrityError, match="after the commit"):
        table.apply([make_row(50)])


def test_rows_that_are_double_are_found(table, monkeypatch):
    inner = table._lance.database().open_table("clips")
    inner.add(inner.search().limit(2).to_arrow())
    with pytest.raises(IntegrityError, match="2 duplicate rows"):
        table.rows()
    with pytest.raises(IntegrityError, match="2 duplicate rows"):
        table.apply([make_row(3)])
    table._held.forget()
    monkeypatch.setattr(held, "LARGE_ROWS", 1)
    doubled = inner.search().limit(2).to_arrow().column("id").to_pylist()
    with pytest.raises(IntegrityError, match="2 duplicate rows"):
        table.apply([], doubled)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_while_files_are_merged_loses_no_row(nth, table, monkeypatch):
    """What is merged is durable before what it replaces is dropped."""
    for serial in range(10, 16):
        table.apply([make_row(serial)])
    durable, commits, synced = table.version(), [], table._folder.sync_since

    def killed(before):
        commits.append(table._folder.num_versions())
        if len(commits) == nth:
            raise FailPointError
        synced(before)

    monkeypatch.setattr(table._folder, "sync_since", killed)
    with pytest.raises(FailPointError):
        table.optimize(keep_seconds=0.0)
    assert commits[0] > durable > commits[-1] or nth == 1
    assert ClipTable(table.uri).recover(durable) == []
    assert ClipTable(table.uri).rows().num_rows == 16
