"""What verify finds and names, and what repair keeps of it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, Status
from frameloom.store import ClipTable, FeatureStore, Sample
from frameloom.store.health import Kind, num_shards, repair_features, repair_table, verify_features, verify_table
from helpers.stores import BATCHES, DIM, METADATA, SPEC, make_row, make_sample, make_spec, tree, unit, write_all


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    write_all(root)
    return root


@pytest.fixture
def store(written, tmp_path):
    return FeatureStore(shutil.copytree(written, tmp_path / "store"))


def shard_of(store, key):
    (entry,) = (entry for entry in store.entries() if entry.key == key)
    return entry.shard.path


def flip(path, place, bit=1):
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


def damage_rows(store, key):
    """Flip one bit of a sample's values; returns its shard."""
    path = shard_of(store, key)
    (sample,) = (sample for batch in BATCHES for sample in batch if sample.key == key)
    flip(path, path.read_bytes().index(sample.feature.values.tobytes()[:32]) + 5)
    return path


def assert_reads(store, keys):
    """Exactly these samples are there, as they were made."""
    made = {sample.key: sample for batch in BATCHES for sample in batch}
    assert {entry.key for entry in store.entries()} == set(keys)
    for key in keys:
        found = store.read(made[key].fingerprint)
        np.testing.assert_array_equal(found.values, made[key].feature.values)
        np.testing.assert_array_equal(found.times, made[key].feature.times)
        assert (found.status, found.message) == (made[key].feature.status, made[key].feature.message)


ALL = [sample.key for batch in BATCHES for sample in batch]


def test_a_whole_store_has_no_findings_and_nothing_to_repair(store, tmp_path):
    before = tree(store.root)
    seen = []
    assert list(verify_features(store, advance=seen.append)) == []
    assert list(repair_features(store)) == []
    assert sum(seen) == num_shards(store) == 3
    assert tree(store.root) == before
    assert list(verify_features(FeatureStore(tmp_path / "nowhere"))) == []


def test_a_flipped_bit_is_named_down_to_the_sample(store):
    path = damage_rows(store, "c.mp4")
    whole, sample = verify_features(store)
    assert (whole.kind, whole.path, whole.is_damage) == (Kind.SHARD, path, True)
    assert "1 of its 3 samples" in whole.message
    assert (sample.kind, sample.key, sample.feature) == (Kind.SAMPLE, "c.mp4", SPEC.name)
    assert sample.fingerprint == BATCHES[0][2].fingerprint
    assert sample.as_dict()["damage"] is True


def test_repair_keeps_what_is_whole_and_writing_the_lost_restores_all(store):
    path = damage_rows(store, "c.mp4")
    damaged = path.read_bytes()
    (repaired,) = repair_features(store)
    assert [key for key, _ in repaired.lost] == ["c.mp4"]
    assert "2 whole samples kept" in repaired.message
    assert (repaired.kept / path.name).read_bytes() == damaged
    assert (repaired.kept / path.name).with_suffix(".parquet").is_file()
    assert not path.exists()
    assert list(verify_features(store)) == []
    assert_reads(store, [key for key in ALL if key != "c.mp4"])
    store.write_shard(SPEC.name, [BATCHES[0][2]], spec=SPEC)
    assert_reads(FeatureStore(store.root), ALL)


def test_entries_of_salvaged_samples_say_the_same(store):
    extent = FeatureArray(*numbers("x", 4), Status.TRUNCATED, "cut", (-0.5, 9.0))
    samples = [with_feature("x", extent), make_sample("y", 3)]
    info = store.write_shard(SPEC.name, samples, spec=SPEC)
    before = store.entry(samples[0].fingerprint)
    flip(info.path, info.path.read_bytes().index(samples[1].feature.values.tobytes()))
    list(repair_features(store))
    after = store.entry(samples[0].fingerprint)
    assert samples[1].fingerprint not in store
    names = ("key", "source_digest", "num_rows", "status", "message", "start_seconds", "end_seconds", "checksum")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
    assert (after.start_seconds, after.end_seconds) == (-0.5, 9.0)
    assert after.shard.spec == before.shard.spec


def numbers(name, rows):
    feature = make_sample(name, rows).feature
    return feature.values, feature.times


def with_feature(name, feature):
    sample = make_sample(name, 1)
    return Sample(key=name, source_digest=sample.source_digest, fingerprint=sample.fingerprint, feature=feature)


@pytest.mark.parametrize("place", [0, 8, 40, 700])
def test_damage_outside_of_the_rows_costs_nothing(store, place):
    path = shard_of(store, "c.mp4")
    whole = path.read_bytes()
    flip(path, place, 0x10)
    (finding,) = verify_features(store)
    assert (finding.kind, finding.path) == (Kind.SHARD_METADATA, path)
    assert "none of its samples" in finding.message
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert path.read_bytes() == whole
    assert_reads(store, ALL)


