"""Promise 6: any flipped bit or truncation is found, never returned as data."""

from __future__ import annotations

import random

import numpy as np
import pytest
from frameloom._vocabulary import IntegrityError
from frameloom.store import FeatureStore
from frameloom.store.formats.sidecar import read_sidecar
from helpers.stores import BATCHES, SPEC


@pytest.fixture
def written(tmp_path):
    info = FeatureStore(tmp_path).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    return info.path


def flips(size: int, count: int) -> list[tuple[int, int]]:
    chance = random.Random(7)
    return [(chance.randrange(size), 1 << chance.randrange(8)) for _ in range(count)]


def test_every_flipped_bit_of_a_shard_is_found(written):
    whole = written.read_bytes()
    for place, bit in flips(len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= bit
        written.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=written.stem):
            FeatureStore(written.parents[1]).read(BATCHES[0][2].fingerprint)
        assert [problem.path for problem in FeatureStore(written.parents[1]).verify()] == [written]


def test_a_bit_that_flips_while_the_shard_is_open_is_found_and_the_sample_named(written):
    sample = BATCHES[0][2]
    store = FeatureStore(written.parents[1])
    store.read(BATCHES[0][0].fingerprint)  # the file is checked and open
    place = written.read_bytes().index(sample.feature.values.tobytes()[:64])
    with written.open("r+b") as file:
        file.seek(place + 8)
        file.write(b"\x00\x11")
    store.close()
    store._reader._check_once = lambda path: None  # as if it had been checked before it was damaged
    with pytest.raises(IntegrityError, match=written.stem):
        store.read(sample.fingerprint)


def test_a_sample_whose_checksum_is_wrong_is_named(written, monkeypatch):
    store = FeatureStore(written.parents[1])
    read = store._reader.read

    def flipped(*given, **named):
        values, times = read(*given, **named)
        values.view(np.uint16)[0, 0] ^= 1
        return values, times

    monkeypatch.setattr(store._reader, "read", flipped)
    with pytest.raises(IntegrityError, match=r"sample 'c\.mp4'.*" + written.stem):
        store.read(BATCHES[0][2].fingerprint)


def test_a_shard_cut_anywhere_does_not_exist(written):
    whole = written.read_bytes()
    for size in [0, 1, *range(512, len(whole), 512), len(whole) - 1]:
        written.write_bytes(whole[:size])
        store = FeatureStore(written.parents[1])
        assert BATCHES[0][0].fingerprint not in store
        assert [problem.path.stem for problem in store.problems] == [written.stem]


def test_every_flipped_bit_of_a_sidecar_is_found_or_harmless(written):
    sidecar = written.with_suffix(".parquet")
    whole, good = sidecar.read_bytes(), read_sidecar(sidecar, shard_path=written)
    found = 0
    for place, bit in flips(len(whole), 400):
        damaged = bytearray(whole)
        damaged[place] ^= bit
        sidecar.write_bytes(damaged)
        try:
            assert read_sidecar(sidecar, shard_path=written) == good, f"byte {place}, bit {bit}"
        except IntegrityError:
            found += 1
    assert found > 200  # the rest are statistics and padding that nobody reads


def test_a_sidecar_cut_anywhere_means_that_the_shard_does_not_exist(written):
    sidecar = written.with_suffix(".parquet")
    whole = sidecar.read_bytes()
    for size in [0, 1, 4, *range(100, len(whole), 97), len(whole) - 1]:
        sidecar.write_bytes(whole[:size])
        store = FeatureStore(written.parents[1])
        assert len(store) == 0
        assert [problem.path for problem in store.problems] == [sidecar]


def test_a_sidecar_of_another_shard_is_refused(tmp_path):
    store = FeatureStore(tmp_path)
    first = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC).path
    other = store.write_shard(SPEC.name, BATCHES[1], spec=SPEC).path
    first.with_suffix(".parquet").write_bytes(other.with_suffix(".parquet").read_bytes())
    reader = FeatureStore(tmp_path)
    assert BATCHES[0][0].fingerprint not in reader
    assert BATCHES[1][0].fingerprint in reader
    assert "belongs to another shard" in reader.problems[0].message


def test_a_shard_that_goes_away_is_named(written):
    store = FeatureStore(written.parents[1])
    store.refresh()
    written.unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        store.read(BATCHES[0][0].fingerprint)


def test_a_file_that_nobody_committed_is_never_parsed(written, monkeypatch):
    import h5py

    store = FeatureStore(written.parents[1])
    store.refresh()
    written.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * (written.stat().st_size - 8))
    monkeypatch.setattr(h5py, "File", lambda *given, **named: pytest.fail("the parser was shown a foreign file"))
    with pytest.raises(IntegrityError, match="is not what was written"):
        store.read(BATCHES[0][0].fingerprint)
