"""Training from pixels: it learns, by the recipe's frames, and goes on after a kill with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from frameloom import InputError
from frameloom.fuse import Tokens
from frameloom.train import load_checkpoint, read_losses
from helpers.children import killed_pixels
from helpers.children.killed_pixels import train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("clean")
    result, model = train(root / "store", root / "run")
    return root, result, model


def curve(folder: Path) -> bytes:
    (path,) = folder.glob("losses-*.jsonl")
    return path.read_bytes()


def test_it_learns_and_reads_more_frames_by_and_by(clean) -> None:
    root, result, model = clean
    assert result.steps == 12
    assert model.seen == [(6, 1)] * 4 + [(6, 2)] * 8
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    kept, _ = load_checkpoint(root / "run")
    assert (int(kept.epochs), int(kept.steps)) == (3, 12)
    assert len(list(read_losses(root / "run"))) == 12


@pytest.mark.parametrize(("step", "kind", "workers"), [(7, "videos", 0), (4, "videos", 2), (5, "pairs", 0)])
def test_a_kill_in_mid_epoch_costs_nothing(clean, tmp_path: Path, step: int, kind: str, workers: int) -> None:
    root, _, _ = clean
    pairs = kind == "pairs"
    whole = root / "run"
    if pairs:
        whole = tmp_path / "whole"
        train(tmp_path / "store", whole, pairs=True)
    command = [sys.executable, killed_pixels.__file__, str(tmp_path / "store"), str(tmp_path / "run"), str(step), kind]
    command.append("tiny_pixels")
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result, _ = train(tmp_path / "store", tmp_path / "run", pairs=pairs, workers=workers)
    assert 0 < result.resumed_at <= step
    assert curve(tmp_path / "run") == curve(whole)
    assert load_checkpoint(tmp_path / "run")[1].digest == load_checkpoint(whole)[1].digest


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5, 8, 11])
@pytest.mark.parametrize("name", ["test_t2v2t", "test_vindlu", "test_clover"])
def test_joint_encoders_go_on_after_a_kill_with_the_same_curve(tmp_path: Path, name: str, step: int) -> None:
    """Masks, negatives and dropout are drawn as they would have been."""
    train(tmp_path / "store", tmp_path / "whole", name=name)
    where = [str(tmp_path / "store"), str(tmp_path / "run")]
    command = [sys.executable, killed_pixels.__file__, *where, str(step), "videos", name]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(tmp_path / "store", tmp_path / "run", name=name)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    digests = [load_checkpoint(tmp_path / folder)[1].digest for folder in ("run", "whole")]
    assert digests[0] == digests[1]


def test_every_step_takes_videos_and_pictures(tmp_path: Path) -> None:
    result, model = train(tmp_path / "store", tmp_path / "run", pairs=True)
    # 21 videos and 8 pictures in batches of 4: the shorter list ends an epoch.
    assert result.steps == 6
    assert model.seen == [(4, 1), (4, 1)] * 2 + [(4, 2), (4, 1)] * 4
    first = next(iter(read_losses(tmp_path / "run")))
    assert first.loss == pytest.approx(sum(first.terms.values()))
    assert set(first.terms) == {"text|video (0)", "text|video (1)"}


def test_a_text_that_the_model_does_not_know_names_its_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.models import TinyPixels

    def embed(self, name: str, tokens: Tokens) -> torch.Tensor:
        if name == "text" and (tokens.values == 113).any():
            raise InputError("id 113 is out of range")
        return original(self, name, tokens)

    original = TinyPixels.embed
    monkeypatch.setattr(TinyPixels, "embed", embed)
    with pytest.raises(InputError, match=r"sample 3 \(clip 3\): id 113 is out of range. No step was taken"):
        train(tmp_path / "store", tmp_path / "run")
