"""Promise 6: a flipped bit is found at the read itself, in a new reader and in one that read the shard before.

A reader keeps nothing of what it read but open files and what sidecars say, so that a new `FeatureStore` stands for a
new process. What is found is named, and `repair` and writing again restore everything.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter

import numpy as np
import pytest
from frameloom import IntegrityError
from frameloom.store import FeatureStore
from frameloom.store.formats import FORMATS, read_sidecar
from frameloom.store.health import Kind, repair_features, verify_features
from helpers.stores import make_sample, make_spec

SPEC = make_spec(dim=96)
SAMPLES = [make_sample(f"{number}.mp4", rows, spec=SPEC) for number, rows in enumerate((3, 0, 70, 800, 1, 12, 33))]
SHARDS = [SAMPLES[:4], SAMPLES[4:]]


def write(root, shard_format):
    for samples in SHARDS:
        FeatureStore(root).write_shard(SPEC.name, samples, spec=SPEC, format=shard_format)


def flip(path, place, bit):
    """Change one bit in place, as a disk does it: a file that is open shows it."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bit]))


def damaged_samples(store):
    """The keys of the samples that a reader refuses. What it returns in any way must be what was written."""
    found = set()
    for sample in SAMPLES:
        feature = sample.feature
        if sample.fingerprint not in store:
            found.add(sample.key)
            continue
        entry, half = store.entry(sample.fingerprint), len(feature.values) // 2
        assert (entry.num_rows, entry.status, entry.key) == (len(feature.values), feature.status, sample.key)
        target = np.zeros((half, SPEC.dim), SPEC.dtype)
        span = (entry.first_row, entry.first_row + half)

        def whole(sample=sample, feature=feature):
            read = store.read(sample.fingerprint)
            np.testing.assert_array_equal(read.values, feature.values)
            np.testing.assert_array_equal(read.times, feature.times)

        def window(sample=sample, feature=feature, half=half):
            read = store.read_span(sample.fingerprint, half, half + 5)
            np.testing.assert_array_equal(read.values, feature.values[half : half + 5])

        def rows(entry=entry, feature=feature, half=half, span=span, target=target):
            store.read_rows_into(entry.shard.path, [span], [target.reshape(-1).view(np.uint8).data])
            np.testing.assert_array_equal(target, feature.values[:half])

        for read in (whole, window, rows):
            try:
                read()
            except IntegrityError:
                found.add(sample.key)
    return found


def hit_by(path, place):
    """The keys of the samples whose numbers a byte of a shard belongs to."""
    return {
        entry.key
        for entry in read_sidecar(path.with_suffix(".parquet"), shard_path=path)
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
