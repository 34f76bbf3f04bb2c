"""One meaning of a device's name, wherever it is given: the configuration, extraction, training, embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from frameloom import ConfigError
from frameloom._weights import check_device
from frameloom.fuse import create_model
from frameloom.train import fit, get_recipe
from frameloom.train.data import ClipDataset
from frameloom.train.loop import trainer
from frameloom.workflows.project import Project
from helpers.projects import write_config


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "allowed", "refused"),
    [
        (0, ["cpu"], {"cuda": "no GPU that torch can use", "cuda:0": "no GPU"}),
        (1, ["cpu", "cuda", "cuda:0"], {"cuda:1": "one GPU, cuda:0"}),
        (
            2,
            ["cpu", "cuda", "cuda:1"],
            {"cuda:2": "GPUs 0 to 1", "mps": "allowed are cpu, cuda and cuda:N", "cuda:": "allowed"},
        ),
    ],
)
def test_a_name_means_a_device_that_is_there(monkeypatch, tmp_path: Path, count, allowed, refused) -> None:
    with_gpus(monkeypatch, count)
    for name in allowed:
        assert check_device(name) == name
        write_config(tmp_path, run={"device": name})
        Project.open(tmp_path, read_only=True)
    for name, message in refused.items():
        with pytest.raises(ConfigError, match=f"device '?{name}.*{message}"):
            check_device(name)
        write_config(tmp_path, run={"device": name})
        with pytest.raises(ConfigError, match=f"run.device '?{name}.*{message}"):
            Project.open(tmp_path, read_only=True)


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_training_computes_on_the_gpu_with_the_number(monkeypatch, tmp_path: Path, device: str, chosen: list) -> None:
    """Up to where torch is asked to use it: accelerate then takes the current GPU."""
    with_gpus(monkeypatch, 2)
    entered = []

    class Chosen:
        def __init__(self, number: int) -> None:
            entered.append(number)

        def __enter__(self) -> None: ...

        def __exit__(self, *_error: object) -> None: ...

    def accelerator(*, cpu: bool, **_options: object) -> None:
        assert cpu is (device == "cpu")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(trainer, "Accelerator", accelerator)
    with pytest.raises(KeyboardInterrupt):
        fit(
            create_model("test_everything_at_once"),
            ClipDataset([{"text": []}] * 4),
            recipe=get_recipe("everything_at_once_tiny"),
            folder=tmp_path,
            device=device,
        )
    assert entered == chosen
