from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
from frameloom._vocabulary import IntegrityError
from frameloom.store import FeatureStore
from frameloom.store.formats import FORMATS
from helpers.shard_store_contract import ShardStoreContract
from helpers.stores import BATCHES, SPEC, make_sample, make_spec

WIDE = make_spec(dim=256)
LONG = make_sample("long.mp4", 400, spec=WIDE)  # 200 KB: four blocks


class TestLocalStore(ShardStoreContract):
    def make_store(self, root):
        return FeatureStore(root)

    def test_reading_makes_no_folder(self, tmp_path):
        assert len(self.make_store(tmp_path / "nowhere")) == 0
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=sorted(FORMATS))
def long_store(request, tmp_path):
    store = FeatureStore(tmp_path)
    samples = [make_sample("before.mp4", 3, spec=WIDE), LONG, make_sample("after.mp4", 2, spec=WIDE)]
    store.write_shard("long", samples, spec=WIDE, format=request.param)
    return store


def flip(store: FeatureStore, row: int) -> None:
    """Change one bit of one row of the long sample in place, as a disk does it."""
    (shard,) = store.shards()
    place = shard.path.read_bytes().index(LONG.feature.values[row].tobytes())
    with shard.path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


def test_a_bit_that_flips_between_two_readings_is_found(long_store):
    long_store.read(LONG.fingerprint)
    long_store.read(LONG.fingerprint)
    flip(long_store, 200)
    with pytest.raises(IntegrityError, match=r"long\.mp4"):
        long_store.read(LONG.fingerprint)


def test_a_bit_that_flips_between_two_spans_is_found_and_other_spans_are_whole(long_store):
    np.testing.assert_array_equal(long_store.read_span(LONG.fingerprint, 190, 210).values, LONG.feature.values[190:210])
    flip(long_store, 200)
    with pytest.raises(IntegrityError, match="checksum"):
        long_store.read_span(LONG.fingerprint, 190, 210)
    np.testing.assert_array_equal(long_store.read_span(LONG.fingerprint, 5, 20).values, LONG.feature.values[5:20])


def test_a_bit_that_flips_before_the_first_span_is_found(long_store):
    long_store.read_span(LONG.fingerprint, 0, 1)
    long_store.close()
    flip(long_store, 399)
    for find in (lambda: long_store.read_span(LONG.fingerprint, 390, 400), lambda: long_store.read(LONG.fingerprint)):
        with pytest.raises(IntegrityError):
            find()


def test_a_shard_that_is_cut_while_it_is_open_is_an_error(long_store):
    long_store.read(LONG.fingerprint)
    (shard,) = long_store.shards()
    with shard.path.open("r+b") as file:
        file.truncate(shard.num_bytes // 2)
    for find in (lambda: long_store.read(LONG.fingerprint), lambda: long_store.read_span(LONG.fingerprint, 300, 390)):
        with pytest.raises(IntegrityError, match="it ends before"):
            find()


def test_what_was_returned_is_the_callers_own(long_store):
    found = long_store.read(LONG.fingerprint)
    found.values[:], found.times[:] = 0, 0
    np.testing.assert_array_equal(long_store.read(LONG.fingerprint).times, LONG.feature.times)
    np.testing.assert_array_equal(long_store.read(LONG.fingerprint).values, LONG.feature.values)


def read_in_child(store, answers):
    answers.put((store.read(LONG.fingerprint).values.tobytes(), store.read_span(LONG.fingerprint, 7, 9).values.shape))


def test_a_child_goes_on_with_what_its_parent_opened(long_store):
    long_store.read(LONG.fingerprint)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with long_store._files._opening:  # another thread of the parent opens a shard at this moment
        child = context.Process(target=read_in_child, args=(long_store, answers))
        child.start()
    assert answers.get(timeout=600) == (LONG.feature.values.tobytes(), (2, WIDE.dim))
    child.join()
    np.testing.assert_array_equal(long_store.read(LONG.fingerprint).values, LONG.feature.values)


def test_closing_while_others_read_harms_nobody(long_store):
    failures, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                np.testing.assert_array_equal(long_store.read(LONG.fingerprint).values, LONG.feature.values)
            except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
                failures.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        long_store.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_two_formats_hold_the_same_numbers(tmp_path):
    for name in FORMATS:
        FeatureStore(tmp_path / name).write_shard(SPEC.name, BATCHES[0], spec=SPEC, format=name)
    stores = [FeatureStore(tmp_path / name) for name in FORMATS]
    for first, second in zip(*(store.entries() for store in stores), strict=True):
        assert (first.checksum, first.first_row, first.num_rows) == (second.checksum, second.first_row, second.num_rows)
