"""Sidecars that say what no shard can be, with checksums that are right: they count as absent, and are reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from frameloom._vocabulary import ConfigError, IntegrityError, canonical_json
from frameloom.store import FeatureStore
from frameloom.store.formats import FORMATS, hdf5, records, webdataset
from frameloom.store.formats import sidecar as _sidecar
from frameloom.store.health import Kind, repair_features, verify_features
from helpers.stores import SPEC, make_sample, tree

SAMPLES = [make_sample("a.mp4", 3), make_sample("b.mp4", 0), make_sample("c.mp4", 70)]


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.write_shard("f", SAMPLES, spec=SPEC)
    return store


def retold(store, *, facts=None, **columns):
    """The store with a sidecar that says what it likes, and has the checksum of that."""
    (path,) = store.root.rglob("*.parquet")
    table = pq.read_table(path)
    said = {**json.loads(table.schema.metadata[b"frameloom"]), **(facts or {})}
    table = pa.table({**{name: table.column(name) for name in table.column_names}, **columns})
    try:
        said["checksum"] = _sidecar._checksum(table, said)
    except (TypeError, ValueError, pa.ArrowException):  # of columns of another type there is none
        said["checksum"] = "0" * 32
    pq.write_table(table.replace_schema_metadata({b"frameloom": canonical_json(said)}), path)
    return FeatureStore(store.root)


def test_a_sidecar_that_is_right_is_believed(store):
    store = retold(store)
    np.testing.assert_array_equal(store.read(SAMPLES[2].fingerprint).values, SAMPLES[2].feature.values)


LIES = {
    "rows below nothing": {"num_rows": [3, 0, -70]},
    "rows before the first": {"first_row": [-3, 3, 3]},
    "rows that overlap": {"first_row": [0, 0, 0]},
    "numbers that are text": {"num_rows": ["3", "0", "70"]},
    "no fingerprint": {"fingerprint": pa.array([None, "a", "b"], "string")},
    "a status that is none": {"status": ["ok", "ok", "perfect"]},
    "no samples": {
        name: pa.array([], {"double": "float64"}.get(type, type)) for name, type in _sidecar.COLUMNS.items()
    },
    "another shard": {"facts": {"sha256": "0" * 64}},
    "another size": {"facts": {"num_bytes": 1}},
    "a format that is text": {"facts": {"format": "2"}},
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
    "an unknown fact": {"facts": {"more": 5}},
    "rows after the last": {"num_rows": [3, 0, 10**15]},
    "rows that overflow": {"num_rows": [3, 0, 2**62]},
    "no checksums": {"blocks": [b"", b"", b""]},
    "checksums of another length": {"blocks": [b"1" * 15, b"", b"1" * 16]},
    "rows outside of the shard": {"values_offset": [0, 0, 10**9]},
    "rows before the shard": {"values_offset": [-1, 0, 0]},
    "times outside of the shard": {"times_offset": [2**62, 0, 0]},
    "one fingerprint three times": {"fingerprint": [SAMPLES[0].fingerprint] * 3},
    "a fingerprint that is empty": {"fingerprint": ["a", "", "b"]},
    "a fingerprint that is not ASCII": {"fingerprint": ["a", "\u00e9", "b"]},
    "a start without an end": {"end_seconds": pa.array([None, None, None], "float64")},
    "an end before its start": {"start_seconds": [9.0, None, 9.0], "end_seconds": [1.0, None, 1.0]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_sidecar_that_lies_counts_as_absent_and_is_reported_and_mended(store, lie):
    store = retold(store, **LIES[lie])
    assert len(store) == 0
    assert len(store.problems) == 1
    assert "\n" not in store.problems[0].message
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert len(FeatureStore(store.root)) == 3
    assert list(verify_features(store)) == []


LIES_THAT_COULD_BE = {
    "fingerprints of each other": {"fingerprint": [SAMPLES[n].fingerprint for n in (2, 1, 0)]},
    "another status": {"status": ["ok", "ok", "ok"]},
    "another message": {"message": ["", "no reason", ""]},
    "another key": {"key": ["a", "b", "c"]},
    "another digest": {"source_digest": ["a", "b", "c"]},
    "another span": {"end_seconds": [3.5, None, 70.0]},
    "checksums of other rows": {"blocks": [b"1" * 16, b"", b"1" * 16]},
    "rows that are cut otherwise": {"num_rows": [2, 1, 70], "first_row": [0, 2, 3], "blocks": [b"1" * 16] * 3},
    "another type of one size": {
        "facts": {"dtype": "int16", "spec": canonical_json(replace(SPEC, dtype="int16").identity())}
    },
}


@pytest.mark.parametrize("lie", LIES_THAT_COULD_BE)
def test_a_sidecar_that_says_other_things_than_its_shard_is_found_by_verify_and_mended(store, lie):
    (path,) = store.root.rglob("*.parquet")
    good = path.read_bytes()
    store = retold(store, **LIES_THAT_COULD_BE[lie])
    finding = next(verify_features(store))
    assert (finding.kind, finding.is_damage) == (Kind.SIDECAR, True)
    list(repair_features(store))
    assert path.read_bytes() == good


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_shard_whose_own_checksums_are_of_other_rows_loses_that_sample_alone(tmp_path, monkeypatch, format):
    """As a writer with a fault would leave it: its hash is right, and so is its sidecar."""
    right = records.block_checksums

    def wrong(values, times):
        found = right(values, times)
        return bytes(len(found)) if len(values) == 3 else found

    monkeypatch.setattr(records, "block_checksums", wrong)
    FeatureStore(tmp_path).write_shard("f", SAMPLES, spec=SPEC, format=format)
    monkeypatch.undo()
    findings = list(verify_features(FeatureStore(tmp_path)))
    assert findings[0].kind is Kind.SHARD
    assert any("a.mp4" in str(one) for one in findings)
    (repaired,) = repair_features(FeatureStore(tmp_path))
    assert len(repaired.lost) == 1
    store = FeatureStore(tmp_path)
    assert SAMPLES[0].fingerprint not in store
    np.testing.assert_array_equal(store.read(SAMPLES[2].fingerprint).values, SAMPLES[2].feature.values)
    assert list(verify_features(store)) == []


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_verify_names_a_flip_in_any_byte_of_a_sidecar_and_repair_mends_it(tmp_path, format):
    """Also in bytes that nobody reads, but for the name of the program that wrote it."""
    store = FeatureStore(tmp_path)
    path = store.write_shard("f", SAMPLES, spec=SPEC, format=format).path.with_suffix(".parquet")
    whole = path.read_bytes()
    writer = whole.find(b"parquet-cpp-arrow")
    for place in (*range(0, len(whole), 37), *range(writer - 8, writer)):  # the length of that name as well
        if writer <= place < writer + 60:
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        kinds = {(one.kind, one.is_damage) for one in verify_features(FeatureStore(tmp_path))}
        assert (Kind.SIDECAR, True) in kinds, place
        list(repair_features(FeatureStore(tmp_path)))
        assert path.read_bytes() == whole, place


def test_checksums_of_other_rows_are_refused_where_rows_are_read(store):
    store = retold(store, blocks=[b"1" * 16, b"", b"1" * 16])
    with pytest.raises(IntegrityError, match=r"c\.mp4"):
        store.read(SAMPLES[2].fingerprint)


def test_a_small_sidecar_of_very_many_samples_is_not_unpacked(store, monkeypatch):
    store = retold(store)
    monkeypatch.setattr("frameloom.store.formats.sidecar.MAX_SAMPLES", 2)
    assert len(store) == 0
    assert "claims 3 samples" in store.problems[0].message


def test_the_checksum_is_the_documented_one(store):
    (path,) = store.root.rglob("*.parquet")
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"frameloom"])
    expected = facts.pop("checksum")
    digest = xxhash.xxh3_128(canonical_json(facts).encode())
    for name in table.column_names:
        items = table.column(name).to_pylist()
        digest.update(bytes(item is not None for item in items))
        if isinstance(items[0], str | bytes):
            items = [item.encode() if isinstance(item, str) else item for item in items]
            digest.update(np.array([len(item) for item in items], "<i4").tobytes() + b"".join(items))
        else:
            kind = "<f8" if "seconds" in name else "<i8"
            digest.update(np.array([item or 0 for item in items], kind).tobytes())
    assert digest.hexdigest() == expected


def test_a_flipped_bit_in_the_number_of_samples_is_damage_of_that_shard(store):
    store.write_shard("f", [make_sample("d.mp4", 5)], spec=SPEC)
    path = store.entry(SAMPLES[0].fingerprint).shard.path.with_suffix(".parquet")
    whole, found = path.read_bytes(), 0
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(begin, len(whole) - 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        reader = FeatureStore(store.root)
        assert len(reader) in (1, 4), place  # as one that is damaged, or one in which nobody reads that byte
        found += any("samples, and has 3" in problem.message for problem in reader.problems)
    assert found
    assert [one.kind for one in verify_features(store)][:1] in ([], [Kind.SIDECAR])


def test_a_flipped_bit_in_the_number_of_the_format_is_damage_and_no_other_format(store):
    (path,) = store.root.rglob("*.parquet")
    whole = path.read_bytes()
    table = pq.read_table(path)
    said = table.schema.metadata[b"frameloom"].replace(b'"format":2', b'"format":3')
    pq.write_table(table.replace_schema_metadata({b"frameloom": said}), path)
    assert len(FeatureStore(store.root)) == 0
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert path.read_bytes() == whole


def test_a_text_that_a_sidecar_holds_once_and_repeats_is_not_unpacked(store, monkeypatch):
    """As 10 million times 100 MB would be, of a small file."""
    (path,) = store.root.rglob("*.parquet")
    table = pq.read_table(path)
    monkeypatch.setattr(_sidecar, "MAX_BYTES", 1_500_000)
    for name in ("key", "status"):
        said = table.set_column(table.column_names.index(name), name, pa.array(["x" * 1_000_000] * 3, "string"))
        pq.write_table(said, path, compression="zstd", use_dictionary=[name])
        (problem,) = refreshed(store).problems
        assert "claims 3 samples in 4," in problem.message
    pq.write_table(table, path, compression="zstd")  # every column has a dictionary
    monkeypatch.setattr(_sidecar, "MAX_BYTES", 3000)
    assert len(refreshed(store)) == 3


def test_a_sidecar_of_any_size_is_not_read(store):
    (path,) = store.root.rglob("*.parquet")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    (problem,) = refreshed(store).problems
    assert "has 1,099,511,627,776 bytes" in problem.message
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert len(FeatureStore(store.root)) == 3


def refreshed(store):
    store = FeatureStore(store.root)
    store.refresh()
    return store


OLD_SIDECAR = {  # what format 1 had
    "frameloom": canonical_json({"format": 1, "seal": "0" * 32, "sha256": "0" * 64}),
}


def test_a_store_of_format_1_says_what_to_do(store):
    (path,) = store.root.rglob("*.parquet")
    pq.write_table(pa.table({"key": ["a"], "checksum": [1]}).replace_schema_metadata(OLD_SIDECAR), path)
    for use in (
        lambda: len(FeatureStore(store.root)),
        lambda: list(verify_features(store)),
        lambda: list(repair_features(store)),
    ):
        with pytest.raises(
            ConfigError, match=r"store of format 1.*run `frameloom extract` or `frameloom import`"
        ) as told:
            use()
        assert "\n" not in str(told.value)
        assert told.value.exit_code == 2


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("has_sidecar", [True, False])
def test_shards_of_another_format_stay_and_say_what_to_do(tmp_path, monkeypatch, name, has_sidecar):
    for module in (_sidecar, records, hdf5, webdataset):
        monkeypatch.setattr(module, "FORMAT_VERSION", 3)
    info = FeatureStore(tmp_path).write_shard("f", SAMPLES, spec=SPEC, format=name)
    monkeypatch.undo()
    if not has_sidecar:
        info.path.with_suffix(".parquet").unlink()
    before = tree(tmp_path)
    for use in [verify_features, repair_features, *([len] if has_sidecar else [])]:
        with pytest.raises(ConfigError, match=r"format 3, and this version reads format 2: use the version") as told:
            _ = [*found] if isinstance(found := use(FeatureStore(tmp_path)), Iterator) else found
        assert "\n" not in str(told.value)
        assert told.value.exit_code == 2
    assert tree(tmp_path) == before
