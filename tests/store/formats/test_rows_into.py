"""`FeatureStore.read_rows_into`: rows of shards of several blocks and members, into memory that is there."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from frameloom import IntegrityError
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality
from frameloom.store import FeatureStore, Sample
from hypothesis import example, given, settings
from hypothesis import strategies as st

LENGTHS, WIDTH = (20, 0, 1, 40, 70, 32, 5), 4096  # of which a block holds 8 rows


@pytest.fixture(scope="module", params=["hdf5", "webdataset"])
def shard(request, tmp_path_factory) -> tuple[FeatureStore, Path, np.ndarray]:
    """A store, its shard, and all rows of the shard end to end."""
    store, chance = FeatureStore(tmp_path_factory.mktemp(request.param)), np.random.default_rng(0)
    spec = FeatureSpec(name="x", modality=Modality.VIDEO, dim=WIDTH, rate_hz=1.0, sampling={}, preprocessing={})
    samples = []
    for number, length in enumerate(LENGTHS):
        values = chance.standard_normal((length, WIDTH)).astype(np.float16)
        feature = FeatureArray(values, chance.random((length, 1)) + np.arange(2.0))
        samples.append(Sample(key=f"v{number}", source_digest="0", fingerprint=f"f{number}", feature=feature))
    path = store.write_shard("x", samples, spec=spec, format=request.param).path
    times = np.concatenate([sample.feature.times for sample in samples])
    return FeatureStore(store.root), path, np.concatenate([sample.feature.values for sample in samples]), times


def read(shard, spans: list[tuple[int, int]]) -> list[np.ndarray]:
    store, path, *_ = shard
    rows = [np.full((last - first, WIDTH), 7, np.float16) for first, last in spans]
    store.read_rows_into(path, spans, [each.reshape(-1).view(np.uint8).data for each in rows])
    return rows


@settings(max_examples=50, deadline=None)
@example(cuts=[0, 20, 21, 61, 131, 163, 168], picks=[0, 1, 2, 3, 4, 5])  # one after the other
@example(cuts=list(range(0, 169)), picks=list(range(168)))
@example(cuts=[0, 20, 20, 21, 21, 168, 168], picks=[1, 3, 5, 0])  # spans of no rows, at the end as well
@given(
    cuts=st.lists(st.integers(0, 168), min_size=2, max_size=9).map(sorted),
    picks=st.lists(st.integers(0, 7), min_size=1, max_size=8),
)
def test_rows_are_those_that_were_written(shard, cuts, picks) -> None:
    store, path, values, times = shard
    pairs = list(pairwise(cuts))
    spans = [pairs[pick % len(pairs)] for pick in picks]
    for (first, last), rows in zip(spans, read(shard, spans), strict=True):
        np.testing.assert_array_equal(rows, values[first:last])
        np.testing.assert_array_equal(store.read_rows(path, first, last), values[first:last])
        np.testing.assert_array_equal(store.read_times(path, first, last), times[first:last])


@pytest.mark.parametrize(("spans", "calls"), [([(20, 21), (21, 40), (40, 61)], 1), ([(20, 21), (30, 31), (44, 61)], 3)])
def test_rows_that_follow_each_other_are_read_by_one_call(tmp_path, monkeypatch, spans, calls) -> None:
    spec = FeatureSpec(name="x", modality=Modality.VIDEO, dim=64, rate_hz=1.0, sampling={}, preprocessing={})
    values = np.arange(100 * 64, dtype=np.float16).reshape(100, 64)
    samples = [
        Sample(
            key=f"v{number}",
            source_digest="0",
            fingerprint=f"f{number}",
            feature=FeatureArray(values[number : number + 1], np.array([[0.0, 1.0]])),
        )
        for number in range(100)
    ]
    path = FeatureStore(tmp_path).write_shard("x", samples, spec=spec).path
    store, take, asked = FeatureStore(tmp_path), os.preadv, []
    store.read_rows(path, 0, 1)  # opened, and its sidecar read

    def counted(descriptor, buffers, offset, *flags):
        if not flags:  # with flags the system is asked what it has in memory
            asked.append(offset)
        return take(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", counted)
    rows = [np.empty((last - first, 64), np.float16) for first, last in spans]
    store.read_rows_into(path, spans, [each.reshape(-1).view(np.uint8).data for each in rows])
    for (first, last), found in zip(spans, rows, strict=True):
        np.testing.assert_array_equal(found, values[first:last])
    assert len(asked) == calls


def test_a_system_that_gives_less_than_was_asked_for_is_asked_again(shard, monkeypatch) -> None:
    take = os.preadv

    def short(descriptor: int, buffers: list, offset: int, *flags: int) -> int:
        return take(descriptor, [memoryview(buffers[0]).cast("B")[:5000]], offset, *flags)

    read(shard, [(0, 1)])  # the shard is open
    monkeypatch.setattr(os, "preadv", short)
    spans = [(0, 20), (20, 61), (61, 90), (160, 168)]
    for (first, last), rows in zip(spans, read(shard, spans), strict=True):
        np.testing.assert_array_equal(rows, shard[2][first:last])


def test_rows_that_are_not_there_are_refused(shard) -> None:
    store, path, *_ = shard
    for span in [(160, 169), (-1, 3)]:
        with pytest.raises(IntegrityError, match="of 168 were asked for"):
            read(shard, [span])
    for first, last in [(5, 4), (0, 10**12), (10**15, 10**15 + 1), (-1, 1)]:
        with pytest.raises(IntegrityError, match="of 168 were asked for"):
            store.read_rows(path, first, last)
        with pytest.raises(IntegrityError, match="of 168 were asked for"):
            store.read_times(path, first, last)
    with pytest.raises(IntegrityError, match="into 8193 bytes"):
        store.read_rows_into(path, [(0, 1)], [memoryview(bytearray(8193))])
    with pytest.raises(IntegrityError, match="gone"):
        store.read_rows_into(path.with_stem("none"), [(0, 1)], [memoryview(bytearray(8192))])
