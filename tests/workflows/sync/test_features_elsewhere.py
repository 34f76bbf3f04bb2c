"""A project whose feature shards lie outside of its store's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from frameloom._vocabulary import ConfigError, LockedError
from frameloom.store import FeatureStore, exclusive_lock, reader_lock, writer_lock
from frameloom.workflows.console import Console
from frameloom.workflows.health.report import repair, verify
from frameloom.workflows.health.store_status import store_status
from frameloom.workflows.project.project import Project
from helpers.projects import run_sync, write_config


@pytest.mark.parametrize("where", ["elsewhere/features", "file://{folder}/by address"])
def test_features_may_lie_elsewhere(synced: Path, tmp_path: Path, monkeypatch, where: str) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    before = FeatureStore(synced / ".frameloom")
    path = write_config(synced, store={"features": where.format(folder=tmp_path)})
    report = run_sync(synced)
    assert report.exit_code == 0
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    found = Project.open(path).store
    expected = {entry.fingerprint: entry.checksum for entry in before.entries() if entry.feature != "word2vec"}
    assert expected
    assert {name: entry.checksum for name in expected if (entry := found.entry(name))} == expected
    assert [shard.path.read_bytes() for shard in before.shards()]  # nothing was taken from where they were
    shutil.rmtree(synced / ".frameloom" / before.shards()[0].feature)
    assert run_sync(synced).did_nothing


def test_new_shards_may_be_of_another_format(synced: Path) -> None:
    before = {entry.fingerprint: entry.checksum for entry in FeatureStore(synced / ".frameloom").entries()}
    for shard in (synced / ".frameloom" / "test_resnet").iterdir():
        shard.unlink()
    write_config(synced, store={"format": "webdataset"})
    assert run_sync(synced).exit_code == 0
    assert {path.suffix for path in (synced / ".frameloom" / "test_resnet").iterdir()} == {".tar", ".parquet"}
    assert {entry.fingerprint: entry.checksum for entry in FeatureStore(synced / ".frameloom").entries()} == before
    assert run_sync(synced).did_nothing


@pytest.mark.parametrize("where", ["{file}", "file://{file}"])
def test_features_that_are_to_lie_in_a_file_are_a_clear_error(synced: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").write_text("text")
    path = write_config(synced, store={"features": where.format(file=tmp_path / "a file")})
    with pytest.raises(ConfigError, match=r"store\.features: .*a file is not a folder"):
        Project.open(path)


def test_what_was_set_aside_elsewhere_is_counted(synced: Path, tmp_path: Path) -> None:
    project = Project.open(write_config(synced, store={"features": str(tmp_path / "elsewhere")}))
    for folder, size in ((project.root, 3), (tmp_path / "elsewhere", 40)):
        (folder / ".quarantine" / "test_resnet").mkdir(parents=True)
        (folder / ".quarantine" / "test_resnet" / "shard").write_bytes(bytes(size))
    assert store_status(project)["quarantine_bytes"] == 43
    same = Project.open(write_config(synced, store={"features": ".frameloom"}))
    assert store_status(same)["quarantine_bytes"] == 3


def test_an_address_that_can_be_no_stores_is_a_clear_error(synced: Path) -> None:
    path = write_config(synced, store={"features": "https://host/features"})
    with pytest.raises(ConfigError, match="cannot hold a store"):
        Project.open(path)


def test_locks_on_features_elsewhere_are_those_that_others_hold(synced: Path, tmp_path: Path) -> None:
    elsewhere, console = tmp_path / "elsewhere", Console(quiet=True)
    project = Project.open(write_config(synced, store={"features": str(elsewhere)}))
    elsewhere.mkdir()
    with exclusive_lock(elsewhere), pytest.raises(LockedError):  # a merge of another project
        verify(project, console)
    with writer_lock(elsewhere), pytest.raises(LockedError):
        run_sync(synced)
    with reader_lock(elsewhere), pytest.raises(LockedError):  # a training
        repair(project, console)


def test_repair_takes_nothing_from_under_readers(synced: Path) -> None:
    project = Project.open(synced)
    with reader_lock(project.root), pytest.raises(LockedError, match="is reading"):
        repair(project, Console(quiet=True))
