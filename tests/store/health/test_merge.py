"""Small shards are merged a little at a time, whoever reads meanwhile and whenever it is killed."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from frameloom._files import FAIL_POINT_VARIABLE, FailPointError
from frameloom._vocabulary import IntegrityError
from frameloom.store import FeatureStore, reader_lock
from frameloom.store.formats import FORMATS
from frameloom.store.health import merge_small_shards, plan_merge, verify_features
from frameloom.store.places import LocalPlace
from helpers.stores import SPEC, make_sample, make_spec, tree

SAMPLES = [make_sample(f"{number:03d}.mp4", number % 4) for number in range(80)]
SHARD_BYTES = 200_000
ENOUGH = 1 << 30


@pytest.fixture(params=sorted(FORMATS))
def store(request, tmp_path):
    store = FeatureStore(tmp_path / "store")
    for first in range(0, len(SAMPLES), 2):
        store.write_shard(SPEC.name, SAMPLES[first : first + 2], spec=SPEC, format=request.param)
    return store


def merge(store, max_bytes=ENOUGH):
    return merge_small_shards(store, max_bytes=max_bytes, shard_bytes=SHARD_BYTES)


def assert_whole(store):
    assert len(store) == len(SAMPLES)
    for sample in SAMPLES:
        found = store.read(sample.fingerprint)
        np.testing.assert_array_equal(found.values, sample.feature.values)
        np.testing.assert_array_equal(found.times, sample.feature.times)
        assert (found.status, found.message) == (sample.feature.status, sample.feature.message)


def test_a_reader_that_holds_the_old_shards_finds_their_samples_in_the_new_one(store) -> None:
    reader, moved = FeatureStore(store.root), []
    assert len(reader) == len(SAMPLES)
    done = merge_small_shards(store, max_bytes=ENOUGH, shard_bytes=SHARD_BYTES, progress=moved.append)
    assert (done.num_shards, done.num_shards_after, sum(moved)) == (40, 1, len(SAMPLES))
    for one in (reader, store, FeatureStore(store.root)):
        assert_whole(one)
    assert list(verify_features(store)) == []
    assert merge(store).is_empty


def test_a_call_moves_no_more_than_it_may(store) -> None:
    sizes = sorted(shard.num_bytes for shard in store.shards())
    done = merge(store, max_bytes=sum(sizes[:10]))
    assert 2 <= len(done.old_shards) <= 10
    assert_whole(FeatureStore(store.root))
    assert merge(store, max_bytes=1).is_empty


def test_few_shards_are_left_as_they_are(tmp_path) -> None:
    store = FeatureStore(tmp_path)
    for sample in SAMPLES[:20]:
        store.write_shard(SPEC.name, [sample], spec=SPEC)
    assert merge(store).is_empty
    assert len(store.shards()) == 20


def test_shards_are_rewritten_a_few_times_and_not_once_for_each_call(tmp_path) -> None:
    store, written, spec = FeatureStore(tmp_path), 0, make_spec(dim=512)
    for number in range(400):
        store.write_shard(spec.name, [make_sample(str(number), 30, spec=spec)], spec=spec)
        done = merge_small_shards(store, max_bytes=ENOUGH, shard_bytes=ENOUGH)
        written += sum(map(len, done.new_shards))
    assert len(store.shards()) <= 33
    assert written < 400 * 5


def test_a_store_that_is_read_is_left_as_it_is(store) -> None:
    before = tree(store.root)
    with reader_lock(store.root):
        assert merge(store).is_empty
    assert {name: data for name, data in tree(store.root).items() if not name.startswith(".")} == before
    assert not merge(store).is_empty


def test_a_store_with_damage_is_left_as_it_is(store) -> None:
    entry = store.entry(SAMPLES[3].fingerprint)
    with entry.shard.path.open("r+b") as file:
        file.seek(entry.values_offset)
        file.write(b"\xff")
    with pytest.raises(IntegrityError, match="run `frameloom repair`"):
        merge(store)
    assert not (store.root / ".compact.json").exists()
    assert entry.shard.path.is_file()
    assert len(FeatureStore(store.root)) == len(SAMPLES)


def test_a_kill_between_a_sidecar_and_its_shard_leaves_nothing_for_ever(store, monkeypatch) -> None:
    shards = sorted(shard.path for shard in store.shards())

    def remove(self, paths):
        for path in paths[: 1 if shards[5] in paths else None]:
            path.unlink(missing_ok=True)
        if shards[5] in paths:
            raise FailPointError

    monkeypatch.setattr(LocalPlace, "remove", remove)
    with pytest.raises(FailPointError):
        merge(store)
    monkeypatch.undo()
    again = FeatureStore(store.root)
    assert again.sweep() == []  # a whole shard, of which the sweep cannot know that it was merged
    assert shards[5].is_file()
    merge(again)
    assert_whole(again)
    assert list(verify_features(again)) == []
    assert not shards[5].exists()


POINTS = ["compact.planned", "shard.half", "shard.durable", "sidecar.written", "sidecar.durable", "compact.moved"]


REMOVED = [f"compact.removed:kill:{number}" for number in (7, 20, 39)]


@pytest.mark.parametrize("point", [*(f"{name}:kill" for name in POINTS), *REMOVED])
def test_a_kill_at_any_instant_loses_nothing_and_a_rerun_ends_with_the_same_bytes(store, tmp_path, point) -> None:
    child = os.fork()
    if not child:
        os.environ[FAIL_POINT_VARIABLE] = point
        merge(FeatureStore(store.root))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert_whole(FeatureStore(store.root))
    again = FeatureStore(store.root)
    again.sweep()
    assert not plan_merge(again, max_bytes=ENOUGH, shard_bytes=SHARD_BYTES).is_empty
    merge(again)
    assert_whole(again)
    assert len(again.shards()) == 1
    assert list(verify_features(again)) == []
    assert not (store.root / ".compact.json").exists()
