"""What sidecars said is remembered, and never believed where the sidecar is another by now."""

from __future__ import annotations

import shutil

import pytest
from frameloom.store import FeatureStore
from frameloom.store import features as _features
from frameloom.store.formats.remembered import FROM_SIDECARS, SETTLED_SECONDS
from helpers.stores import BATCHES, SPEC, make_sample, write_all

NUM_SIDECARS = len(BATCHES)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that remembers stores as small as those of tests, at once."""
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_features, "FROM_SIDECARS", 2)
    monkeypatch.setattr(_features, "SETTLED_SECONDS", -1.0)
    return tmp_path / "cache" / "sidecars"


@pytest.fixture
def read(monkeypatch):
    """The sidecars that are read while the test runs."""
    names, original = [], _features.read_sidecar
    monkeypatch.setattr(_features, "read_sidecar", lambda path, **more: names.append(path) or original(path, **more))
    return names


@pytest.fixture
def root(tmp_path, cache):
    """A store that was opened once before."""
    write_all(tmp_path / "store")
    assert len(FeatureStore(tmp_path / "store")) == 6
    return tmp_path / "store"


def known(store):
    return {entry.fingerprint: entry for entry in store.entries()}


def test_a_store_that_was_opened_before_opens_without_its_sidecars(root, read):
    store = FeatureStore(root)
    assert {entry.key for entry in known(store).values()} == {sample.key for batch in BATCHES for sample in batch}
    assert read == []
    fresh = FeatureStore(root)
    fresh.refresh(remembered=False)
    assert len(read) == NUM_SIDECARS
    assert known(store) == known(fresh)
    assert store.shards() == fresh.shards()
    for sample in (sample for batch in BATCHES for sample in batch):
        assert store.read(sample.fingerprint).values.tobytes() == sample.feature.values.tobytes()


def test_only_what_is_new_or_changed_is_read(root, read):
    FeatureStore(root).write_shard(SPEC.name, [make_sample("new", 2)], spec=SPEC)
    changed = FeatureStore(root).shards()[0].path.with_suffix(".parquet")
    data = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(data)
    read.clear()
    assert len(FeatureStore(root)) == 7
    assert len(read) == 2
    assert changed in read


def test_a_sidecar_that_is_damaged_later_is_refused_and_one_that_is_gone_is_gone(root):
    paths = [shard.path.with_suffix(".parquet") for shard in FeatureStore(root).shards()]
    data = bytearray(paths[0].read_bytes())
    data[100:140] = bytes(40)
    paths[0].write_bytes(data)
    paths[1].unlink()
    store = FeatureStore(root)
    assert len(store.shards()) == 1
    assert [problem.path for problem in store.problems] == [paths[0]]


def test_a_shard_that_was_cut_later_is_refused(root):
    shard = FeatureStore(root).shards()[0]
    shard.path.write_bytes(shard.path.read_bytes()[:-1])
    store = FeatureStore(root)
    assert shard not in store.shards()
    assert "bytes" in store.problems[0].message


def test_verify_reads_every_sidecar(root, read):
    store = FeatureStore(root)
    assert len(store) == 6
    assert list(store.verify()) == []
    assert len(read) == NUM_SIDECARS


def test_a_memory_that_is_damaged_anywhere_is_not_believed(root, cache, read):
    (memory,) = cache.iterdir()
    whole = memory.read_bytes()
    for place in [0, 31, 32, 100, *range(200, len(whole), len(whole) // 20), len(whole) - 1]:
        memory.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        read.clear()
        assert len(FeatureStore(root)) == 6
        assert len(read) == NUM_SIDECARS
    assert memory.read_bytes() == whole  # it was made anew
    for size in (0, 10, 32, 33, len(whole) - 1):
        memory.write_bytes(whole[:size])
        assert len(FeatureStore(root)) == 6


def test_another_store_at_the_same_place_is_not_taken_for_the_first(root):
    shutil.rmtree(root)
    FeatureStore(root).write_shard(SPEC.name, [make_sample("other", 3)], spec=SPEC)
    FeatureStore(root).write_shard(SPEC.name, [make_sample("others", 3)], spec=SPEC)
    assert {entry.key for entry in FeatureStore(root).entries()} == {"other", "others"}


def test_what_is_too_young_is_not_remembered(root, cache, monkeypatch, read):
    shutil.rmtree(cache)
    monkeypatch.setattr(_features, "SETTLED_SECONDS", 3600.0)
    for _ in range(2):
        read.clear()
        assert len(FeatureStore(root)) == 6
        assert len(read) == NUM_SIDECARS
    assert SETTLED_SECONDS > 1


def test_small_stores_leave_no_memory(root, cache, monkeypatch):
    shutil.rmtree(cache)
    monkeypatch.setattr(_features, "FROM_SIDECARS", FROM_SIDECARS)
    assert len(FeatureStore(root)) == 6
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_failure(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "file"))
    assert len(FeatureStore(root)) == 6
