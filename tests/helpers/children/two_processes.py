"""Trainings on two processes, for test_distributed.py: ``python two_processes.py FOLDER JOBS.pkl``.

JOBS.pkl holds jobs by name: samples, recipe, model, its options and, for one that is to be killed, `kill_at`, the step
after which the first process kills itself. The script forks two processes that talk over loopback and run every job,
each of them in FOLDER/<name>; after one that was killed it forks two others, and runs that job again. Under `accelerate
launch`, which starts the processes, each runs every job. What a process ended with goes to
FOLDER/<name>/seen-<rank>.json: the mean losses of its epochs, and sums of its weights after each of them.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from frameloom.fuse import create_model
from frameloom.train import fit, get_recipe
from frameloom.train.data import ClipDataset

Jobs = dict[str, dict[str, Any]]


def train(folder: Path, job: dict[str, Any]):
    """Train on this process's share."""
    torch.manual_seed(1)
    rank, seen = os.environ.get("RANK", "0"), []

    def on_progress(progress) -> None:
        if progress.step == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    def validate(model):
        """Called on every process after an epoch."""
        seen.append([round(float(value.double().sum()), 4) for value in model.state_dict().values()])
        return {}

    result = fit(
        create_model(job.get("name", "test_everything_at_once"), **job.get("model", {})),
        ClipDataset(job["samples"], training=True, seed=5),
        recipe=get_recipe("everything_at_once_tiny", **job["recipe"]),
        folder=folder,
        on_progress=on_progress,
        validate=validate,
    )
    (folder / f"seen-{rank}.json").write_text(json.dumps([result.epoch_losses, seen]))
    return result


def _process(rank: int, *, port: int, folder: Path, jobs: Jobs) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        for name, job in jobs.items():
            train(folder / name, job)
    except BaseException:  # noqa: BLE001 - a forked process must end here, whatever happens
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _launch(folder: Path, jobs: Jobs) -> list[int]:
    """Two processes that need not load torch again. Their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            _process(rank, port=port, folder=folder, jobs=jobs)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def launches(folder: Path, jobs: Jobs) -> list[list[int]]:
    """The exit codes of every launch: of the jobs that run through, then two of each that is killed."""
    killed = {name: job for name, job in jobs.items() if "kill_at" in job}
    codes = [_launch(folder, {name: job for name, job in jobs.items() if name not in killed})]
    for name, job in killed.items():
        codes += [_launch(folder, {name: job}), _launch(folder, {name: job | {"kill_at": None}})]
    return codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Loaded before the processes part, by the loop: each of them would load it.
    import accelerate  # noqa: F401

    folder, jobs = Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes())
    if "RANK" in os.environ:
        for name, job in jobs.items():
            train(folder / name, job)
    else:
        print(json.dumps(launches(folder, jobs)))
