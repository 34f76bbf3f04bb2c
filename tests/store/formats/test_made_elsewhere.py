"""Stores that other versions, other processes and killed sweeps have been at: what is right is never called damage."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from frameloom import IntegrityError
from frameloom._files import temporary_path
from frameloom.store import FeatureStore
from frameloom.store.formats import FORMATS
from frameloom.store.health import repair_features, verify_features
from helpers.stores import BATCHES, SPEC, make_sample

pytestmark = pytest.mark.parametrize("format", sorted(FORMATS))


def written(root, format, samples=BATCHES[0], spec=SPEC):
    return FeatureStore(root).write_shard(spec.name, samples, spec=spec, format=format)


def test_a_sidecar_of_another_version_of_arrow_is_no_damage(tmp_path, format) -> None:
    sidecar = written(tmp_path, format).path.with_suffix(".parquet")
    data = sidecar.read_bytes()
    found = re.search(rb"version (\d)", data)
    assert found is not None
    digit = b"1" if found[1] != b"1" else b"2"
    sidecar.write_bytes(data[: found.start(1)] + digit + data[found.end(1) :])
    assert list(verify_features(FeatureStore(tmp_path))) == []
    assert list(repair_features(FeatureStore(tmp_path))) == []


@pytest.mark.parametrize("part", ["shard", "sidecar"])
def test_what_a_killed_sweep_had_set_aside_never_takes_the_place_of_what_was_written_since(
    tmp_path, format, part
) -> None:
    shard = written(tmp_path, format).path
    lone, other = (shard, shard.with_suffix(".parquet")) if part == "shard" else (shard.with_suffix(".parquet"), shard)
    other.unlink()
    good = lone.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    lone.write_bytes(damaged)
    lone.replace(temporary_path(lone, "swept"))
    written(tmp_path, format)
    FeatureStore(tmp_path).sweep()
    assert lone.read_bytes() == good
    assert list(verify_features(FeatureStore(tmp_path))) == []
    assert len(list(shard.parent.iterdir())) == 2


def test_a_specification_whose_names_are_numbers_is_the_same_after_it_was_text(tmp_path, format) -> None:
    spec = replace(SPEC, sampling={9: "a", 10: "b"})
    written(tmp_path, format, spec=spec)
    store = FeatureStore(tmp_path)
    for sample in BATCHES[0]:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)
    assert list(verify_features(store)) == []


def test_samples_without_rows_come_back_from_a_shard_that_has_no_others(tmp_path, format) -> None:
    samples = [make_sample(str(number), 0, message="why") for number in range(3)]
    info = written(tmp_path, format, samples)
    assert [len(FeatureStore(tmp_path).read(one.fingerprint).values) for one in samples] == [0, 0, 0]
    data = bytearray(info.path.with_suffix(".parquet").read_bytes())
    data[-6] ^= 1
    info.path.with_suffix(".parquet").write_bytes(data)
    (repaired,) = repair_features(FeatureStore(tmp_path))
    assert repaired.lost == ()
    assert [FeatureStore(tmp_path).read(one.fingerprint).message for one in samples] == ["why"] * 3


def test_a_copy_in_another_process_refuses_a_damaged_sidecar(tmp_path, format) -> None:
    shard = written(tmp_path, format).path
    copy = pickle.loads(pickle.dumps(FeatureStore(tmp_path)))
    sidecar = shard.with_suffix(".parquet")
    sidecar.write_bytes(sidecar.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=re.escape(sidecar.name)):
        copy.read_rows(shard, 0, 1)


def test_an_open_reader_sees_a_sidecar_that_is_damaged_and_mended_meanwhile(tmp_path, format) -> None:
    sidecar = written(tmp_path, format).path.with_suffix(".parquet")
    good, reader = sidecar.read_bytes(), FeatureStore(tmp_path)
    assert len(reader) == len(BATCHES[0])
    sidecar.write_bytes(good[:-9])
    reader.refresh()
    assert (len(reader), len(reader.problems)) == (0, 1)
    sidecar.write_bytes(good)
    reader.refresh()
    assert (len(reader), len(reader.problems)) == (len(BATCHES[0]), 0)


def test_a_copy_in_another_process_reads_rows_without_listing_the_store(tmp_path, format) -> None:
    samples = [make_sample(name, 4) for name in "abc"]
    info = written(tmp_path, format, samples)
    copy = pickle.loads(pickle.dumps(FeatureStore(tmp_path)))
    copy.place.files = None
    np.testing.assert_array_equal(copy.read_rows(info.path, 4, 8), samples[1].feature.values)
