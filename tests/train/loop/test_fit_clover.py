"""Clover trained on stored frames and tagged word pieces: it learns, and goes on after a stop with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from frameloom import InputError
from frameloom.fuse import create_model
from frameloom.store import FeatureStore
from frameloom.train import TrainProgress, fit, read_losses
from frameloom.train.data.pixels import PixelDataset
from frameloom.train.loop import FitResult
from helpers.children.killed_pixels import OPTIONS, RECIPE
from helpers.frames import VOCABULARY, write_pixel_clips

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class StoppedError(Exception):
    """A kill: nothing is saved after it."""


def train(store: Path, folder: Path, *, tags: bool = True, stop_at: int = 0) -> FitResult:
    """Three epochs of four steps; words are hidden by their part of speech."""

    def on_progress(progress: TrainProgress) -> None:
        if progress.step == stop_at:
            raise StoppedError

    clips = write_pixel_clips(store, tags=tags)
    data = PixelDataset(FeatureStore(store), clips, options=OPTIONS, max_words=16, seed=5)
    torch.manual_seed(1)
    model = create_model("test_clover", word_masking="semantic", vocab_size=VOCABULARY, max_words=16)
    return fit(model, data, recipe=RECIPE.replaced(learning_rate=2e-3), folder=folder, on_progress=on_progress)


def curve(folder: Path) -> bytes:
    (path,) = folder.glob("losses-*.jsonl")
    return path.read_bytes()


def test_it_learns_by_all_terms_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    result = train(tmp_path / "store", tmp_path / "whole")
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    first = next(iter(read_losses(tmp_path / "whole")))
    assert first.terms.keys() == {"align_video", "align_text", "rank_video", "rank_text", "words"}
    with pytest.raises(StoppedError):
        train(tmp_path / "store", tmp_path / "stopped", stop_at=7)
    again = train(tmp_path / "store", tmp_path / "stopped")
    assert again.resumed_at == 6
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")


def test_word_pieces_without_tags_are_refused_with_what_gives_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wordpiece gives them with the option tags: en_core_web_md"):
        train(tmp_path / "store", tmp_path / "run", tags=False)
