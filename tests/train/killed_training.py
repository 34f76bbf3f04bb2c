"""A training that is killed in the middle, for test_fit.py: ``python killed_training.py FOLDER CLIPS.pkl``.

With ``KILL_AT_STEP`` in the environment the process kills itself with SIGKILL right after that step.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

import torch
from frameloom.fuse import create_model
from frameloom.train import ClipDataset, TrainProgress, fit, get_recipe

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    clips = pickle.loads(Path(sys.argv[2]).read_bytes())
    result = train(Path(sys.argv[1]), clips, kill_at=int(os.environ.get("KILL_AT_STEP", "0")))
    print(result.resumed_at, result.steps)
