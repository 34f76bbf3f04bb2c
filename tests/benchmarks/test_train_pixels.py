"""The parts of the benchmark of training from pixels, on models and clips that take no time."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from frameloom.fuse.layers import products
from helpers.projects import make_clip

SMALL: dict[str, dict[str, Any]] = {
    "miles": {
        "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "min_block": 2, "text_width": 16,
        "text_depth": 1, "text_heads": 2, "text_hidden": 32, "projection_dim": 16,
    },
    "all_in_one": {
        "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "projection_dim": 16,
    },
    "vindlu": {
        "image_size": 32, "patch_size": 8, "video_width": 24, "video_depth": 2, "video_heads": 2, "video_hidden": 48,
        "text_width": 24, "text_heads": 2, "text_hidden": 48, "projection_dim": 16,
    },
}  # fmt: skip


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with small models."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import train_pixels

    monkeypatch.setattr(train_pixels, "SIZE", 32)
    for model, sizes in SMALL.items():
        monkeypatch.setitem(train_pixels.UNDROPPED, model, {**train_pixels.UNDROPPED[model], **sizes})
    yield train_pixels
    sys.modules.pop("plain_steps", None)


@pytest.mark.parametrize("model", SMALL)
def test_all_sides_of_a_step_compute_the_same_and_bfloat16_nearly(benchmark_module: Any, model: str) -> None:
    threads = torch.get_num_threads()
    attention, smallest = torch.nn.functional.scaled_dot_product_attention, products.SMALLEST_PRODUCT
    found = {}
    for side in ("ours", "ours, bf16", "plain"):
        given = Namespace(side=side, model=model, clips=3, steps=1, threads=1, device="cpu")
        found[side] = benchmark_module.one_side(given)
    torch.set_num_threads(threads)
    losses = {side: one["losses"] for side, one in found.items()}
    assert losses["ours"] == pytest.approx(losses["plain"], rel=benchmark_module.TOLERANCE)
    assert losses["ours, bf16"] == pytest.approx(losses["plain"], rel=0.05)
    assert losses["ours, bf16"][0] != losses["ours"][0]
    assert all(one["cpu_seconds"] > 0 and one["memory_gb"] > 0 for one in found.values())
    operations = {side: one["gflop"] for side, one in found.items()}
    assert 0 < operations["ours"] <= operations["plain"]
    # What the plain side changes is put back.
    assert (torch.nn.functional.scaled_dot_product_attention, products.SMALLEST_PRODUCT) == (attention, smallest)


def test_loader_and_decoding_give_as_many_frames_of_the_same_clips(benchmark_module: Any, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        make_clip(tmp_path / "videos" / f"{number}.mp4", colour=colour, pitch=None)
    clips, stored = benchmark_module.write_shards(tmp_path / "store", tmp_path / "videos", seconds=1, rate=4)
    assert len(clips) == len(stored) == 6
    for epoch in (0, 1):
        counts = [list(benchmark_module.ours(tmp_path / "store", stored, 2, epoch))]
        counts.append(list(benchmark_module.anew(clips, 2, epoch)))
        assert [sum(one) for one in counts] == [12, 12]
