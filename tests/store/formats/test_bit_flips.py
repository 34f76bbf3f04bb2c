"""Promise 6: a flipped bit is found at the read itself, by a new process, a new reader and an older one.

What is found is named, and `repair` and writing again restore everything.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from frameloom import IntegrityError
from frameloom.store import FeatureStore
from frameloom.store.formats import FORMATS, read_sidecar
from frameloom.store.health import Kind, repair_features, verify_features
from helpers.flipped_bits import SAMPLES, SPEC, damaged_samples, flip

SHARDS = [SAMPLES[:4], SAMPLES[4:]]


def write(root, shard_format):
    for samples in SHARDS:
        FeatureStore(root).write_shard(SPEC.name, samples, spec=SPEC, format=shard_format)


def hit_by(path, place):
    """The keys of the samples whose numbers a byte of a shard belongs to."""
    return {
        entry.key
        for entry in read_sidecar("x", shard_path=path, data=path.with_suffix(".parquet").read_bytes())
        if 0 <= place - entry.values_offset < entry.num_rows * entry.shard.row_bytes
        or 0 <= place - entry.times_offset < entry.num_rows * 16
    }


def sweep(whole, root, num_flips, seed, *, restored_every):
    """Flip bits evenly over shards and sidecars. Returns how many were of which kind."""
    shutil.copytree(whole, root)
    chance, outcomes = random.Random(seed), Counter()
    shards = sorted(path for path in root.rglob("*") if path.suffix in (".h5", ".tar"))
    good = FeatureStore(whole)
    before = FeatureStore(root)  # a reader that has read everything, and has the shards open
    assert damaged_samples(before) == set()
    for number in range(num_flips):
        shard = chance.choice(shards)
        path = shard if number % 2 else shard.with_suffix(".parquet")
        place, bit = chance.randrange(path.stat().st_size), 1 << chance.randrange(8)
        where = f"{path.name}, byte {place}, bit {bit}"
        flip(path, place, bit)
        new = damaged_samples(FeatureStore(root))
        own = {entry.key for entry in good.entries() if entry.shard.name == path.stem}
        if path is shard:
            hit = hit_by(whole / path.relative_to(root), place)
            assert new == damaged_samples(before) == hit, where
            outcomes["rows" if hit else "of a shard, in no row"] += 1
        else:
            assert new in (set(), own), where
            outcomes["sidecar" if new else "of a sidecar, in no data"] += 1
        findings = list(verify_features(FeatureStore(root)))
        assert path is not shard or findings[0].kind is (Kind.SHARD if new else Kind.SHARD_METADATA), where
        assert bool(findings) or not new, where
        if number % restored_every < 2:
            restore(whole, shutil.copytree(root, root.with_name("restored")), new if path is shard else set(), where)
        flip(path, place, bit)
    assert damaged_samples(before) == set()
    return outcomes


def restore(whole, root, lost, where):
    store = FeatureStore(root)
    repaired = list(repair_features(store))
    assert {key for one in repaired for key, _ in one.lost} == lost, where
    assert list(verify_features(FeatureStore(root))) == [], where
    assert damaged_samples(FeatureStore(root)) == lost, where
    missing = [sample for sample in SAMPLES if sample.key in lost]
    if missing:
        store.write_shard(SPEC.name, missing, spec=SPEC)
    elif repaired:  # byte for byte
        for path in whole.rglob("*"):
            assert path.is_dir() or (root / path.relative_to(whole)).read_bytes() == path.read_bytes(), where
    assert damaged_samples(FeatureStore(root)) == set(), where
    shutil.rmtree(root)


@pytest.fixture(scope="module", params=sorted(FORMATS))
def whole(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "store"
    write(root, request.param)
    return root


def test_every_flipped_bit_that_changes_data_is_found_where_it_is_read(whole, tmp_path):
    outcomes = sweep(whole, tmp_path / "store", 200, seed=3, restored_every=20)
    assert outcomes["rows"] > 50
    assert outcomes["sidecar"] > 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_flipped_bits(whole, tmp_path):
    outcomes = sweep(whole, tmp_path / "store", 2000, seed=4, restored_every=4)
    print(outcomes)
    assert outcomes["rows"] > 500
    assert outcomes["sidecar"] > 300


def flipped_copies(whole, folder, chance, count):
    """Copies of a store with one flipped bit each, in a shard or a sidecar by turns, and the samples that it hits."""
    shards = sorted(path for path in whole.rglob("*") if path.suffix in (".h5", ".tar"))
    for number in range(count):
        root = shutil.copytree(whole, folder / str(number))
        shard = chance.choice(shards)
        path = shard if number % 2 else shard.with_suffix(".parquet")
        place = chance.randrange(path.stat().st_size)
        flip(root / path.relative_to(whole), place, 1 << chance.randrange(8))
        yield root, hit_by(whole / path.relative_to(whole), place) if path is shard else None


@pytest.mark.parametrize("num_flips", [40, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_process_that_starts_afterwards_finds_them_too(whole, tmp_path, num_flips):
    chance, found = random.Random(5), 0
    for _ in range(0, num_flips, 40):
        copies = dict(flipped_copies(whole, tmp_path / "copies", chance, 40))
        command = [sys.executable, "-m", "helpers.flipped_bits", *map(str, copies)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        for (root, hit), keys in zip(copies.items(), json.loads(done.stdout), strict=True):
            assert set(keys) == damaged_samples(FeatureStore(root)), root
            assert hit is None or set(keys) == hit, root
            found += bool(keys)
        shutil.rmtree(tmp_path / "copies")
    assert found > num_flips // 3


def test_a_shard_cut_anywhere_does_not_exist(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "store")
    path = FeatureStore(root).shards()[0].path
    data = path.read_bytes()
    for size in [0, 1, *range(512, len(data), 4999), len(data) - 1]:
        path.write_bytes(data[:size])
        store = FeatureStore(root)
        assert [problem.path.stem for problem in store.problems] == [path.stem] or len(store) < len(SAMPLES)


def test_a_sidecar_cut_anywhere_means_that_the_shard_does_not_exist(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "store")
    sidecar = FeatureStore(root).shards()[0].path.with_suffix(".parquet")
    data = sidecar.read_bytes()
    for size in [0, 1, 4, *range(100, len(data), 197), len(data) - 1]:
        sidecar.write_bytes(data[:size])
        store = FeatureStore(root)
        assert len(store) < len(SAMPLES)
        assert [problem.path for problem in store.problems] == [sidecar]


def test_a_sidecar_of_another_shard_is_refused(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "store")
    first, other = (shard.path.with_suffix(".parquet") for shard in FeatureStore(root).shards())
    first.write_bytes(other.read_bytes())
    store = FeatureStore(root)
    assert len(store) in {len(samples) for samples in SHARDS}
    assert "belongs to another shard" in store.problems[0].message


def test_a_shard_that_goes_away_is_named(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "store")
    store = FeatureStore(root)
    entry = store.entry(SAMPLES[0].fingerprint)
    entry.shard.path.unlink()
    with pytest.raises(IntegrityError, match=f"{entry.shard.name}.*is gone"):
        store.read(SAMPLES[0].fingerprint)


def test_a_shard_that_is_something_else_is_never_parsed(whole, tmp_path, monkeypatch):
    import h5py

    root = shutil.copytree(whole, tmp_path / "store")
    store = FeatureStore(root)
    path = store.entry(SAMPLES[0].fingerprint).shard.path
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * (path.stat().st_size - 8))
    parse = h5py.File

    def guarded(file, *given):
        assert file.name != str(path), "the parser was shown a foreign file"
        return parse(file, *given)

    monkeypatch.setattr(h5py, "File", guarded)
    with pytest.raises(IntegrityError, match=f"{path.stem}.*is damaged"):
        store.read(SAMPLES[0].fingerprint)
    assert {finding.kind for finding in verify_features(store)} == {Kind.SHARD, Kind.SAMPLE}
