"""T2V2T and VindLU: a training step against a plain one, and bypass cross-attention against joint self-attention.

    python tests/benchmarks/t2v2t.py step [--model vindlu] [--clips 2] [--frames 4] [--steps 2]
    python tests/benchmarks/t2v2t.py fusion [--frames 12 32] [--repeats 3]

`step`: forward, loss and backward at the published size, on the same weights, batch and draws. "plain" does what the
authors' code does: torch's own products, attention as softmax of a matrix of scores, the frames of every pair projected
anew, masked texts in passes of their own. "ours, bf16" is under autocast: other numbers. The losses of the other two
must agree to 1e-5 of them.

`fusion`: the three rounds of the joint encoder on one pair, forward alone, against three layers of self-attention over
text and patches together. FLOPs are those of matrix products and attention.

Each line is the median of `--steps` or `--repeats` after one that is not counted, in CPU seconds, which a busy machine
changes less than the clock.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    step = parts.add_parser("step")
    step.add_argument("--model", default="vindlu")
    for name, default in (("clips", 2), ("frames", 4), ("steps", 2)):
        step.add_argument(f"--{name}", type=int, default=default)
    step.set_defaults(run=measure_step)
    fusion = parts.add_parser("fusion")
    fusion.add_argument("--frames", type=int, nargs="+", default=[12, 32])
    fusion.add_argument("--repeats", type=int, default=3)
    fusion.set_defaults(run=measure_fusion)
    given = parser.parse_args()
    given.run(given)


def measure_step(given: argparse.Namespace) -> None:
    import torch
    from frameloom.fuse import Tokens, create_model

    torch.manual_seed(0)
    model = create_model(given.model, num_frames=given.frames)  # in evaluation mode: dropout would differ
    ids = torch.randint(200, 30000, (given.clips, 32))
    pixels = torch.randint(0, 256, (given.clips, given.frames, 3, 224, 224), dtype=torch.uint8)
    batch = {
        "text": Tokens(ids, torch.arange(32) < torch.randint(8, 33, (given.clips, 1))),
        "video": Tokens(pixels, torch.ones(given.clips, given.frames)),
    }
    sides = {"plain": plain, "ours": nullcontext, "ours, bf16": lambda: torch.autocast("cpu", torch.bfloat16)}
    losses, seconds = {}, {}
    for name, side in sides.items():
        with side():
            losses[name], seconds[name] = timed(partial(one_step, model.eval(), batch), given.steps)
    assert abs(losses["ours"] - losses["plain"]) <= 1e-5 * abs(losses["plain"]), losses
    for name, each in seconds.items():
        print(f"{name:12} {each:7.2f} CPU s   {seconds['plain'] / each:5.2f} times plain   loss {losses[name]:.6f}")


def one_step(model: Any, batch: dict[str, Any]) -> float:
    model.zero_grad(set_to_none=True)
    loss, _ = model(batch)
    loss.backward()
    return float(loss.detach())


@contextmanager
def plain() -> Iterator[None]:
    """Our model with the parts of a plain implementation."""
    import torch
    from frameloom.fuse.layers import products
    from frameloom.fuse.t2v2t import model as joint
    from torch.nn import functional

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0) -> Any:
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

    was = functional.scaled_dot_product_attention, joint.fuse, products.SMALLEST_PRODUCT
    functional.scaled_dot_product_attention, joint.fuse, products.SMALLEST_PRODUCT = attention, fuse, 1 << 62
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, joint.fuse, products.SMALLEST_PRODUCT = was


def measure_fusion(given: argparse.Namespace) -> None:
    import torch
    from frameloom.fuse.layers import BertEncoder, BertSpec
    from frameloom.fuse.t2v2t.fusion import FusionLayer, FusionSpec, fuse
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    kinds = ("bypass", "naive", "unidirectional")
    rounds = {kind: [FusionLayer(FusionSpec(kind=kind)).eval() for _ in range(3)] for kind in kinds}
    together = BertEncoder(BertSpec(depth=3)).eval()
    for num_frames in given.frames:
        text, frames = torch.randn(1, 32, 768), torch.randn(1, num_frames, 196, 768)
        masks = {"text_mask": torch.ones(1, 32), "frame_mask": torch.ones(1, num_frames)}
        sides: dict[str, Callable[[], Any]] = {
            kind: partial(fuse, layers, text, frames, **masks) for kind, layers in rounds.items()
        }
        sides["joint self-attention"] = partial(together, torch.cat([text, frames.flatten(1, 2)], dim=1))
        figures = {}
        with torch.inference_mode():
            for name, side in sides.items():
                with FlopCounterMode(display=False) as counter:
                    side()
                figures[name] = counter.get_total_flops() / 1e9, timed(side, given.repeats)[1]
        most = figures["joint self-attention"]
        print(f"{num_frames} frames, {num_frames * 196} patches")
        for name, (flops, seconds) in figures.items():
            print(
                f"  {name:22} {flops:8.1f} GFLOP ({most[0] / flops:5.2f} times fewer)   "
                f"{seconds:6.2f} CPU s ({most[1] / seconds:5.2f} times faster)"
            )


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What the first run gave, and the median CPU time of those after it."""
    first, seconds = run(), []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
    return first, statistics.median(seconds)


if __name__ == "__main__":
    main()
