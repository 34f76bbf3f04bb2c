"""Fewer shards, the same samples; a second time nothing; a kill loses nothing; never while somebody reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from frameloom._files import FailPointError
from frameloom._vocabulary import IntegrityError, LockedError, Status
from frameloom.store import FeatureStore, exclusive_lock, reader_lock
from frameloom.store.health import compact_features, plan_compaction, superseded, verify_features
from helpers.stores import SPEC, make_sample, make_spec, tree
from hypothesis import given, settings
from hypothesis import strategies as st

ROW_BYTES = SPEC.dim * 2 + 16
SHARD_BYTES = 100 * ROW_BYTES

READER = """
import sys, pathlib
from frameloom.store import reader_lock
with reader_lock(pathlib.Path(sys.argv[1])):
    print("reading", flush=True)
    sys.stdin.read()
"""


def samples(count, rows=5):
    return [make_sample(f"{number:03d}.mp4", rows + number % 3) for number in range(count)]


def write_each(root, made, *, spec=SPEC, name=SPEC.name):
    store = FeatureStore(root)
    for sample in made:
        store.write_shard(name, [sample], spec=spec)
    return FeatureStore(root)


def compact(store, **options):
    return compact_features(store, shard_bytes=SHARD_BYTES, **options)


def assert_holds(store, made):
    """Exactly these samples, as they were made, and a store that verifies."""
    fresh = FeatureStore(store.root)
    assert sorted(entry.fingerprint for entry in fresh.entries()) == sorted(one.fingerprint for one in made)
    for sample in made:
        found = fresh.read(sample.fingerprint)
        np.testing.assert_array_equal(found.values, sample.feature.values)
        np.testing.assert_array_equal(found.times, sample.feature.times)
        assert (found.status, found.message) == (sample.feature.status, sample.feature.message)
        assert fresh.entry(sample.fingerprint).key == sample.key
    assert [finding for finding in verify_features(fresh) if finding.is_damage] == []


NUM = 26  # two new shards


@pytest.fixture(scope="module")
def small_once(tmp_path_factory):
    return write_each(tmp_path_factory.mktemp("small"), samples(NUM)).root


@pytest.fixture
def small(small_once, tmp_path):
    """A store of one shard for each sample, in a folder of its own."""
    return FeatureStore(shutil.copytree(small_once, tmp_path, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def clean(small_once, tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    compact(FeatureStore(shutil.copytree(small_once, root, dirs_exist_ok=True)))
    return tree(root)


def test_small_shards_are_merged_into_bounded_ones(small):
    made, store = samples(NUM), small
    moved = []
    done = compact(store, advance=moved.append)
    assert (done.num_shards, sum(moved)) == (NUM, NUM)
    assert done.num_shards_after == len(store.shards()) < 6
    rows = {shard.name: sum(e.num_rows for e in store.entries() if e.shard == shard) for shard in store.shards()}
    assert all(count * ROW_BYTES <= SHARD_BYTES for count in rows.values())
    assert_holds(store, made)


def test_a_second_compaction_does_nothing(small, tmp_path):
    compact(small)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert compact(FeatureStore(tmp_path)).is_empty
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(st.integers(0, 260), max_size=14), per_shard=st.integers(1, 4))
def test_any_sizes_reach_a_state_that_stays(tmp_path_factory, rows, per_shard):
    root = tmp_path_factory.mktemp("any")
    made = [make_sample(f"{number:02d}", count) for number, count in enumerate(rows)]
    store = FeatureStore(root)
    for start in range(0, len(made), per_shard):
        store.write_shard(SPEC.name, made[start : start + per_shard], spec=SPEC)
    compact(store)
    after = tree(root)
    assert plan_compaction(FeatureStore(root), shard_bytes=SHARD_BYTES).is_empty
    assert tree(root) == after
    assert_holds(store, made)


def test_features_and_specifications_stay_apart(tmp_path):
    other = make_spec(dim=5, dtype="float32")
    write_each(tmp_path, samples(4))
    write_each(tmp_path, [make_sample(f"o{n}", 3, spec=other) for n in range(4)], spec=other, name="other")
    wide = make_spec(dim=9)
    store = write_each(tmp_path, [make_sample(f"w{n}", 3, spec=wide) for n in range(4)], spec=wide)
    compact(store)
    assert sorted((shard.feature, shard.dim) for shard in store.shards()) == [
        ("other", 5),
        ("test_feature", 8),
        ("test_feature", 9),
    ]
    assert len(store) == 12


def test_superseded_samples_go(tmp_path):
    failed = make_sample("a.mp4", 0, status=Status.DEADLINE, message="too slow")
    good, other = make_sample("a.mp4", 6), make_sample("b.mp4", 4)
    store = FeatureStore(tmp_path)
    for batch in ([failed, other], [good], [other, make_sample("c.mp4", 2)]):
        store.write_shard(SPEC.name, batch, spec=SPEC)
    assert superseded(store) == (2, 4 * ROW_BYTES)
    done = compact(store)
    assert (done.num_superseded, done.num_unwanted, done.dropped_bytes) == (2, 0, 4 * ROW_BYTES)
    assert superseded(store) == (0, 0)
    assert_holds(store, [good, other, make_sample("c.mp4", 2)])


def test_what_is_not_wanted_goes_and_only_that(small, tmp_path):
    made, store = samples(NUM), small
    wanted = {one.fingerprint for one in made[5:]}
    assert plan_compaction(store, wanted=wanted, shard_bytes=SHARD_BYTES).num_unwanted == 5
    assert len(store) == NUM
    compact(store, wanted=wanted)
    assert_holds(store, made[5:])
    compact(store, wanted=set())
    assert_holds(store, [])
    assert tree(tmp_path) == {}


def test_a_damaged_store_is_left_as_it_is(tmp_path):
    store = write_each(tmp_path, samples(4))
    path = store.shards()[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError):
        compact(store)
    assert len(FeatureStore(tmp_path)) == 4
    path.with_suffix(".parquet").write_bytes(b"")
    before = tree(tmp_path)
    with pytest.raises(IntegrityError, match="frameloom repair"):
        compact(FeatureStore(tmp_path))
    assert tree(tmp_path) == before


POINTS = ["compact.planned", "compact.moved", "compact.removed", "shard.written", "sidecar.written", "sidecar.renamed"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("nth", [1, 2])
def test_an_error_at_any_step_leaves_a_store_that_finishes_with_the_same_bytes(
    small, tmp_path, monkeypatch, clean, point, nth
):
    from frameloom import _files as _commit

    if (point, nth) == ("compact.planned", 2):
        return  # a plan is made once
    monkeypatch.setattr(_commit, "_passes", type(_commit._passes)())
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", f"{point}:raise:{nth}")
    with pytest.raises(FailPointError):
        compact(small)
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert_holds(small, samples(NUM))
    compact(FeatureStore(tmp_path))
    assert tree(tmp_path) == clean


def test_a_sync_between_a_kill_and_the_next_compaction_loses_nothing(small, tmp_path, monkeypatch):
    made, store = samples(NUM), small
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "compact.moved:raise")
    with pytest.raises(FailPointError):
        compact(store, wanted={one.fingerprint for one in made[3:]})
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    more = [make_sample("more.mp4", 30)]
    store.write_shard(SPEC.name, more, spec=SPEC)
    # What the first plan would have dropped is wanted again, and another sample of the plan is gone.
    store.discard(store.entry(made[-2].fingerprint).shard)
    left = [one for one in made if one.fingerprint in FeatureStore(tmp_path)]
    compact(FeatureStore(tmp_path))
    assert_holds(store, [*left, *more])
    assert {one.key for one in made[:3]} <= {one.key for one in left}


@pytest.mark.parametrize(
    "journal",
    [
        '{"new": 3',
        '{"new": [[[1]]], "old": []}',
        '{"new": [[]], "old": [{}]}',
        '{"new": [[2]], "old": [3]}',
        "[" * 10**5,
    ],
    ids=["cut", "lists", "dicts", "numbers", "nested"],
)
def test_a_journal_that_is_damaged_is_made_anew(small, tmp_path, clean, journal):
    (tmp_path / ".compact.json").write_text(journal)
    compact(small)
    assert tree(tmp_path) == clean


def test_a_journal_names_fingerprints_and_places_in_the_store(tmp_path, monkeypatch):
    store = write_each(tmp_path, samples(3))
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "compact.planned:raise")
    with pytest.raises(FailPointError):
        compact(store)
    kept = json.loads((tmp_path / ".compact.json").read_text())
    assert sorted(kept["new"][0]) == sorted(one.fingerprint for one in samples(3))
    assert len(kept["old"]) == 3
    assert all(name.startswith(f"{SPEC.name}/") for name in kept["old"])


def test_who_reads_keeps_compaction_off_and_is_named(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "reading\n"
        with reader_lock(tmp_path), pytest.raises(LockedError, match=str(reader.pid)) as told:
            with exclusive_lock(tmp_path):
                pytest.fail("not alone")
        assert told.value.exit_code == 6
        assert str(os.getpid()) in str(told.value)
        reader.kill()
        reader.wait()
    with exclusive_lock(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on .* is compacting"):
        with reader_lock(tmp_path):
            pytest.fail("not alone")
    with reader_lock(tmp_path):
        pass


def test_an_error_of_the_work_is_not_taken_for_a_lock(tmp_path):
    with pytest.raises(BlockingIOError, match="inside"):
        with exclusive_lock(tmp_path):
            raise BlockingIOError("inside")


def test_a_store_that_is_not_there_is_read_without_a_lock(tmp_path):
    with reader_lock(tmp_path / "nowhere"):
        pass
    assert list(tmp_path.iterdir()) == []
