"""Sidecars that say what no shard can be, under seals that fit: they count as absent, and are reported."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from frameloom._vocabulary import IntegrityError, canonical_json
from frameloom.store import FeatureStore
from frameloom.store.formats import sidecar as _sidecar
from frameloom.store.formats.base import FORMATS
from frameloom.store.formats.sidecar import encode_sidecar
from helpers.stores import SPEC, make_sample

SAMPLES = [make_sample("a.mp4", 3), make_sample("b.mp4", 0), make_sample("c.mp4", 70)]


@pytest.fixture
def shard(tmp_path):
    def write(name):
        path = tmp_path / f"good{FORMATS[name].suffix}"
        with path.open("wb+", buffering=0) as target:
            FORMATS[name].write(target, SAMPLES, spec=SPEC)
        return path

    return write


def sealed(tmp_path, shard, *, facts=None, **columns):
    """A sidecar beside a good shard that says what it likes, under a seal that fits."""
    path = shard("hdf5")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    place = tmp_path / "store" / "f" / f"{sha256[:32]}.h5"
    place.parent.mkdir(parents=True)
    path.rename(place)
    good = encode_sidecar(SAMPLES, spec=SPEC, num_bytes=len(data), sha256=sha256)
    table = pq.read_table(pa.BufferReader(good))
    said = {**json.loads(table.schema.metadata[b"frameloom"]), **(facts or {})}
    del said["seal"]
    table = pa.table({**{name: table.column(name) for name in table.column_names}, **columns})
    said["seal"] = _sidecar._seal(table.to_pydict(), said)
    sidecar = place.with_suffix(".parquet")
    pq.write_table(table.replace_schema_metadata({b"frameloom": canonical_json(said)}), sidecar)
    return FeatureStore(tmp_path / "store")


def test_a_sealed_sidecar_that_is_right_is_believed(tmp_path, shard):
    store = sealed(tmp_path, shard)
    np.testing.assert_array_equal(store.read(SAMPLES[2].fingerprint).values, SAMPLES[2].feature.values)


LIES = {
    "rows below nothing": {"num_rows": [3, 0, -70]},
    "rows before the first": {"first_row": [-3, 3, 3]},
    "rows that overlap": {"first_row": [0, 0, 0]},
    "numbers that are text": {"num_rows": ["3", "0", "70"]},
    "no fingerprint": {"fingerprint": pa.array([None, "a", "b"], "string")},
    "a status that is none": {"status": ["ok", "ok", "perfect"]},
    "no samples": {name: pa.array([], type) for name, type in _sidecar.COLUMNS.items()},
    "another shard": {"facts": {"sha256": "0" * 64}},
    "another size": {"facts": {"num_bytes": 1}},
    "a newer format": {"facts": {"format": 2}},
    "a hash that is a number": {"facts": {"sha256": 5}},
    "no hash": {"facts": {"sha256": None}},
    "a hash that is cut": {"facts": {"sha256": "0" * 32}},
    "a size that is text": {"facts": {"num_bytes": "x"}},
    "a size below nothing": {"facts": {"num_bytes": -1}},
    "a size that is true": {"facts": {"num_bytes": True}},
    "a width below nothing": {"facts": {"dim": -1}},
    "no width": {"facts": {"dim": 0}},
    "a width that is text": {"facts": {"dim": "8"}},
    "a gigantic width": {"facts": {"dim": 10**12}},
    "another width": {"facts": {"dim": 4}},
    "another type": {"facts": {"dtype": "float32"}},
    "a type that is none": {"facts": {"dtype": "nonsense"}},
    "a type of objects": {"facts": {"dtype": "object"}},
    "a type that is a number": {"facts": {"dtype": 5}},
    "a type that is a list": {"facts": {"dtype": ["float16"]}},
    "a specification that is no JSON": {"facts": {"spec": "not json"}},
    "a specification that is empty": {"facts": {"spec": "{}"}},
    "a specification that is a number": {"facts": {"spec": 7}},
    "a specification that is deep": {"facts": {"spec": "[" * 20_000}},
    "a version that is a number": {"facts": {"code_version": 5}},
    "rows after the last": {"num_rows": [3, 0, 10**15]},
    "rows that overflow": {"num_rows": [3, 0, 2**62]},
    "checksums that are none": {"checksum": [-1, 2**40, -(2**40)]},
    "one fingerprint three times": {"fingerprint": [SAMPLES[0].fingerprint] * 3},
    "a fingerprint that is empty": {"fingerprint": ["a", "", "b"]},
    "a fingerprint that is not ASCII": {"fingerprint": ["a", "\u00e9", "b"]},
    "a start without an end": {"end_seconds": pa.array([None, None, None], "float64")},
    "an end before its start": {"start_seconds": [9.0, None, 9.0], "end_seconds": [1.0, None, 1.0]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_sidecar_that_lies_counts_as_absent_and_is_reported(tmp_path, shard, lie):
    store = sealed(tmp_path, shard, **LIES[lie])
    assert len(store) == 0
    assert len(store.problems) == 1
    assert "\n" not in store.problems[0].message


def test_what_only_reading_shows_is_refused_then(tmp_path, shard):
    store = sealed(tmp_path, shard, checksum=[1, 2, 3])
    with pytest.raises(IntegrityError):
        store.read(SAMPLES[2].fingerprint)


def test_a_small_sidecar_of_very_many_samples_is_not_unpacked(tmp_path, shard, monkeypatch):
    store = sealed(tmp_path, shard)
    monkeypatch.setattr("frameloom.store.formats.sidecar.MAX_SAMPLES", 2)
    assert len(store) == 0
    assert "claims 3 samples" in store.problems[0].message


def test_the_seal_is_the_documented_one(tmp_path, shard):
    store = sealed(tmp_path, shard)
    (sidecar,) = store.root.rglob("*.parquet")
    table = pq.read_table(sidecar)
    facts = json.loads(table.schema.metadata[b"frameloom"])
    seal = facts.pop("seal")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    text = json.dumps([columns, dict(sorted(facts.items()))], allow_nan=False)
    assert hashlib.blake2b(text.encode(), digest_size=16).hexdigest() == seal