def test_a_shard_that_was_cut_keeps_the_samples_that_are_left(store):
    path = shard_of(store, "c.mp4")
    data = path.read_bytes()
    last = data.index(BATCHES[0][2].feature.values.tobytes()[:32]) + 64
    path.write_bytes(data[:last])
    findings = list(verify_features(store))
    assert findings[0].kind is Kind.SHARD
    assert "c.mp4" in {finding.key for finding in findings}
    (repaired,) = repair_features(store)
    lost = {key for key, _ in repaired.lost}
    assert "b.mp4" not in lost  # it has no rows, only a status
    assert_reads(store, [key for key in ALL if key not in lost])


def test_an_empty_or_foreign_shard_is_told_and_never_parsed(store, monkeypatch):
    path = shard_of(store, "d.mp4")
    for content in (b"", b"\x89HDF\r\n\x1a\n" + b"\xff" * 4000):
        path.write_bytes(content)
        findings = list(verify_features(FeatureStore(store.root)))
        assert [finding.kind for finding in findings] == [Kind.SHARD, Kind.SAMPLE]
        assert findings[1].key == "d.mp4"


def test_a_missing_shard_names_every_sample_and_leaves_the_sidecar_in_quarantine(store):
    path = shard_of(store, "e/f.mp4")
    path.unlink()
    findings = list(verify_features(store))
    assert [finding.kind for finding in findings] == [Kind.MISSING_SHARD, Kind.SAMPLE, Kind.SAMPLE]
    assert [finding.key for finding in findings[1:]] == ["e/f.mp4", "g.mp4"]
    (repaired,) = repair_features(store)
    assert [key for key, _ in repaired.lost] == ["e/f.mp4", "g.mp4"]
    assert [path.suffix for path in repaired.kept.iterdir()] == [".parquet"]
    assert list(verify_features(store)) == []


def test_a_shard_without_sidecar_is_a_note_and_repair_gives_it_its_sidecar_back(store):
    path = shard_of(store, "c.mp4")
    whole = path.with_suffix(".parquet").read_bytes()
    path.with_suffix(".parquet").unlink()
    (finding,) = verify_features(store)
    assert (finding.kind, finding.is_damage) == (Kind.UNFINISHED_FILE, False)
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert path.with_suffix(".parquet").read_bytes() == whole
    assert_reads(store, ALL)


def test_a_damaged_shard_without_sidecar_is_a_note_and_stays(store):
    path = shard_of(store, "d.mp4")
    path.with_suffix(".parquet").unlink()
    flip(path, 100)
    (finding,) = verify_features(store)
    assert (finding.kind, finding.is_damage) == (Kind.UNFINISHED_FILE, False)
    assert list(repair_features(store)) == []
    assert path.is_file()


def test_a_damaged_shard_whose_sidecar_is_damaged_as_well_is_set_aside(store):
    path = damage_rows(store, "c.mp4")
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    (finding,) = verify_features(store)
    assert finding.kind is Kind.SHARD
    (repaired,) = repair_features(store)
    assert sorted(path.suffix for path in repaired.kept.iterdir()) == [".h5", ".parquet"]
    assert_reads(store, ["d.mp4", "e/f.mp4", "g.mp4"])
    assert list(verify_features(store)) == []


def test_a_dry_run_says_the_same_and_changes_nothing(store):
    damage_rows(store, "c.mp4")
    before = tree(store.root)
    (told,) = repair_features(store, dry_run=True)
    assert tree(store.root) == before
    (done,) = repair_features(store)
    assert (told.kind, told.path, told.message, told.lost) == (done.kind, done.path, done.message, done.lost)
    assert told.kept is None


def test_a_second_repair_of_other_damage_keeps_both(store):
    for _ in range(2):
        damage_rows(store, "d.mp4")
        list(repair_features(store))
        store.write_shard(SPEC.name, BATCHES[1], spec=SPEC)
    kept = list((store.root / ".quarantine" / SPEC.name).iterdir())
    assert len([path for path in kept if ".h5" in path.name]) == 2
    assert_reads(store, ALL)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_samples_that_share_a_chunk_are_told_apart(tmp_path, dtype):
    spec = make_spec(dim=64, dtype=dtype)
    samples = [make_sample(f"{number}.mp4", 40 + number, spec=spec) for number in range(60)]
    store = FeatureStore(tmp_path)
    path = store.write_shard(spec.name, samples, spec=spec).path
    flip(path, path.read_bytes().index(samples[31].feature.values.tobytes()[:64]) + 3)
    assert [finding.key for finding in verify_features(store)] == ["", "31.mp4"]


