"""A training that is killed in the middle, for test_fit.py: ``python killed_training.py FOLDER CLIPS.pkl``.

With ``KILL_AT_STEP`` in the environment the process kills itself with SIGKILL right after that step. With
``KILL_SEEDS`` (numbers, joined by commas) it trains once to the end in FOLDER/clean, and then for each number in
FOLDER/<number> up to a random call of a function, at which a forked process is killed, and again to the end. It prints,
as JSON, how many calls there were and at which each was killed, its exit code and the step it was resumed at.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
from pathlib import Path

import torch
from frameloom.fuse import create_model
from frameloom.train import TrainProgress, fit, get_recipe
from frameloom.train.data import ClipDataset

RECIPE = {"min_steps": 0, "epochs": 3, "batch_size": 8, "checkpoint_steps": 2, "seed": 5}


def train(folder: Path, samples: list, *, kill_at: int = 0):
    """The training that all these tests share: 5 steps an epoch on 40 clips."""

    def on_progress(progress: TrainProgress) -> None:
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(1)
    return fit(
        create_model("test_everything_at_once"),
        ClipDataset(samples, training=True, seed=5),
        recipe=get_recipe("everything_at_once_tiny", **RECIPE),
        folder=folder,
        on_progress=on_progress,
    )


class Calls:
    """Counts calls of Python's and C's functions, and kills the process at one of them: anywhere, on any machine."""

    def __init__(self, *, kill_at: int = 0) -> None:
        self.number, self.kill_at = 0, kill_at

    def __call__(self, _frame, event: str, _argument) -> None:
        if event in ("call", "c_call"):
            self.number += 1
            if self.number == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def killed_at_random(folder: Path, clips: list, seeds: list[int]) -> dict:
    """See above."""
    calls = Calls()
    train(folder / "warm", clips)  # imports what is imported late, so that every training makes the same calls
    sys.setprofile(calls)
    train(folder / "clean", clips)
    sys.setprofile(None)
    deaths = []
    for seed in seeds:
        kill_at = random.Random(seed).randrange(1, calls.number)
        child = os.fork()
        if child == 0:
            sys.setprofile(Calls(kill_at=kill_at))
            train(folder / str(seed), clips)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        deaths.append([kill_at, code, train(folder / str(seed), clips).resumed_at])
    return {"calls": calls.number, "deaths": deaths}


if __name__ == "__main__":
    torch.set_num_threads(1)
    clips = pickle.loads(Path(sys.argv[2]).read_bytes())
    if seeds := os.environ.get("KILL_SEEDS"):
        print(json.dumps(killed_at_random(Path(sys.argv[1]), clips, [int(seed) for seed in seeds.split(",")])))
        sys.exit()
    result = train(Path(sys.argv[1]), clips, kill_at=int(os.environ.get("KILL_AT_STEP", "0")))
    print(result.resumed_at, result.steps)
