"""A writer that is late: another process has taken the store over meanwhile, and swept away what it was writing."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from frameloom import _files as _commit
from frameloom._files import PUBLISH_STEPS, temporary_path
from frameloom._vocabulary import ExitCode, LockedError
from frameloom.store import FeatureStore
from frameloom.store.formats.base import FORMATS
from frameloom.store.health import verify_features
from helpers.stores import BATCHES, SPEC, tree

STEPS = [f"{kind}.{step}" for kind in ("shard", "sidecar") for step in PUBLISH_STEPS]
COMMITTED = ("sidecar.renamed", "sidecar.durable")
WHOLE = ("shard.renamed", "shard.durable", *COMMITTED)  # nothing that a sweep would remove is there then


@pytest.fixture(params=sorted(FORMATS))
def shard_format(request) -> str:
    return request.param


@pytest.fixture
def clean(tmp_path_factory, shard_format) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("clean")
    write(root, shard_format)
    return tree(root)


def write(root: Path, shard_format: str):
    return FeatureStore(root).write_shard(SPEC.name, BATCHES[0], spec=SPEC, token="late", format=shard_format)


def do_at(monkeypatch, work, *steps):
    """Have something done each time that a writer passes one of these steps. Returns those that were passed."""
    passes = []

    def passed(name):
        if name in steps:
            passes.append(name)
            work()

    monkeypatch.setattr(_commit, "fail_point", passed)
    return passes


def once(work):
    """The same, done the first time alone."""
    left = [work]
    return lambda: left.pop()() if left else None


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_whose_files_were_swept_away_is_told_and_leaves_nothing_half(
    tmp_path, monkeypatch, shard_format, clean, step
):
    passes = do_at(monkeypatch, once(FeatureStore(tmp_path).sweep), step)
    if step in WHOLE:
        write(tmp_path, shard_format)
        assert tree(tmp_path) == clean
    else:
        with pytest.raises(LockedError, match="another process has taken over its folder") as told:
            write(tmp_path, shard_format)
        assert told.value.exit_code == ExitCode.LOCKED
        is_lone = step.startswith("sidecar.")
        assert tree(tmp_path) == {name: data for name, data in clean.items() if is_lone and ".parquet" not in name}
    assert passes
    assert not [one for one in verify_features(FeatureStore(tmp_path)) if one.is_damage]
    write(tmp_path, shard_format)
    assert tree(tmp_path) == clean


@pytest.mark.parametrize("step", COMMITTED)
def test_a_shard_that_goes_when_its_sidecar_has_come_is_written_again(tmp_path, monkeypatch, shard_format, clean, step):
    def remove():
        for name in tree(tmp_path):
            if not name.endswith(".parquet"):
                (tmp_path / name).unlink()

    do_at(monkeypatch, once(remove), step)
    info = write(tmp_path, shard_format)
    assert info.path.exists()
    assert tree(tmp_path) == clean
    np.testing.assert_array_equal(
        FeatureStore(tmp_path).read(BATCHES[0][2].fingerprint).values, BATCHES[0][2].feature.values
    )


def test_a_shard_that_never_stays_is_no_success_and_no_lone_sidecar_is_left(tmp_path, monkeypatch, shard_format):
    store = FeatureStore(tmp_path)

    def remove():
        for shard in tmp_path.rglob(f"[0-9a-f]*{FORMATS[shard_format].suffix}"):
            if shard.with_suffix(".parquet").exists():
                shard.unlink()

    passes = do_at(monkeypatch, remove, "shard.durable", "sidecar.durable")
    with pytest.raises(LockedError, match="another process"):
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC, format=shard_format)
    assert passes == ["shard.durable", "sidecar.durable", "shard.durable", "shard.durable"]
    assert tree(tmp_path) == {}


def test_a_sweep_spares_a_shard_whose_sidecar_came_after_it_looked(tmp_path, monkeypatch, shard_format, clean):
    store = FeatureStore(tmp_path)
    seen = []
    do_at(monkeypatch, lambda: seen.extend(store.place.files()), "sidecar.synced")
    write(tmp_path, shard_format)
    assert sorted(file.path.suffix for file in seen) == sorted([".tmp", FORMATS[shard_format].suffix])
    monkeypatch.setattr(store.place, "files", lambda: seen)
    assert store.sweep() == []
    assert tree(tmp_path) == clean


def test_a_sweep_spares_a_sidecar_whose_shard_it_did_not_see(tmp_path, monkeypatch, shard_format, clean):
    write(tmp_path, shard_format)
    store = FeatureStore(tmp_path)
    seen = [file for file in store.place.files() if file.path.suffix == ".parquet"]
    monkeypatch.setattr(store.place, "files", lambda: seen)
    assert store.sweep() == []
    assert tree(tmp_path) == clean


def test_what_a_sweep_had_in_hand_when_it_was_killed_comes_back(tmp_path, shard_format, clean):
    path = write(tmp_path, shard_format).path
    path.replace(temporary_path(path, "swept"))
    assert FeatureStore(tmp_path).sweep() == []
    assert tree(tmp_path) == clean
    path.with_suffix(".parquet").unlink()
    path.replace(temporary_path(path, "swept"))
    assert len(FeatureStore(tmp_path).sweep()) == 1
    assert tree(tmp_path) == {}


def test_a_writer_without_a_token_has_that_of_its_process(tmp_path, monkeypatch):
    seen = []
    do_at(monkeypatch, lambda: seen.extend(tree(tmp_path)), "shard.begun")
    FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    (name,) = seen
    token = name.split(".")[3]
    assert len(token) == 12
    assert token == token_of(temporary_path(tmp_path / "x", ""))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(token_of(temporary_path(tmp_path / "x", ""))))
    child.start()
    assert answers.get(timeout=600) != token
    child.join()


def token_of(path: Path) -> str:
    return path.name.split(".")[2]
