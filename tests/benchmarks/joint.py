"""Joint encoders: bypass cross-attention against joint self-attention, and training steps against plain ones.

    python tests/benchmarks/joint.py fusion [--frames 12 32] [--rounds 3]
    python tests/benchmarks/joint.py steps [--models vindlu t2v2t clover] [--clips N] [--rounds 2]

`fusion`: the three rounds of T2V2T's joint encoder over one pair, forward and backward, against three layers of
self-attention over text and patches together, as attention of torch does it (no matrix of scores is kept). FLOPs are
those of forward, memory is what autograd keeps for backward.

`steps`: forward, loss and backward at the published size, on the same weights, batch and draws. "plain" does what the
authors' code does: torch's own products; of VindLU and T2V2T attention as softmax of a matrix of scores, the frames of
every pair projected anew, masked texts in passes of their own; of Clover see `train_pixels.py`. "ours, bf16" is under
autocast: other numbers. The losses of the other two must agree to 1e-5 of them.

Sides take turns, so that what else runs meets all of them; a ratio is the median of the ratios within a turn. Times are
CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import train_pixels
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.layers import BertEncoder, BertSpec, products
from frameloom.fuse.t2v2t import model as t2v2t_model
from frameloom.fuse.t2v2t.fusion import FusionLayer, FusionSpec, fuse
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    fusion = parts.add_parser("fusion")
    fusion.add_argument("--frames", type=int, nargs="+", default=[12, 32])
    fusion.add_argument("--rounds", type=int, default=3)
    fusion.set_defaults(run=measure_fusion)
    steps = parts.add_parser("steps")
    steps.add_argument("--models", nargs="+", default=["vindlu", "t2v2t", "clover"])
    steps.add_argument("--clips", type=int, default=0, help="0: two, of Clover one")
    steps.add_argument("--rounds", type=int, default=2)
    steps.add_argument("--sides", nargs="+", default=["ours", "ours, bf16"], help="next to plain")
    steps.set_defaults(run=measure_steps)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.run(given)


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


def measure_steps(given: argparse.Namespace) -> None:
    for name in given.models:
        sides = clover_sides(given.clips or 1) if name == "clover" else t2v2t_sides(name, given.clips or 2)
        losses, seconds = in_turns({side: sides[side] for side in ("plain", *given.sides)}, given.rounds)
        off = abs(losses.get("ours", losses["plain"]) - losses["plain"]) / abs(losses["plain"])
        if off > TOLERANCE:
            raise SystemExit(f"{name}: the losses differ by {off:.1e} of plain's; at most {TOLERANCE:g} is rounding")
        print(f"{name}, {given.clips or (1 if name == 'clover' else 2)} clips")
        for side, each in seconds.items():
            print(
                f"  {side:12} {statistics.median(each):7.2f} CPU s  {ratio(seconds['plain'], each):5.2f} times plain"
                f"  loss {losses[side]:.6f}",
                flush=True,
            )


def t2v2t_sides(name: str, num_clips: int) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    model, batch = published(name, num_clips=num_clips, num_frames=4)

    def side(context: Callable[[], Any]) -> float:
        with context():
            return one_step(model, batch)

    half = partial(torch.autocast, "cpu", torch.bfloat16)
    return {
        "plain": partial(side, plain),
        "ours": partial(side, nullcontext),
        "ours, bf16": partial(side, half),
    }


def published(name: str, *, num_clips: int, num_frames: int) -> tuple[Any, dict[str, Any]]:
    """A model of the published size, in evaluation mode since dropout would differ, and a batch of noise."""
    model = create_model(name, num_frames=num_frames).eval()
    ids = torch.randint(200, 30000, (num_clips, 32))
    pixels = torch.randint(0, 256, (num_clips, num_frames, 3, 224, 224), dtype=torch.uint8)
    batch = {
        "text": Tokens(ids, torch.arange(32) < torch.randint(8, 33, (num_clips, 1))),
        "video": Tokens(pixels, torch.ones(num_clips, num_frames)),
    }
    return model, batch


def one_step(model: Any, batch: dict[str, Any]) -> float:
    model.zero_grad(set_to_none=True)
    loss, _ = model(batch)
    loss.backward()
    return float(loss.detach())


@contextmanager
def plain() -> Iterator[None]:
    """Our model with the parts of a plain implementation."""

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, scale: None = None) -> Any:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if attn_mask is not None:
            bias = attn_mask if attn_mask.is_floating_point() else torch.where(attn_mask, 0.0, -10000.0)
            scores = scores + bias
        return functional.dropout(scores.softmax(dim=-1), dropout_p) @ v

    def fuse(rounds: Any, text: Any, frames: Any, *, text_mask: Any, frame_mask: Any, videos: Any = None) -> Any:
        rows = torch.arange(len(text)) if videos is None else videos
        num_own = len(rows) - len(frames)  # matching first, then masked words, each in a pass of its own
        passes = [
            was[1](rounds, text[part], frames[rows[part]], text_mask=text_mask[part], frame_mask=frame_mask[rows[part]])
            for part in (slice(0, num_own), slice(num_own, None))
        ]
        return [
            states[0]._replace(text=torch.cat([each.text for each in states])) for states in zip(*passes, strict=True)
        ]

    was = functional.scaled_dot_product_attention, t2v2t_model.fuse, products.SMALLEST_PRODUCT
    functional.scaled_dot_product_attention, t2v2t_model.fuse, products.SMALLEST_PRODUCT = attention, fuse, 1 << 62
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, t2v2t_model.fuse, products.SMALLEST_PRODUCT = was


def clover_sides(num_clips: int) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    model = create_model("clover", **train_pixels.UNDROPPED["clover"]).train()
    batch = train_pixels.noise("clover", num_clips, seed=0, device=torch.device("cpu"))

    def side(run: Callable[[], Any], *, smallest: int, is_half: bool = False) -> float:
        was, products.SMALLEST_PRODUCT = products.SMALLEST_PRODUCT, smallest
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                loss = run()
            loss.backward()
        finally:
            products.SMALLEST_PRODUCT = was
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    ours, usual = (lambda: model.loss(batch)[0]), products.SMALLEST_PRODUCT
    return {
        "plain": partial(side, lambda: train_pixels.plain_clover_loss(model, batch), smallest=1 << 62),
        "ours": partial(side, ours, smallest=usual),
        "ours, bf16": partial(side, ours, smallest=usual, is_half=True),
    }


if __name__ == "__main__":
    main()
