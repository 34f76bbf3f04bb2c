from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import xxhash
from frameloom.store import FeatureStore
from frameloom.store.formats.hdf5 import KEY_BYTES
from frameloom.store.formats.rows import MAX_OPEN_FILES
from helpers.stores import BATCHES, SPEC, make_sample


def test_the_layout_is_the_documented_one(tmp_path):
    info = FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    with h5py.File(info.path) as file:
        assert file["values"].shape == (73, SPEC.dim)
        assert file["values"].dtype == np.float16
        assert file["values"].chunks is file["times"].chunks is None
        assert file["offsets"][:].tolist() == [0, 3, 3, 73]
        assert file["keys"].asstr()[:].tolist() == ["a.mp4", "b.mp4", "c.mp4"]
        records = json.loads(file["samples"][()])
        assert [record["fingerprint"] for record in records] == [sample.fingerprint for sample in BATCHES[0]]
        assert [record["status"] for record in records] == ["ok", "no_frames", "ok"]
        blocks = [BATCHES[0][2].feature.values.tobytes(), BATCHES[0][2].feature.times.tobytes()]
        assert records[2]["blocks"] == "".join(map(xxhash.xxh3_64_hexdigest, blocks))
        assert file.attrs["spec"] == info.spec


def test_an_endless_key_is_whole_in_the_sidecar_and_clipped_in_the_shard(tmp_path):
    key = "é" * 100_000
    sample = make_sample("x", 1)
    sample = type(sample)(key=key, source_digest="s", fingerprint="f", feature=sample.feature)
    info = FeatureStore(tmp_path).write_shard(SPEC.name, [sample], spec=SPEC)
    assert FeatureStore(tmp_path).entry("f").key == key
    with h5py.File(info.path) as file:
        assert file["keys"].asstr()[0] == "é" * (KEY_BYTES // 2)


def test_plain_h5py_reads_the_samples(tmp_path):
    info = FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    with h5py.File(info.path) as file:
        for number, sample in enumerate(BATCHES[0]):
            first, last = file["offsets"][number : number + 2]
            np.testing.assert_array_equal(file["values"][first:last], sample.feature.values)
            np.testing.assert_array_equal(file["times"][first:last], sample.feature.times)


def test_no_more_shards_are_open_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("frameloom.store.formats.rows.MAX_OPEN_FILES", 2)
    assert MAX_OPEN_FILES > 2
    store = FeatureStore(tmp_path)
    samples = [make_sample(f"{number}", 2) for number in range(5)]
    for sample in samples:
        store.write_shard(SPEC.name, [sample], spec=SPEC)
    for sample in samples * 2:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)
    assert len(open_below(tmp_path)) == 2
    store.close()
    assert open_below(tmp_path) == []


def open_below(folder):
    links = (link.resolve() for link in Path("/proc/self/fd").iterdir())
    return [path for path in links if path.is_relative_to(folder)]


def test_refresh_reads_only_what_is_new(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path)
    store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    store.refresh()
    FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[1], spec=SPEC)
    read = []
    from frameloom.store import features as _features

    original = _features.read_sidecar
    monkeypatch.setattr(_features, "read_sidecar", lambda path, **given: read.append(path) or original(path, **given))
    store.refresh()
    assert len(read) == 1
    assert len(store) == 4
