"""The loss curve: every step, while training lasts and afterwards, and nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from frameloom import ConfigError, IntegrityError, OutOfSpaceError
from frameloom import _files as _commit
from frameloom._files import FAIL_POINT_VARIABLE
from frameloom.fuse import create_model
from frameloom.train import StepLoss, fit, get_recipe, read_losses, save_checkpoint
from frameloom.train.data import ClipDataset
from frameloom.train.loop.losses import GROWING, LossCurve


def train(folder, samples, **options):
    torch.manual_seed(1)
    recipe = get_recipe("everything_at_once_tiny", epochs=2, min_steps=0, batch_size=8, warmup_steps=3)
    dataset = ClipDataset(samples, training=True)
    return fit(create_model("test_everything_at_once"), dataset, recipe=recipe, folder=folder, **options)


def steps(*numbers: int) -> list[StepLoss]:
    return [StepLoss(step=n, epoch=1, loss=1 / n, terms={"text|video": 0.1 * n}, learning_rate=1e-3) for n in numbers]


def write(folder, curve_steps, **options) -> tuple[int, str]:
    curve = LossCurve(folder, **options)
    for step in curve_steps:
        curve.add(step)
    sha256 = curve.sync()
    curve.close()
    return curve.num_bytes, sha256


def test_it_is_what_the_caller_was_told_of_each_step(make_samples, tmp_path) -> None:
    told, under_way = [], []

    def on_progress(p) -> None:
        told.append(
            StepLoss(step=p.step, epoch=p.epoch, loss=p.loss, terms=dict(p.terms), learning_rate=p.learning_rate)
        )
        under_way.append(read_losses(tmp_path))

    result = train(tmp_path, make_samples(20), on_progress=on_progress)
    assert read_losses(tmp_path) == tuple(told)
    assert under_way == [tuple(told[: n + 1]) for n in range(4)]
    assert sum(step.loss for step in told[2:]) / 2 == result.loss
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["losses", "model", "model.json"]


def test_a_training_anew_replaces_it(make_samples, tmp_path) -> None:
    train(tmp_path, make_samples(20))
    first = read_losses(tmp_path)
    train(tmp_path, make_samples(20, seed=3), resume=False)
    assert read_losses(tmp_path) != first
    assert len(list(tmp_path.glob("losses-*"))) == 1


def test_what_was_written_after_the_saved_state_is_cut_off(tmp_path) -> None:
    num_bytes, sha256 = write(tmp_path, steps(1, 2, 3))
    write(tmp_path, steps(4, 5), num_bytes=num_bytes, sha256=sha256)
    with (tmp_path / GROWING).open("ab") as file:
        file.write(b'{"step": 6, "ep')
    assert [step.step for step in read_losses(tmp_path)] == [1, 2, 3, 4, 5]
    write(tmp_path, steps(4), num_bytes=num_bytes, sha256=sha256)
    assert read_losses(tmp_path) == tuple(steps(1, 2, 3, 4))


def test_a_number_comes_back_to_the_bit(tmp_path) -> None:
    loss = torch.tensor(1 / 3).item()
    write(tmp_path, [StepLoss(step=1, epoch=1, loss=loss, terms={"x": 5e-324}, learning_rate=0.1 + 0.2)])
    (found,) = read_losses(tmp_path)
    assert (found.loss, found.terms["x"], found.learning_rate) == (loss, 5e-324, 0.1 + 0.2)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data.replace(b"1", b"2", 1)])
def test_a_damaged_curve_is_found_when_training_goes_on(tmp_path, damage) -> None:
    num_bytes, sha256 = write(tmp_path, steps(1, 2, 3))
    path = tmp_path / GROWING
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="resume=False"):
        LossCurve(tmp_path, num_bytes=num_bytes, sha256=sha256)


def test_a_damaged_curve_of_a_checkpoint_is_never_returned(make_samples, tmp_path) -> None:
    train(tmp_path, make_samples(20))
    (path,) = tmp_path.glob("losses-*")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(IntegrityError, match="SHA-256"):
        read_losses(tmp_path)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        read_losses(tmp_path)


def test_lines_that_are_no_steps_are_found(tmp_path) -> None:
    write(tmp_path, steps(1))
    with (tmp_path / GROWING).open("a") as file:
        file.write(json.dumps({"step": 2}) + "\n")
    with pytest.raises(IntegrityError, match="damaged"):
        read_losses(tmp_path)


def test_a_folder_without_one_is_explained(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no training in"):
        read_losses(tmp_path)
    save_checkpoint(create_model("test_everything_at_once"), tmp_path)
    with pytest.raises(ConfigError, match="keeps no loss curve"):
        read_losses(tmp_path)


def test_a_full_disk_is_a_pause(make_samples, tmp_path, monkeypatch) -> None:
    samples = make_samples(20)
    _commit._passes.clear()
    monkeypatch.setenv(FAIL_POINT_VARIABLE, "losses.step:full:4")
    with pytest.raises(OutOfSpaceError, match="free some space"):
        train(tmp_path / "full", samples)
    monkeypatch.delenv(FAIL_POINT_VARIABLE)
    assert train(tmp_path / "full", samples).resumed_at == 2
    train(tmp_path / "whole", samples)
    assert read_losses(tmp_path / "full") == read_losses(tmp_path / "whole")
