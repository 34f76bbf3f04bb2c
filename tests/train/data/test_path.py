"""How a sample gets from its shard into a batch: the calls between the loader and the disk, as they are made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import frameloom
import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality
from frameloom.store import FeatureStore, Sample
from frameloom.train.data import ClipDataset, ClipFeatures, EpochOrder, FeatureLoader, ShardBatchSampler, stored_clips

PACKAGE = str(Path(frameloom.__file__).parent)
MOST_CALLS = 8


def loader_of(folder: Path, shard_format: str) -> FeatureLoader:
    store = FeatureStore(folder)
    spec = FeatureSpec(name="video", modality=Modality.VIDEO, dim=64, rate_hz=1.0, sampling={}, preprocessing={})
    times = np.arange(8)[:, None] + [0.0, 1.0]
    samples = [
        Sample(key=str(n), source_digest="0", fingerprint=f"v{n}", feature=FeatureArray(np.ones((8, 64), "f2"), times))
        for n in range(6)
    ]
    store.write_shard("video", samples, spec=spec, format=shard_format)
    clips = [ClipFeatures(clip=str(n), features={"video": (f"v{n}",)}) for n in range(6)]
    dataset = ClipDataset(stored_clips(store, clips, memory_bytes=0))
    return FeatureLoader(dataset, ShardBatchSampler(EpochOrder(groups=dataset.shard_groups()), batch_size=3))


@pytest.mark.parametrize("shard_format", ["hdf5", "webdataset"])
def test_few_calls_lie_between_the_loader_and_the_disk(tmp_path: Path, shard_format: str) -> None:
    batches = iter(loader_of(tmp_path, shard_format))
    next(batches)  # files are open
    found: list[list[str]] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call" or argument is not os.preadv:
            return
        calls = ["os.preadv"]
        above: FrameType | None = frame
        while above is not None and above.f_code.co_name != "fetch":  # of torch's DataLoader
            if above.f_code.co_filename.startswith(PACKAGE):
                calls.append(above.f_code.co_qualname)
            above = above.f_back
        if "ShardFile.fetch_ahead" not in calls:  # which looks whether it is worth while
            found.append(calls[::-1])

    sys.setprofile(watch)
    try:
        next(batches)
    finally:
        sys.setprofile(None)
    assert found
    for calls in found:
        assert calls[:2] == ["ClipDataset.__getitems__", "FeatureDataset.read"]
        assert "FeatureStore.read_rows_into" in calls
        assert len(calls) <= MOST_CALLS, " > ".join(calls)
