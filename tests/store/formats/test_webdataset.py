from __future__ import annotations

import gc
import io
import json
import tarfile
import warnings

import numpy as np
import pytest
import xxhash
from frameloom._vocabulary import FeatureArray, InputError, Status, canonical_json
from frameloom.store import FeatureStore, Sample
from frameloom.store.formats.webdataset import SPEC_MEMBER, sample_id
from helpers.stores import BATCHES, SPEC, make_sample, make_spec


def write(root, samples, spec=SPEC):
    return FeatureStore(root).write_shard("f", samples, spec=spec, format="webdataset").path


def plain_webdataset(path):
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file to the garbage collector
        found = list(webdataset.WebDataset(str(path), shardshuffle=False))
        gc.collect()
    return found


def test_the_layout_is_the_documented_one(tmp_path):
    with tarfile.open(write(tmp_path, BATCHES[0]), "r:") as tar:
        members = tar.getmembers()
        assert members[0].name == SPEC_MEMBER
        assert [member.name for member in members[1:]] == [
            f"{sample.fingerprint}.{ending}" for sample in BATCHES[0] for ending in ("json", "times.npy", "values.npy")
        ]
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode, m.isreg()) for m in members} == {
            (0, 0, "", "", 0, 0o644, True)
        }
        about = json.load(tar.extractfile(SPEC_MEMBER))
        facts = json.load(tar.extractfile(members[4]))
    assert about == json.loads(canonical_json({"frameloom_format": 2, "num_samples": 3, "spec": SPEC.identity()}))
    assert facts["key"] == "b.mp4"
    assert facts["source_digest"] == BATCHES[0][1].source_digest
    assert (facts["status"], facts["message"], facts["num_rows"]) == ("no_frames", "no frame could be decoded", 0)


def test_plain_webdataset_reads_the_samples(tmp_path):
    found = plain_webdataset(write(tmp_path, BATCHES[0]))
    assert [sample["__key__"] for sample in found] == [sample.fingerprint for sample in BATCHES[0]]
    for plain, sample in zip(found, BATCHES[0], strict=True):
        np.testing.assert_array_equal(np.load(io.BytesIO(plain["values.npy"])), sample.feature.values)
        np.testing.assert_array_equal(np.load(io.BytesIO(plain["times.npy"])), sample.feature.times)
        assert json.loads(plain["json"])["key"] == sample.key


@pytest.mark.parametrize(
    "names", [["holiday.v1.final", "holiday.v2.final"], ["a b/c.mp4", "a b/d.mp4"], ["..", "__x__"]]
)
@pytest.mark.parametrize("are_fingerprints", [False, True])
def test_dots_blanks_and_slashes_never_merge_samples(tmp_path, names, are_fingerprints):
    samples = [make_sample(name, rows) for rows, name in enumerate(names, start=1)]
    if are_fingerprints:
        samples = [Sample(key=s.key, source_digest="s", fingerprint=s.key, feature=s.feature) for s in samples]
    found = plain_webdataset(write(tmp_path, samples))
    assert [json.loads(plain["json"])["key"] for plain in found] == names
    assert [len(np.load(io.BytesIO(plain["values.npy"]))) for plain in found] == [1, 2]
    store = FeatureStore(tmp_path)
    for sample in samples:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)


def test_no_two_fingerprints_have_the_same_name():
    names = [sample_id(text) for text in ["a" * 32, "A" * 32, "a" * 31, "a" * 48, sample_id("A" * 32), "f", "F", "f."]]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("0123456789abcdef") for name in names)


def test_pixels_are_stored_as_they_are(tmp_path):
    spec = make_spec(dim=32 * 32 * 3, dtype="uint8")
    sample = make_sample("p.mp4", 5, spec=spec)
    (plain,) = plain_webdataset(write(tmp_path, [sample], spec))
    np.testing.assert_array_equal(np.load(io.BytesIO(plain["values.npy"])), sample.feature.values)


def test_checksums_of_blocks_and_the_extent_are_recorded(tmp_path):
    spec = make_spec(dim=4000)
    feature = make_sample("x", 20, spec=spec).feature
    feature = FeatureArray(feature.values, feature.times, Status.OK, "", (0.0, 25.5))
    sample = Sample(key="x", source_digest="s", fingerprint="f", feature=feature)
    (plain,) = plain_webdataset(write(tmp_path, [sample], spec))
    record, data = json.loads(plain["json"]), feature.values.tobytes()
    assert record["extent"] == [0.0, 25.5]
    blocks = [*(data[place : place + 65536] for place in range(0, 160_000, 65536)), feature.times.tobytes()]
    assert record["blocks"] == "".join(map(xxhash.xxh3_64_hexdigest, blocks))


def test_a_sample_that_no_tar_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("frameloom.store.formats.webdataset.MAX_MEMBER_BYTES", 600)
    with pytest.raises(InputError, match="use hdf5"):
        write(tmp_path, [make_sample("large", 100)])
    assert not list(tmp_path.rglob("*.tar"))
