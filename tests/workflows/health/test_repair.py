"""What verify and repair do about pairs that were made to mislead, and about features that only an import can bring."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom.store.formats import Contents, encode_sidecar
from frameloom.store.formats.records import record_of
from frameloom.store.health import Kind, Repaired
from frameloom.store.health.samples import sample_of
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.exchange.importing import ImportRequest, import_into
from frameloom.workflows.health.report import RepairReport, repair, verify
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.survey import survey
from helpers.exchanging import configure, make_files
from helpers.projects import run_sync
from typer.testing import CliRunner

QUIET = Console(quiet=True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, synced: Path) -> Any:
    monkeypatch.chdir(synced)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def imported_project(folder: Path, given: Path) -> tuple[Project, ImportRequest]:
    """A project whose video features all came by an import."""
    make_files(folder, ("videos/a.mp4", "videos/b.mp4"))
    opened = Project.open(configure(folder, video="imported:x"))
    for name in "ab":
        numbers = np.random.default_rng(ord(name)).standard_normal((4, 96)).astype(np.float16)
        np.save(given / f"{name}.npy", numbers)
    request = ImportRequest(path=given, layout="npy", feature="video", seconds_per_row=1.001)
    assert len(import_into(opened, request, QUIET).imported) == 2
    return opened, request


def lacking(opened: Project) -> set[str]:
    return {state.file.video.video for state in survey(opened).videos if "test_resnet" in state.missing}


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Project, ImportRequest]:
    (tmp_path / "project").mkdir()
    (tmp_path / "given").mkdir()
    return imported_project(tmp_path / "project", tmp_path / "given")


@pytest.mark.parametrize("is_left", [True, False])
def test_repair_restores_imported_features_whose_sidecar_is_damaged(
    imported: tuple[Project, ImportRequest], is_left: bool
) -> None:
    opened, _ = imported
    before = {entry.key: opened.store.read(entry.fingerprint) for entry in opened.store.entries("test_resnet")}
    lacked = lacking(opened)
    (shard,) = (one for one in opened.store.shards() if one.feature == "test_resnet")
    sidecar = shard.path.with_suffix(".parquet")
    data = bytearray(sidecar.read_bytes())
    data[-6] ^= 1
    sidecar.write_bytes(data if is_left else b"PAR1")
    assert verify(opened, QUIET).exit_code == 4
    report = repair(opened, QUIET)
    assert [one.lost for one in report.repaired] == [()]
    assert report.imports == ()
    assert verify(opened, QUIET).exit_code == 0
    assert lacking(opened) == lacked
    for entry in opened.store.entries("test_resnet"):
        after = opened.store.read(entry.fingerprint)
        np.testing.assert_array_equal(after.values, before[entry.key].values)
        np.testing.assert_array_equal(after.times, before[entry.key].times)
        assert entry.source_digest
        assert after.message == before[entry.key].message


def test_repair_says_how_imported_features_that_are_lost_come_back(imported: tuple[Project, ImportRequest]) -> None:
    opened, request = imported
    lacked = lacking(opened)
    entry = next(entry for entry in opened.store.entries("test_resnet") if entry.num_rows)
    damage(opened, entry.key)
    report = repair(opened, QUIET)
    assert [key for one in report.repaired for key, _ in one.lost] == [entry.key]
    command = f"frameloom import {request.path} --layout npy --feature video --seconds-per-row 1.001"
    assert report.imports == (
        f"next: `{command}` brings back what was imported of test_resnet (1 lost): sync cannot make it",
    )
    lines = list(report.lines())
    assert report.imports[0] in lines
    assert not any("frameloom sync" in line for line in lines)
    assert report.model_dump(mode="json")["imports"] == list(report.imports)
    assert lacking(opened) == lacked | {entry.key}
    assert import_into(opened, request, QUIET).imported == (entry.key,)
    assert lacking(opened) == lacked


def damage(opened: Project, key: str) -> None:
    """Change a bit of one video's rows in its shard."""
    (entry,) = (entry for entry in opened.store.entries("test_resnet") if entry.key == key)
    data = bytearray(entry.shard.path.read_bytes())
    data[data.index(opened.store.read(entry.fingerprint).values.tobytes()[:64]) + 6] ^= 4
    entry.shard.path.write_bytes(data)


@pytest.mark.parametrize("is_known", [True, False])
def test_sync_is_said_to_make_only_what_the_collection_still_has(synced: Path, is_known: bool) -> None:
    opened = Project.open(synced)
    key = "videos/red & None.v1.mp4"
    damage(opened, key)
    if not is_known:
        (synced / key).unlink()
    text = "\n".join(verify(opened, QUIET).lines())
    assert "says what is next" in text
    report = repair(Project.open(synced), QUIET)
    assert [lost for one in report.repaired for lost, _ in one.lost] == [key]
    assert any("`frameloom sync` makes" in line for line in report.lines()) is is_known


@pytest.mark.parametrize("suffix", [".h5", ".tar"])
def test_a_pair_that_is_no_shard_ends_neither_verify_nor_repair_nor_sync(run: Any, synced: Path, suffix: str) -> None:
    store = Project.open(synced).store
    entry = next(store.entries("test_resnet"))
    data = b"\x89HDF\r\n\x1a\n" + bytes(4088)
    sha256 = hashlib.sha256(data).hexdigest()
    path = entry.shard.path.with_name(f"{sha256[:32]}{suffix}")
    other = replace(sample_of(entry, store.read(entry.fingerprint)), fingerprint="f" * 32)
    path.write_bytes(data)
    contents = Contents(spec=entry.shard.spec, samples=(record_of(other),), values_offsets=(8,), times_offsets=(3000,))
    said = encode_sidecar(contents, num_bytes=len(data), sha256=sha256)
    path.with_suffix(".parquet").write_bytes(said)
    found = json.loads(run("verify", "--json", "-q").stdout)
    assert (found["exit_code"], run("verify", "-q").exit_code) == (4, 4)
    assert [(one["kind"], one["fingerprint"]) for one in found["findings"]] == [("shard", ""), ("sample", "f" * 32)]
    assert json.loads(run("repair", "--dry-run", "--json", "-q").stdout)["repaired"][0]["lost"]
    assert path.is_file()
    assert run("repair", "-q").exit_code == 0
    assert not path.exists()
    assert run("verify", "-q").exit_code == 0
    assert run_sync(synced).did_nothing


def test_a_key_that_steers_a_terminal_is_shown_and_not_obeyed() -> None:
    one = Repaired(kind=Kind.SHARD, path="x.h5", message="set aside", lost=(("\x1b[2Jévil\n五", "f"),))
    report = RepairReport(repaired=(one,), orphaned_rows=0, dry_run=False, num_to_make=1)
    assert r"  lost: \x1b[2Jévil\n五 (f)" in list(report.lines())
