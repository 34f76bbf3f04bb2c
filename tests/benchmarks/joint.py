"""Joint encoders: bypass cross-attention against joint self-attention over all tokens.

    python tests/benchmarks/joint.py [--frames 12 32] [--rounds 3]

The three rounds of T2V2T's joint encoder over one pair, forward and backward, against three layers of self-attention
over text and patches together, as attention of torch does it (no matrix of scores is kept). FLOPs are those of forward,
memory is what autograd keeps for backward.

Sides take turns, so that what else runs meets all of them; a ratio is the median of the ratios within a turn. Times are
CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from frameloom.fuse.layers import BertEncoder, BertSpec
from frameloom.fuse.t2v2t.fusion import FusionLayer, FusionSpec, fuse
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[12, 32])
    parser.add_argument("--rounds", type=int, default=3)
    measure_fusion(parser.parse_args())


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What the first, unmeasured run of each side gave, and the CPU seconds of each in every turn."""
    first = {name: run() for name, run in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begun = time.process_time()
            run()
            seconds[name].append(time.process_time() - begun)
    return first, seconds


def ratio(of: list[float], to: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def measure_fusion(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds = ("bypass", "naive", "unidirectional")
    layers = {kind: [FusionLayer(FusionSpec(kind=kind)).eval() for _ in range(3)] for kind in kinds}
    together = BertEncoder(BertSpec(depth=3)).eval()
    for num_frames in given.frames:
        text = torch.randn(1, 32, 768, requires_grad=True)
        frames = torch.randn(1, num_frames, 196, 768, requires_grad=True)
        masks = {"text_mask": torch.ones(1, 32), "frame_mask": torch.ones(1, num_frames)}

        def fused(kind: str, text: Any = text, frames: Any = frames, masks: Any = masks) -> Any:
            return fuse(layers[kind], text, frames, **masks)[-1].text

        def joint(text: Any = text, frames: Any = frames) -> Any:
            return together(torch.cat([text, frames.flatten(1, 2)], dim=1))[:, : text.shape[1]]

        forwards: dict[str, Callable[[], Any]] = {kind: partial(fused, kind) for kind in kinds}
        forwards["joint self-attention"] = joint
        flops, kept = {}, {}
        for name, forward in forwards.items():
            # The counter does not see into the kernels of attention on a CPU; as products it does.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                forward()
            with Kept() as held:
                forward()
            flops[name], kept[name] = counter.get_total_flops() / 1e9, held.num_bytes / 1e9
        _, seconds = in_turns({name: partial(both_ways, run) for name, run in forwards.items()}, given.rounds)
        print(f"{num_frames} frames, {num_frames * 196} patches and 32 words")
        most = "joint self-attention"
        for name in forwards:
            print(
                f"  {name:22} {flops[name]:8.1f} GFLOP ({flops[most] / flops[name]:5.2f} times fewer)"
                f"  {statistics.median(seconds[name]):6.2f} CPU s ({ratio(seconds[most], seconds[name]):5.2f} times"
                f" faster)  {kept[name]:6.2f} GB kept ({kept[most] / kept[name]:5.2f} times less)",
                flush=True,
            )


def both_ways(forward: Callable[[], Any]) -> None:
    forward().sum().backward()


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """The bytes that autograd keeps for backward, each storage once."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Any) -> Any:
        self.seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def num_bytes(self) -> int:
        return sum(self.seen.values())


if __name__ == "__main__":
    main()
