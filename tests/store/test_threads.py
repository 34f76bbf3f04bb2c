"""One store, read by many threads, and by a child that was forked from a parent that reads."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality
from frameloom.store import FeatureStore, Sample
from frameloom.store.formats import rows as _rows
from frameloom.train.data import ClipFeatures, FeatureDataset

NUM_SHARDS, IN_SHARD, WIDTH = 12, 8, 1024
SPEC = FeatureSpec(name="x", modality=Modality.VIDEO, dim=WIDTH, rate_hz=1.0, sampling={}, preprocessing={})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    store, chance = FeatureStore(tmp_path_factory.mktemp("store")), np.random.default_rng(0)
    starts = np.arange(12.0)
    times = np.stack([starts, starts + 1], axis=1)
    for shard in range(NUM_SHARDS):
        names = [f"{shard}-{number}" for number in range(IN_SHARD)]
        rows = chance.standard_normal((IN_SHARD, 12, WIDTH)).astype(np.float16)
        samples = [
            Sample(key=name, source_digest="0", fingerprint=name, feature=FeatureArray(values, times))
            for name, values in zip(names, rows, strict=True)
        ]
        store.write_shard("x", samples, spec=SPEC)
    return store.root


def test_threads_read_what_was_written_while_others_open_and_close_shards(root, monkeypatch) -> None:
    monkeypatch.setattr(_rows, "MAX_OPEN_FILES", 3)
    store, ending, faults = FeatureStore(root), threading.Event(), list[BaseException]()
    expected = {entry.fingerprint: FeatureStore(root).read(entry.fingerprint).values for entry in store.entries()}

    def read(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not ending.is_set():
                name = chance.choice(list(expected))
                np.testing.assert_array_equal(store.read(name).values, expected[name])
                np.testing.assert_array_equal(store.read_span(name, 2, 5).values, expected[name][2:5])
        except BaseException as error:  # noqa: BLE001 - a thread's own would go unseen
            faults.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        store.close()
        time.sleep(0.001)
    ending.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(store._files._open) <= 3


def test_a_forked_child_reads_batches_as_large_as_its_parent_has_read(root) -> None:
    """Threads of a library that the parent has used are not there in the child, and must not be waited for."""
    store = FeatureStore(root)
    clips = [ClipFeatures(clip=one.key, features={"x": (one.fingerprint,)}) for one in store.entries()]
    dataset = FeatureDataset(store, clips, features=["x"])
    for _ in range(2):
        dataset.read(range(len(clips))).tokens()
    child = multiprocessing.get_context("fork").Process(target=dataset.read, args=(range(len(clips)),))
    child.start()
    child.join(600)
    is_waiting = child.is_alive()
    child.kill()
    assert not is_waiting
    assert child.exitcode == 0
