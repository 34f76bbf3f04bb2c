"""Bad data: the sample and the feature are named, and the weights are as they were before the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.fuse import create_model
from frameloom.train import fit, get_recipe, read_losses
from frameloom.train.data import ClipDataset


class Named(list):
    """Samples with names, as those of a store have."""

    def key(self, index: int) -> str:
        return f"kitchen.mp4#{index}"


def train(samples, folder, **options):
    torch.manual_seed(1)
    model = create_model("test_everything_at_once")
    recipe = get_recipe("everything_at_once_tiny", epochs=2, min_steps=0, batch_size=8, checkpoint_steps=1)
    fit(model, ClipDataset(samples, training=True), recipe=recipe, folder=folder, **options)
    return model


def spoiled(rows: np.ndarray, value: float) -> np.ndarray:
    rows = rows.astype(np.float32)
    rows[-1, 3] = value
    return rows


FAULTS = {
    "a number that is none": ("audio", lambda rows: spoiled(rows, np.nan), "audio holds numbers that are not finite"),
    "infinite video": ("video", lambda rows: spoiled(rows, np.inf), "video holds numbers that are not finite"),
    "infinite words": ("text", lambda rows: spoiled(rows, -np.inf), "text holds numbers that are not finite"),
    "narrow video": ("video", lambda rows: rows[:, :-1], r"video has shape \(1, \d+, 23\).*24"),
    "wide words": ("text", lambda rows: np.pad(rows, ((0, 0), (0, 2))), r"text has shape \(1, \d+, 14\).*12"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_the_sample_and_the_feature_are_named(make_samples, tmp_path, fault, num_workers) -> None:
    modality, spoil, message = FAULTS[fault]
    samples = Named(make_samples(16))
    rows = samples[11][modality]
    samples[11][modality] = [spoil(each) for each in rows] if modality == "text" else spoil(rows)
    with pytest.raises(InputError, match=rf"sample 11 \(kitchen\.mp4#11\): {message}.*No step was taken") as caught:
        train(samples, tmp_path, num_workers=num_workers)
    assert "\n" not in str(caught.value)


def test_no_weight_and_no_statistic_was_touched(make_samples, tmp_path) -> None:
    samples = Named(make_samples(16))
    whole = [{**sample} for sample in samples]
    before = {}

    def spoil(progress) -> None:
        if progress.step == 3:
            for sample in samples:
                sample["audio"] = spoiled(sample["audio"], np.nan)

    class Watched(ClipDataset):
        def __getitem__(self, index):
            before.update({name: value.clone() for name, value in model.state_dict().items()})
            return super().__getitem__(index)

        __getitems__ = None

    torch.manual_seed(1)
    model = create_model("test_everything_at_once")
    recipe = get_recipe("everything_at_once_tiny", epochs=2, min_steps=0, batch_size=8, checkpoint_steps=1)
    with pytest.raises(InputError, match=r"sample \d+ .* and 3 more: audio holds"):
        fit(model, Watched(samples, training=True), recipe=recipe, folder=tmp_path / "a", on_progress=spoil)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    # Repaired, the training goes on as if nothing had been.
    samples[:] = whole
    resumed = train(samples, tmp_path / "a")
    clean = train(samples, tmp_path / "b")
    assert all(torch.equal(value, clean.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert read_losses(tmp_path / "a") == read_losses(tmp_path / "b")


def test_an_empty_text_is_named_and_no_text_is_not_an_error(make_samples, tmp_path) -> None:
    samples = Named(make_samples(16, num_captions=1))
    samples[5]["text"] = [np.zeros((0, 12), np.float16)]
    with pytest.raises(InputError, match=rf"sample 5 \({samples.key(5)}\): text .* is empty: give .* known word"):
        train(samples, tmp_path / "empty")
    samples[5]["text"] = []
    assert train(samples, tmp_path / "none") is not None
