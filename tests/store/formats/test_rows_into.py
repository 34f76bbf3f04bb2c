"""`FeatureStore.read_rows_into`: rows of shards that have several chunks or members, into memory that is there."""

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

LENGTHS, WIDTH = (20, 1, 40, 70, 32, 5), 4096  # of which a chunk holds 32 rows


@pytest.fixture(scope="module", params=["hdf5", "webdataset"])
def shard(request, tmp_path_factory) -> tuple[FeatureStore, Path, np.ndarray]:
    """A store, its shard, and all rows of the shard end to end."""
    store, chance = FeatureStore(tmp_path_factory.mktemp(request.param)), np.random.default_rng(0)
    spec = FeatureSpec(name="x", modality=Modality.VIDEO, dim=WIDTH, rate_hz=1.0, sampling={}, preprocessing={})
    samples = []
    for number, length in enumerate(LENGTHS):
        values = chance.standard_normal((length, WIDTH)).astype(np.float16)
        feature = FeatureArray(values, np.zeros((length, 2)))
        samples.append(Sample(key=f"v{number}", source_digest="0", fingerprint=f"f{number}", feature=feature))
    path = store.write_shard("x", samples, spec=spec, format=request.param).path
    return store, path, np.concatenate([sample.feature.values for sample in samples])


def read(shard, spans: list[tuple[int, int]], *, verify: bool) -> list[np.ndarray]:
    store, path, _ = shard
    rows = [np.full((last - first, WIDTH), 7, np.float16) for first, last in spans]
    store.read_rows_into(path, spans, [each.reshape(-1).view(np.uint8).data for each in rows], verify=verify)
    return rows


@settings(max_examples=25, deadline=None)
@example(cuts=[0, 20, 21, 61, 131, 163, 168], picks=[0, 1, 2, 3, 4, 5], verify=False)  # one after the other
@example(cuts=list(range(0, 169)), picks=list(range(168)), verify=False)
@given(
    cuts=st.lists(st.integers(0, 168), min_size=2, max_size=9).map(sorted),
    picks=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    verify=st.booleans(),
)
def test_rows_are_those_that_were_written(shard, cuts, picks, verify) -> None:
    pairs = list(pairwise(cuts))
    spans = [pairs[pick % len(pairs)] for pick in picks]
    for (first, last), rows in zip(spans, read(shard, spans, verify=verify), strict=True):
        np.testing.assert_array_equal(rows, shard[2][first:last])


def test_a_system_that_gives_less_than_was_asked_for_is_asked_again(shard, monkeypatch) -> None:
    take = os.preadv

    def short(descriptor: int, buffers: list, offset: int) -> int:
        return take(descriptor, [memoryview(buffers[0]).cast("B")[:5000]], offset)

    read(shard, [(0, 1)], verify=True)  # the shard is open
    monkeypatch.setattr(os, "preadv", short)
    spans = [(0, 20), (20, 61), (61, 90), (160, 168)]
    for (first, last), rows in zip(spans, read(shard, spans, verify=False), strict=True):
        np.testing.assert_array_equal(rows, shard[2][first:last])


@pytest.mark.parametrize("verify", [False, True])
def test_rows_that_are_not_there_are_refused(shard, verify) -> None:
    for span in [(160, 169), (-1, 3)]:
        with pytest.raises(IntegrityError, match="of 168 were asked for"):
            read(shard, [span], verify=verify)
    store, path, _ = shard
    with pytest.raises(IntegrityError, match="into 8193 bytes"):
        store.read_rows_into(path, [(0, 1)], [memoryview(bytearray(8193))], verify=verify)
    with pytest.raises(IntegrityError, match="gone"):
        store.read_rows_into(path.with_stem("none"), [(0, 1)], [memoryview(bytearray(8192))], verify=verify)
