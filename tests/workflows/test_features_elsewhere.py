"""A project whose feature shards lie outside of its store's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from frameloom._vocabulary import ConfigError
from frameloom.store import FeatureStore
from frameloom.workflows._project import Project

from .conftest import run_sync, write_config


@pytest.mark.parametrize("where", ["memory://{name}/features", "elsewhere/features", "file://{folder}/by address"])
def test_features_may_lie_elsewhere(synced: Path, tmp_path: Path, monkeypatch, where: str) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    before = FeatureStore(synced / ".frameloom")
    path = write_config(synced, store={"features": where.format(name=tmp_path.name, folder=tmp_path)})
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


def test_an_address_that_can_be_no_stores_is_a_clear_error(synced: Path) -> None:
    path = write_config(synced, store={"features": "https://host/features"})
    with pytest.raises(ConfigError, match="cannot hold a store"):
        Project.open(path)
