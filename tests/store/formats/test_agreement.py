"""Pairs of a shard and a sealed sidecar that were made to mislead: named, refused, set aside; the others go on."""

from __future__ import annotations

import hashlib
import json
import pickle
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from frameloom._vocabulary import FeatureArray, IntegrityError, canonical_json
from frameloom.store import FeatureStore, Kind, Sample, repair_features, sample_checksum, verify_features
from frameloom.store.formats import sidecar as sidecars
from frameloom.store.formats.base import FORMATS
from frameloom.store.formats.sidecar import encode_sidecar, readable_columns
from helpers.stores import SPEC, make_sample

from .test_hostile_shards import HOSTILE_FACTS, HOSTILE_HDF5, HOSTILE_TARS, damaged_hdf5, members_of, tar_of

SAMPLES = [make_sample(f"{name}.mp4", 4) for name in "abc"]
OTHER = make_sample("other.mp4", 6)
FORMAT_NAMES = sorted(FORMATS)


def sealed(sidecar, *, facts=None, **columns):
    """Let a sidecar say something else, under a seal that fits."""
    said, known = readable_columns(sidecar.read_bytes())
    said |= columns
    known |= facts or {}
    del known["seal"]
    known["seal"] = sidecars._seal(said, known)
    sidecar.write_bytes(sidecars._encode(said, known))


