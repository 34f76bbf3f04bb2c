from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
from frameloom.store import FeatureStore
from frameloom.store.formats.base import MAX_OPEN_FILES
from frameloom.store.formats.hdf5 import KEY_BYTES, fletcher32
from helpers.stores import BATCHES, SPEC, make_sample
from hypothesis import given, settings
from hypothesis import strategies as st


def test_the_layout_is_the_documented_one(tmp_path):
    info = FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    with h5py.File(info.path) as file:
        assert file["values"].shape == (73, SPEC.dim)
        assert file["values"].dtype == np.float16
        assert file["values"].fletcher32
        assert file["times"].fletcher32
        assert file["offsets"][:].tolist() == [0, 3, 3, 73]
        assert file["keys"].asstr()[:].tolist() == ["a.mp4", "b.mp4", "c.mp4"]
        assert file["fingerprints"].asstr()[:].tolist() == [sample.fingerprint for sample in BATCHES[0]]
        assert file["statuses"].asstr()[:].tolist() == ["ok", "no_frames", "ok"]
        assert file.attrs["spec"] == info.spec


def test_an_endless_key_is_whole_in_the_sidecar_and_clipped_in_the_shard(tmp_path):
    key = "é" * 100_000
    sample = make_sample("x", 1)
    sample = type(sample)(key=key, source_digest="s", fingerprint="f", feature=sample.feature)
    info = FeatureStore(tmp_path).write_shard(SPEC.name, [sample], spec=SPEC)
    assert FeatureStore(tmp_path).entry("f").key == key
    with h5py.File(info.path) as file:
        assert file["keys"].asstr()[0] == "é" * (KEY_BYTES // 2)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 400))
def test_the_checksum_of_a_chunk_is_hdf5s_own(data, repeats):
    rows = np.frombuffer(data * repeats, np.uint8).reshape(1, -1)
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=rows, chunks=rows.shape, fletcher32=True)
        chunk = file["x"].id.get_chunk_info(0)
    stored = int.from_bytes(target.getvalue()[chunk.byte_offset + rows.nbytes :][:4], "little")
    assert fletcher32(memoryview(data * repeats)) == ((stored >> 16) % 65535, (stored & 0xFFFF) % 65535)


def test_plain_h5py_reads_the_samples(tmp_path):
    info = FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    with h5py.File(info.path) as file:
        for number, sample in enumerate(BATCHES[0]):
            first, last = file["offsets"][number : number + 2]
            np.testing.assert_array_equal(file["values"][first:last], sample.feature.values)
            np.testing.assert_array_equal(file["times"][first:last], sample.feature.times)


def test_samples_that_cross_chunks_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("frameloom.store.formats.hdf5.CHUNK_BYTES", 7 * SPEC.dim * 2)
    samples = [make_sample(f"{number}", number) for number in range(25)]
    store = FeatureStore(tmp_path)
    store.write_shard(SPEC.name, samples, spec=SPEC)
    for sample in samples[1:]:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)
        part = store.read_span(sample.fingerprint, 0.5, len(sample.feature.values) - 1)
        np.testing.assert_array_equal(part.values, sample.feature.values[:-1])


def test_no_more_shards_are_open_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("frameloom.store.formats.base.MAX_OPEN_FILES", 2)
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