@pytest.fixture(scope="module")
def table_once(tmp_path_factory):
    table = ClipTable(tmp_path_factory.mktemp("table") / "vectors")
    table.create(DIM, METADATA)
    table.apply([make_row(serial) for serial in range(10)])
    return table


@pytest.fixture
def table(table_once, tmp_path):
    shutil.copytree(table_once.uri, tmp_path / "vectors")
    return ClipTable(tmp_path / "vectors")


def test_a_whole_table_has_no_findings(table, tmp_path):
    assert list(verify_table(table)) == []
    assert list(repair_table(table, last_durable_version=table.version())) == []
    assert list(verify_table(ClipTable(tmp_path / "nowhere"))) == []


def test_rows_that_are_double_are_named_and_removed(table):
    inner = table._lance.database().open_table("clips")
    inner.add(inner.search().where("id = 'id-004'").to_arrow())
    (finding,) = verify_table(table)
    assert (finding.kind, finding.key) == (Kind.DOUBLE_ROW, "id-004")
    (repaired,) = repair_table(table, last_durable_version=table.version())
    assert repaired.lost == (("id-004", ""),)
    assert list(verify_table(table)) == []
    assert table.count() == 9


def test_a_vector_that_cannot_be_compared_is_named_and_removed(table):
    (data,) = (path for path in (table._folder.path / "data").iterdir() if unit(3).tobytes() in path.read_bytes())
    data.write_bytes(data.read_bytes().replace(unit(3).tobytes(), bytes(4 * DIM)))
    (finding,) = verify_table(table)
    assert (finding.kind, finding.key) == (Kind.BAD_ROW, "id-003")
    told = list(repair_table(table, last_durable_version=table.version(), dry_run=True))
    assert (len(told), table.count()) == (1, 10)
    list(repair_table(table, last_durable_version=table.version()))
    assert list(verify_table(table)) == []
    assert table.count() == 9


@pytest.mark.parametrize("durable", [True, False])
def test_a_newest_version_that_cannot_be_read_is_set_aside_even_when_it_was_acknowledged(table, durable):
    before = table.version()
    table.apply([make_row(50)])
    manifest = min((table._folder.path / "_versions").glob("*.manifest"))
    manifest.write_bytes(b"")
    (finding,) = verify_table(table)
    assert finding.kind is Kind.TABLE
    assert len(list(repair_table(table, last_durable_version=None, dry_run=True))) == 1
    assert manifest.is_file()
    (repaired,) = repair_table(table, last_durable_version=before + 1 if durable else before)
    assert len(list(repaired.kept.iterdir())) == 1
    assert table.version() == before
    assert list(verify_table(table)) == []
    assert table.apply([make_row(50)]).inserted == 1


def test_a_flip_in_a_tar_is_named_and_the_other_samples_are_kept(tmp_path):
    store = FeatureStore(tmp_path)
    made = [make_sample(f"{number}.mp4", 9) for number in range(5)]
    path = store.write_shard(SPEC.name, made, spec=SPEC, format="webdataset").path
    flip(path, path.read_bytes().index(made[2].feature.values.tobytes()[:64]) + 9)
    assert [finding.key for finding in verify_features(store)] == ["", "2.mp4"]
    list(repair_features(store))
    assert {entry.key for entry in store.entries()} == {"0.mp4", "1.mp4", "3.mp4", "4.mp4"}
    assert {shard.path.suffix for shard in store.shards()} == {".tar"}


def ending_flipped(data):
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


@pytest.mark.parametrize("format", ["hdf5", "webdataset"])
@pytest.mark.parametrize("change", [ending_flipped, lambda data: b"PAR1", lambda data: b""])
def test_a_shard_gives_back_its_whole_sidecar(tmp_path, change, format):
    store = FeatureStore(tmp_path)
    extent = FeatureArray(*numbers("x", 4), Status.TRUNCATED, "cut", (-0.5, 9.0))
    made = [with_feature("x", extent), make_sample("y", 0, message="no frame could be decoded"), make_sample("z", 9)]
    path = store.write_shard(SPEC.name, made, spec=SPEC, format=format).path.with_suffix(".parquet")
    whole = tree(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    store = FeatureStore(tmp_path)
    findings = list(verify_features(store))
    assert [finding.key for finding in findings] == ["", "x", "y", "z"]
    assert "nothing is lost" in findings[0].remedy
    (repaired,) = repair_features(store)
    assert repaired.lost == ()
    assert [path.suffix for path in repaired.kept.iterdir()] == [".parquet"]
    assert {name: data for name, data in tree(tmp_path).items() if "quarantine" not in name} == whole
