"""A training from pixels that kills itself after a step: ``python killed_pixels.py STORE FOLDER STEP KIND MODEL``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from frameloom.fuse import create_model
from frameloom.store import FeatureStore
from frameloom.train import Recipe, TrainProgress, fit
from frameloom.train.data import FrameOptions
from frameloom.train.data.pixels import PairedDataset, PixelDataset
from frameloom.train.loop import FitResult

from helpers.frames import VOCABULARY, write_pixel_clips
from helpers.models import register_tiny_pixels

RECIPE = Recipe(
    name="tiny",
    epochs=3,
    batch_size=6,
    learning_rate=1e-2,
    checkpoint_steps=2,
    seed=5,
    optimizer="adamw",
    decay_all=False,
)
OPTIONS = FrameOptions(size=32, training=True, num_frames=2, curriculum=[[0, 1], [1, 2]], flip=0.0)


def train(
    store: Path, folder: Path, *, kill_at: int = 0, pairs: bool = False, workers: int = 0, name: str = "tiny_pixels"
) -> tuple[FitResult, Any]:
    """Four steps an epoch on 29 clips; with pairs three, of 21 videos and 8 clips of one frame."""

    def on_progress(progress: TrainProgress) -> None:
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    clips = write_pixel_clips(store, num_pictures=8)
    opened = FeatureStore(store)
    data: Any = PixelDataset(opened, clips, options=OPTIONS, max_words=16, seed=5)
    if pairs:
        single = OPTIONS.replaced(num_frames=1, curriculum=())
        parts = ([one for one in clips if one.is_picture == kind] for kind in (False, True))
        data = PairedDataset(
            [
                PixelDataset(opened, part, options=options, max_words=16, seed=5)
                for part, options in zip(parts, (OPTIONS, single), strict=True)
            ]
        )
    torch.manual_seed(1)
    register_tiny_pixels()
    model = create_model(name, **({} if name == "tiny_pixels" else {"vocab_size": VOCABULARY}))
    recipe = RECIPE.replaced(batch_size=4) if pairs else RECIPE
    return fit(model, data, recipe=recipe, folder=folder, on_progress=on_progress, num_workers=workers), model


if __name__ == "__main__":
    torch.set_num_threads(1)
    pairs, name = sys.argv[4] == "pairs", sys.argv[5]
    train(Path(sys.argv[1]), Path(sys.argv[2]), kill_at=int(sys.argv[3]), pairs=pairs, name=name)