def placed(root, data, suffix, samples):
    """A shard of any bytes under the name that they have, beside a sidecar that tells of samples."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = root / SPEC.name / f"{sha256[:32]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    said = encode_sidecar(samples, spec=SPEC, num_bytes=max(len(data), 1), sha256=sha256)
    path.with_suffix(".parquet").write_bytes(said)
    return path


def assert_is_named_and_leaves(root, path, named):
    """Verify names a pair and its samples, repair sets it aside, and what lies beside it is untouched."""
    store = FeatureStore(root)
    findings = list(verify_features(store))
    assert {finding.is_damage for finding in findings} == {True}
    assert all("\n" not in finding.message for finding in findings)
    assert named <= {finding.fingerprint for finding in findings}
    told = list(repair_features(store, dry_run=True))
    (repaired,) = repair_features(store)
    assert [one.lost for one in told] == [repaired.lost]
    assert {fingerprint for _, fingerprint in repaired.lost} >= named
    assert not path.exists()
    assert (repaired.kept / path.name).is_file()
    assert list(verify_features(store)) == []
    np.testing.assert_array_equal(store.read(OTHER.fingerprint).values, OTHER.feature.values)


HOSTILE = [("hdf5", kind) for kind in HOSTILE_HDF5] + [("webdataset", kind) for kind in HOSTILE_TARS]
ODD = {"garbage": random.Random(3).randbytes(5000), "nothing but zeros": bytes(4096), "gzip": b"\x1f\x8b" + bytes(900)}


@pytest.mark.parametrize(("format", "kind"), HOSTILE)
def test_a_committed_pair_whose_shard_is_none_is_named_and_set_aside(tmp_path, format, kind):
    store = FeatureStore(tmp_path / "store")
    store.write_shard(SPEC.name, [OTHER], spec=SPEC)
    made = tmp_path / "made"
    if format == "hdf5":
        damaged_hdf5(made, HOSTILE_HDF5[kind])
    else:
        info = FeatureStore(tmp_path / "good").write_shard(SPEC.name, SAMPLES, spec=SPEC, format=format)
        members = members_of(info.path)
        HOSTILE_TARS[kind](members)
        tar_of(made, members)
    path = placed(store.root, made.read_bytes(), FORMATS[format].suffix, SAMPLES)
    reader = FeatureStore(store.root)
    for sample in SAMPLES:
        with pytest.raises(IntegrityError):
            reader.read(sample.fingerprint)
    assert_is_named_and_leaves(store.root, path, {sample.fingerprint for sample in SAMPLES})


@pytest.mark.parametrize("suffix", [".h5", ".tar"])
@pytest.mark.parametrize("kind", ODD)
def test_a_committed_pair_of_something_else_is_named_and_set_aside(tmp_path, suffix, kind):
    FeatureStore(tmp_path).write_shard(SPEC.name, [OTHER], spec=SPEC)
    path = placed(tmp_path, ODD[kind], suffix, SAMPLES[:1])
    assert_is_named_and_leaves(tmp_path, path, {SAMPLES[0].fingerprint})


@pytest.mark.parametrize("kind", HOSTILE_FACTS)
def test_a_tar_whose_samples_say_odd_things_of_themselves_never_ends_verify(tmp_path, kind):
    info = FeatureStore(tmp_path / "good").write_shard(SPEC.name, SAMPLES, spec=SPEC, format="webdataset")
    members = members_of(info.path)
    HOSTILE_FACTS[kind](members)
    path = placed(tmp_path, tar_of(tmp_path / "made", members).read_bytes(), ".tar", SAMPLES)
    assert list(verify_features(FeatureStore(tmp_path))) or kind == "another checksum of times"
    list(repair_features(FeatureStore(tmp_path)))
    assert list(verify_features(FeatureStore(tmp_path))) == []
    assert path.suffix == ".tar"


def column(name):
    return [getattr(sample, name) for sample in SAMPLES]


def merged():
    """The first two samples as one."""
    values, times = (
        np.concatenate([getattr(one.feature, part) for one in SAMPLES[:2]]) for part in ("values", "times")
    )
    one = Sample(key="x", source_digest="d", fingerprint="e" * 32, feature=FeatureArray(values, times))
    return sidecars._columns([one])


def changed(change):
    return lambda: {name: change(cells) for name, cells in sidecars._columns(SAMPLES).items()}


GHOST = sidecars._columns([make_sample("ghost.mp4", 0)])
FINGERPRINTS, KEYS = column("fingerprint"), column("key")
CHECKSUMS = [sample_checksum(one.feature.values, one.feature.times) for one in SAMPLES]
LIES = {
    "fingerprints swapped": lambda: {"fingerprint": [FINGERPRINTS[place] for place in (1, 0, 2)]},
    "keys swapped": lambda: {"key": [KEYS[place] for place in (1, 0, 2)]},
    "two samples of three": changed(lambda cells: cells[:2]),
    "two samples as one": merged,
    "a sample that is not there": lambda: {
        name: [*cells, 12 if name == "first_row" else GHOST[name][0]]
        for name, cells in sidecars._columns(SAMPLES).items()
    },
    "one fingerprint three times": lambda: {"fingerprint": [FINGERPRINTS[0]] * 3},
    "other numbers of rows": lambda: {"num_rows": [3, 5, 4], "first_row": [0, 3, 8]},
    "no frames": lambda: {"status": ["no_frames"] * 3},
    "an end before the start": lambda: {"start_seconds": [9.0] * 3, "end_seconds": [1.0] * 3},
    "no span": lambda: {"start_seconds": [None] * 3, "end_seconds": [None] * 3},
    "another specification": lambda: {"facts": {"spec": canonical_json({**SPEC.identity(), "name": "another"})}},
    "another type": lambda: {
        "facts": {"dtype": "int16", "spec": canonical_json({**SPEC.identity(), "dtype": "int16"})}
    },
    "another size": lambda: {"facts": {"num_bytes": 10_000_000}},
    "another digest of the source": lambda: {"source_digest": ["e"] * 3},
    "another message": lambda: {"message": ["fine"] * 3},
}
ONLY_TARS_KNOW = {"another digest of the source", "another message"}
ARE_READ_AS_WHAT_THEY_ARE = {"keys swapped", "no frames", "no span", *ONLY_TARS_KNOW}


@pytest.mark.parametrize("format", FORMAT_NAMES)
@pytest.mark.parametrize("lie", LIES)
def test_a_sidecar_that_is_not_its_shards_is_named_and_not_read(tmp_path, format, lie):
    store = FeatureStore(tmp_path)
    path = store.write_shard(SPEC.name, SAMPLES, spec=SPEC, format=format).path
    sidecar = path.with_suffix(".parquet")
    whole = sidecar.read_bytes()
    sealed(sidecar, **LIES[lie]())
    reader = FeatureStore(tmp_path)
    copy = pickle.loads(pickle.dumps(reader))
    for fingerprint in [] if lie in ARE_READ_AS_WHAT_THEY_ARE else [entry.fingerprint for entry in reader.entries()]:
        entry = reader.entry(fingerprint)
        if entry.num_rows:
            for read in (reader.read, copy.read, lambda name: reader.read_span(name, 0.0, 9.0)):
                with pytest.raises(IntegrityError, match=path.stem):
                    read(fingerprint)
            with pytest.raises(IntegrityError, match=path.stem):
                reader.read_rows(path, 0, 1)
    if format == "hdf5" and lie in ONLY_TARS_KNOW:
        return
    findings = list(verify_features(FeatureStore(tmp_path)))
    assert findings[0].kind is Kind.SIDECAR
    assert {finding.fingerprint for finding in findings[1:]} == {sample.fingerprint for sample in SAMPLES}
    (repaired,) = repair_features(FeatureStore(tmp_path))
    if format == "webdataset":
        assert (repaired.lost, sidecar.read_bytes()) == ((), whole)
    else:
        assert [key for key, _ in repaired.lost] == KEYS
    assert list(verify_features(FeatureStore(tmp_path))) == []


def test_a_process_that_reads_no_sidecar_knows_what_a_shard_must_be(tmp_path):
    path = FeatureStore(tmp_path).write_shard(SPEC.name, SAMPLES, spec=SPEC).path
    sealed(path.with_suffix(".parquet"), **LIES["fingerprints swapped"]())
    store = FeatureStore(tmp_path)
    store.refresh()
    copy = pickle.loads(pickle.dumps(store))
    with pytest.raises(IntegrityError, match="frameloom verify"):
        copy.read_rows(path, 0, 1)


@pytest.mark.parametrize("format", FORMAT_NAMES)
def test_any_flip_in_a_sidecar_is_a_finding_and_never_an_error(tmp_path, format):
    store = FeatureStore(tmp_path)
    path = store.write_shard(SPEC.name, SAMPLES, spec=SPEC, format=format).path.with_suffix(".parquet")
    whole, chance = path.read_bytes(), random.Random(11)
    version = whole.index(b"parquet-cpp-arrow version ") + 26  # which version wrote it, nothing else says
    spared = range(version, version + 8)
    for place in chance.sample([place for place in range(len(whole)) if place not in spared], 400):
        bit = 1 << chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        findings = list(verify_features(FeatureStore(tmp_path)))
        told = f"byte {place}, bit {bit}"
        assert {finding.key for finding in findings} == {"", *KEYS}, told
        assert all("\n" not in finding.message for finding in findings), told
        assert [one.kind for one in repair_features(FeatureStore(tmp_path), dry_run=True)] == [Kind.SIDECAR], told
        store = FeatureStore(tmp_path)
        assert all("\n" not in problem.message for problem in (store.problems if len(store) == 0 else ())), told


def test_columns_of_other_lengths_are_not_taken_for_a_sidecar(tmp_path, monkeypatch):
    path = FeatureStore(tmp_path).write_shard(SPEC.name, SAMPLES, spec=SPEC).path.with_suffix(".parquet")
    read = pq.ParquetFile.read

    def short(self, columns=None, **how):
        table = read(self, columns, **how)
        return table.slice(0, 0) if columns == ["key"] else table

    monkeypatch.setattr(pq.ParquetFile, "read", short)
    columns, facts = readable_columns(path.read_bytes())
    assert "key" not in columns
    assert columns["fingerprint"] == FINGERPRINTS
    assert json.loads(facts["spec"])["name"] == SPEC.name
