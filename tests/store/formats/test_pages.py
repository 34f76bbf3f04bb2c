"""Sums of pages: what a file was when it was hashed, so that parts of it can be compared with that later."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from frameloom import IntegrityError
from frameloom._vocabulary import FeatureArray
from frameloom.store import FeatureStore, Sample
from frameloom.store.formats import pages as _pages
from frameloom.store.formats.pages import PAGE_BYTES, KeptSums, PageSums, hash_with_sums
from frameloom.store.formats.rows import RowFile
from helpers.stores import SPEC

SIZES = [0, 1, 7, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 16 * PAGE_BYTES, 40 * PAGE_BYTES + 123]


@pytest.fixture
def make(tmp_path):
    def write(size: int, seed: int = 0):
        path = tmp_path / f"{size}-{seed}"
        path.write_bytes(random.Random(seed).randbytes(size))
        return path

    return write


@pytest.mark.parametrize("size", SIZES)
def test_the_hash_is_the_files_and_every_part_is_found_again(make, size) -> None:
    path = make(size)
    data = path.read_bytes()
    sha256, sums = hash_with_sums(path)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert (sums.num_bytes, sums.nbytes) == (size, 8 * -(-size // PAGE_BYTES))
    file, chance = RowFile(path, sums), random.Random(size)
    for _ in range(20 if size else 0):
        offset = chance.randrange(size)
        count = chance.randrange(1, size - offset + 1)
        assert bytes(file.read_checked(offset, count)) == data[offset : offset + count]


@pytest.mark.parametrize("size", SIZES[1:])
def test_every_flipped_bit_of_a_page_is_seen_in_it_and_in_no_other(make, size) -> None:
    path = make(size)
    data, (_, sums) = path.read_bytes(), hash_with_sums(path)
    chance = random.Random(size)
    for _ in range(40):
        place, damaged = chance.randrange(size), bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        file, page = RowFile(path, sums), place // PAGE_BYTES
        with pytest.raises(ValueError, match=f"the bytes at {page * PAGE_BYTES:,} do not match their checksum"):
            file.read_checked(place, 1)
        for other in {*range(-(-size // PAGE_BYTES))} - {page}:
            assert len(file.read_checked(other * PAGE_BYTES, 1)) == 1


def test_rows_that_change_places_are_seen(make) -> None:
    """And so are zeros, bytes of another file, and the same bit of two words, but for the topmost bits."""
    path, other = make(2 * PAGE_BYTES), make(2 * PAGE_BYTES, 1)
    data, strange = np.fromfile(path, np.uint8), np.fromfile(other, np.uint8)
    sums, chance = hash_with_sums(path)[1], random.Random(0)
    for size in (8, 64, 512, 4096):
        rows = data.reshape(-1, size)
        for _ in range(20):
            one, two = chance.sample(range(PAGE_BYTES // size), 2)
            exchanged, zeros, replaced = rows.copy(), rows.copy(), rows.copy()
            exchanged[[one, two]] = exchanged[[two, one]]
            zeros[one], replaced[one] = 0, strange.reshape(-1, size)[one]
            flipped = data.view(np.uint64).copy()
            flipped[[one * size // 8, two * size // 8]] ^= np.uint64(1 << chance.randrange(40))
            for changed in (exchanged, zeros, replaced, flipped):
                path.write_bytes(changed.tobytes())
                assert not sums.hold(0, np.fromfile(path, np.uint8))
    assert sums.hold(0, data)


def test_a_file_of_another_size_or_without_sums_is_not_compared(make) -> None:
    path = make(5000)
    sums = hash_with_sums(path)[1]
    assert RowFile(path, sums).has_sums
    for file in (RowFile(path), RowFile(make(5001), sums)):
        assert not file.has_sums
        with pytest.raises(ValueError, match="checksum"):
            file.read_checked(0, 10)


def test_a_file_that_becomes_shorter_is_no_part_of_itself(make) -> None:
    path = make(3 * PAGE_BYTES)
    file = RowFile(path, hash_with_sums(path)[1])
    with path.open("r+b") as other:
        other.truncate(2 * PAGE_BYTES + 5)
    assert len(file.read_checked(0, 2 * PAGE_BYTES)) == 2 * PAGE_BYTES
    with pytest.raises(ValueError, match="it ends before"):
        file.read_checked(2 * PAGE_BYTES, 4)


def test_few_sums_are_kept(make, monkeypatch) -> None:
    monkeypatch.setattr(_pages, "KEPT_BYTES", 800)
    kept, sums = KeptSums(), PageSums(40 * PAGE_BYTES, np.zeros(40, np.uint64))
    paths = [make(1, seed) for seed in range(4)]
    for path in [*paths[:2], paths[0], paths[2]]:  # what is found again is the youngest
        kept.keep(path, sums)
    assert [kept.get(path) is not None for path in paths] == [True, False, True, False]
    kept.keep(paths[0], None)
    kept.keep(paths[3], sums)
    assert [kept.get(path) is not None for path in paths] == [False, False, True, True]


class TestShards:
    """Parts of shards are compared with the sums of their pages, and where these are not known, with checksums."""

    @pytest.fixture(params=["hdf5", "webdataset"])
    def written(self, request, tmp_path):
        values = np.random.default_rng(0).standard_normal((4000, SPEC.dim)).astype(SPEC.dtype)
        starts = np.arange(4000.0)
        feature = FeatureArray(values, np.stack([starts, starts + 1], axis=1))
        samples = [Sample(key=name, source_digest="0", fingerprint=name, feature=feature) for name in ("a", "b")]
        return FeatureStore(tmp_path).write_shard(SPEC.name, samples, spec=SPEC, format=request.param), values

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_a_part_is_what_was_written_whatever_is_kept(self, written, is_kept, monkeypatch) -> None:
        info, values = written
        if not is_kept:
            monkeypatch.setattr(_pages, "KEPT_BYTES", 0)
        store, asked = FeatureStore(info.path.parents[1]), list[tuple[int, ...]]()
        check = RowFile.read_checked
        monkeypatch.setattr(RowFile, "read_checked", lambda self, *place: asked.append(place) or check(self, *place))
        for first, last in [(0, 10), (3990, 4000), (1000, 3000)]:
            np.testing.assert_array_equal(store.read_span("b", first, last).values, values[first:last])
        assert bool(asked) == is_kept

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_damage_while_a_shard_is_open_is_found_and_other_pages_are_read(
        self, written, is_kept, monkeypatch
    ) -> None:
        info, values = written
        if not is_kept:
            monkeypatch.setattr(_pages, "KEPT_BYTES", 0)
        store = FeatureStore(info.path.parents[1])
        for first in range(0, 4000, 500):
            store.read_span("b", first, first + 500)  # the shard is open, and all of it was right
        data = bytearray(info.path.read_bytes())
        first_row = data.index(values[:100].tobytes(), data.index(values[:100].tobytes()) + 1)  # of "b"
        damaged = bytearray(data)
        damaged[first_row + 1] ^= 4
        with info.path.open("r+b") as file:
            file.write(damaged)
        np.testing.assert_array_equal(store.read_span("a", 0, 100).values, values[:100])
        np.testing.assert_array_equal(store.read_span("b", 3000, 4000).values, values[3000:])
        with pytest.raises(IntegrityError, match=f"{info.path.stem}.*checksum"):
            store.read_span("b", 0, 1)
        with info.path.open("r+b") as file:  # it was the memory that lied, and not the disk
            file.write(data)
        np.testing.assert_array_equal(store.read_span("b", 0, 100).values, values[:100])
