"""A project of a model of pixels is killed in the middle of an epoch: the next sync goes on with the same curve."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from frameloom.train import read_checkpoint, read_losses
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.plots_data import training_losses
from frameloom.workflows.laboratory import World, make_collection
from frameloom.workflows.project import Project
from frameloom.workflows.sync import extract_only
from helpers.projects import run_sync, write_pixel_config

CLIPS = World(num_train=24, num_val=0, num_test=2, seconds=0.5, size=32, temporal=True, named_heard=0)
STEPS_PER_EPOCH = 12
LONG: dict[str, Any] = {
    "frames": {"size": 32, "num_frames": 2, "flip": 0.0},
    "max_words": 12,
    "epochs": 2,
    "min_steps": 0,
    "batch_size": 2,
    "checkpoint_steps": 2,
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The laboratory's files, and their frames in a store, of which nothing was trained."""
    folder = tmp_path_factory.mktemp("pixels") / "project"
    make_collection(folder, CLIPS)
    write_pixel_config(folder, "test_miles", training={"overrides": LONG})
    assert extract_only(Project.open(folder), Console(quiet=True)).exit_code == 0
    return folder


def num_steps(folder: Path) -> int:
    """Steps whose loss is kept of the training that is under way or done."""
    for state in folder.glob(".frameloom/models/*/*"):
        with suppress(Exception):
            return max((one.step for one in read_losses(state)), default=0)
    return 0


def killed_in_mid_epoch(folder: Path) -> None:
    command = [sys.executable, "-m", "frameloom.workflows.cli", "sync", "-q"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)
    while process.poll() is None and num_steps(folder) < 3:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["test_miles", "test_all_in_one", "test_clover", "test_t2v2t"])
def test_a_killed_training_goes_on_with_the_same_curve(extracted: Path, tmp_path: Path, model: str) -> None:
    whole, killed = (Path(shutil.copytree(extracted, tmp_path / name)) for name in ("whole", "killed"))
    for folder in (whole, killed):
        write_pixel_config(folder, model, training={"overrides": LONG})
    killed_in_mid_epoch(killed)
    assert num_steps(killed) % STEPS_PER_EPOCH > 0
    assert list(killed.glob(".frameloom/models/**/state.json")), "nothing was saved that it could go on from"
    found = []
    for folder in (whole, killed):
        assert run_sync(folder).exit_code == 0
        checkpoint = Project.open(folder).resolve().checkpoint
        assert checkpoint is not None
        losses = training_losses(checkpoint.folder)
        run = read_checkpoint(checkpoint.folder).provenance["training"]
        found.append((checkpoint.digest, losses.steps, losses.epoch_means, run["epoch_losses"], run["step"]))
    assert found[0] == found[1]
    assert found[0][-1] == 2 * STEPS_PER_EPOCH
