"""Two processes, each with a share of a batch, compute what one computes with the whole batch."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import helpers.children
import pytest
import torch
from frameloom.fuse.objectives import gathered
from frameloom.train import load_checkpoint, read_losses

SCRIPT = Path(helpers.children.__file__).with_name("two_processes.py")
RECIPE = {"min_steps": 0, "epochs": 1, "batch_size": 8, "checkpoint_steps": 2, "warmup_steps": 0, "seed": 5}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def script() -> ModuleType:
    from helpers.children import two_processes

    return two_processes


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gappy(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Clips of which processes have different numbers with each modality, and some batches no sound at all."""
    for i, sample in enumerate(samples):
        if i % 8:
            sample["audio"] = None
        if i % 5 == 1:
            sample["video"] = None
        if i % 7 == 2:
            sample["text"] = []
    return samples


def jobs_of(make_samples) -> dict[str, dict[str, Any]]:
    whole = {"samples": make_samples(40), "recipe": RECIPE}
    return {
        "whole": whole,
        "gappy": {"samples": gappy(make_samples(40)), "recipe": RECIPE},
        # The authors' way with padding lets it run through batch normalisation, so that its length counts. The margin's
        # gradients are small, and clipped in some steps only: clipping and Adam would hide a wrong scale otherwise.
        "published": {**whole, "model": {"audio_padding": "published", "contrast": "margin_softmax"}},
        # Its clusters depend on the order of a batch; and two trainings of one process may differ in precision.
        "clusters": {**whole, "name": "test_mcn"},
        "bf16": {**whole, "recipe": RECIPE | {"precision": "bf16"}},
        "recomputed": {**whole, "recipe": RECIPE | {"gradient_checkpointing": True}},
        "not synchronised": {**whole, "recipe": RECIPE | {"sync_batch_norm": False}},
        "killed": {**whole, "kill_at": 4},
    }


def run(folder: Path, jobs: dict[str, dict[str, Any]], *command: str) -> subprocess.CompletedProcess:
    (folder / "jobs.pkl").write_bytes(pickle.dumps(jobs))
    return subprocess.run(
        [sys.executable, *command, str(SCRIPT), str(folder), str(folder / "jobs.pkl")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory, make_samples) -> Path:
    """The folder of all jobs run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    ended = run(folder, jobs_of(make_samples))
    assert ended.returncode == 0, ended.stderr
    through, killed, resumed = json.loads(ended.stdout)
    assert (through, resumed) == ([0, 0], [0, 0]), ended.stderr
    # Whoever loses the other ends too, and does not wait for ever.
    assert killed[0] == -signal.SIGKILL
    assert killed[1] != 0
    return folder


def largest_difference(one: Path, two: Path, *, num_steps: int = 5) -> float:
    """Between the losses and terms of every step of two trainings, which have the same steps and terms.

    In parts of a number above 1: losses are about 8, and processors of two makes round their sums differently.
    """
    curves = read_losses(one), read_losses(two)
    assert len(curves[0]) == num_steps
    assert [(step.step, step.epoch, step.learning_rate, step.terms.keys()) for step in curves[0]] == [
        (step.step, step.epoch, step.learning_rate, step.terms.keys()) for step in curves[1]
    ]
    numbers = [[value for step in curve for value in (step.loss, *step.terms.values())] for curve in curves]
    return max(abs(x - y) / max(1.0, abs(y)) for x, y in zip(*numbers, strict=True))


@pytest.mark.parametrize("name", ["whole", "gappy", "published", "clusters"])
def test_two_processes_learn_as_one_with_the_whole_batch(two, tmp_path, script, make_samples, name) -> None:
    script.train(tmp_path, jobs_of(make_samples)[name])
    assert largest_difference(tmp_path, two / name) < TOLERANCE
    weights = [load_checkpoint(folder)[0].state_dict() for folder in (tmp_path, two / name)]
    for key, value in weights[0].items():
        torch.testing.assert_close(
            weights[1][key], value, rtol=1e-2, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    # Adam makes a step of the rounding of a gradient that is all but zero: one weight in thousands may show it.
    far = torch.cat([~torch.isclose(weights[1][k], v, rtol=1e-4, atol=1e-5).flatten() for k, v in weights[0].items()])
    assert far.float().mean() < 1e-3
    if name == "gappy":
        terms = [set(step.terms) for step in read_losses(tmp_path)]
        assert {"text|video"} in terms, "some batch has no sound on either process"
        assert any("text|audio" in each for each in terms)


def test_every_process_has_the_same_losses_and_weights(two) -> None:
    for name in ("whole", "gappy", "killed"):
        assert (two / name / "seen-0.json").read_text() == (two / name / "seen-1.json").read_text()


def test_precision_may_differ_from_training_to_training(two) -> None:
    # bfloat16 keeps 8 bits of a number: with torch 2.14.1 the losses, of about 8, differ by 0.11.
    assert 0 < largest_difference(two / "whole", two / "bf16") < 0.03


def test_batch_statistics_of_each_process_alone_would_be_seen(two) -> None:
    assert largest_difference(two / "whole", two / "not synchronised") > 100 * TOLERANCE


def test_recomputed_blocks_give_the_same_curve(two) -> None:
    assert read_losses(two / "recomputed") == read_losses(two / "whole")


def test_a_killed_process_costs_nothing(two) -> None:
    whole, killed = ([path.read_bytes() for path in (two / name).glob("losses-*")] for name in ("whole", "killed"))
    assert len(whole) == 1
    assert killed == whole
    assert load_checkpoint(two / "killed")[1].digest == load_checkpoint(two / "whole")[1].digest


def test_gathering_outside_of_a_training_gives_back_what_it_got() -> None:
    vectors, nonempty = {"text": torch.randn(3, 4)}, {"text": torch.ones(3, dtype=torch.bool)}
    assert gathered(vectors, nonempty).vectors["text"] is vectors["text"]


@pytest.mark.slow
def test_under_accelerate_launch(tmp_path, script, make_samples) -> None:
    jobs = {"gappy": jobs_of(make_samples)["gappy"] | {"recipe": RECIPE | {"epochs": 4}}}
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --main_process_port 0"
    ended = run(tmp_path, jobs, *launch.split(), "--mixed_precision", "no", "--dynamo_backend", "no")
    assert ended.returncode == 0, ended.stderr
    script.train(tmp_path / "one", jobs["gappy"])
    assert largest_difference(tmp_path / "one", tmp_path / "gappy", num_steps=20) < TOLERANCE
    assert (tmp_path / "gappy" / "seen-1.json").exists()
