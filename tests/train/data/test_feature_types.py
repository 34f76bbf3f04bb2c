"""Every type that the store keeps values in reaches a training as it is stored: one clip, a list of clips, a batch."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality, ValueType
from frameloom.store import FeatureStore, Sample
from frameloom.train.data import ClipFeatures, FeatureDataset

DIM, NUM_ROWS = 3, (4, 1, 7)


def values_of(dtype: str) -> list[np.ndarray]:
    """Three clips' values; whole numbers are any of their type."""
    chance = np.random.default_rng(5)
    raw = [chance.bytes(rows * DIM * np.dtype(dtype).itemsize) for rows in NUM_ROWS]
    found = [np.frombuffer(data, dtype).reshape(-1, DIM) for data in raw]
    return [np.nan_to_num(values, posinf=1, neginf=1) for values in found]


@pytest.mark.parametrize("shard_format", ["hdf5", "webdataset"])
@pytest.mark.parametrize("dtype", get_args(ValueType))
def test_values_are_given_in_the_type_that_they_are_stored_in(tmp_path, dtype, shard_format):
    spec = FeatureSpec(
        name="any", modality=Modality.VIDEO, dim=DIM, rate_hz=1.0, sampling={}, preprocessing={}, dtype=dtype
    )
    wanted = values_of(dtype)
    samples = []
    for number, values in enumerate(wanted):
        starts = np.arange(len(values), dtype=float)
        feature = FeatureArray(values, np.stack([starts, starts + 1], axis=1))
        samples.append(Sample(key=f"{number}", source_digest="s", fingerprint=f"f{number}", feature=feature))
    FeatureStore(tmp_path).write_shard("any", samples, spec=spec, format=shard_format)
    clips = [ClipFeatures(clip=sample.key, features={"any": (sample.fingerprint,)}) for sample in samples]
    dataset = FeatureDataset(tmp_path, clips, features=["any"])
    for _ in range(2):
        for number, values in enumerate(wanted):
            assert dataset[number]["any"].dtype == np.dtype(dtype)
            np.testing.assert_array_equal(dataset[number]["any"], values)
    tokens = dataset.read([2, 0, 1]).tokens()["any"]
    for place, number in enumerate((2, 0, 1)):
        rows = tokens.values[place].numpy()
        assert rows.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(rows[: NUM_ROWS[number]], wanted[number])
        assert not rows[NUM_ROWS[number] :].any()
