"""How fast Clover trains, against the plain passes of the authors' step on the same weights.

    python tests/benchmarks/train_clover.py [--sides NAME ...] [--clips 1] [--steps 2] [--threads 1] [--device cpu]
                                            [--save RESULTS.json]

One step is forward, loss, backward and optimiser at the published size: clips of 8 frames of 224 pixels, 30 word
pieces, nothing dropped. Each side runs in a process of its own. The first step is not timed; of the others the median
counts.
"CPU s" are those of all threads, which a busy machine changes less than the clock. A side needs up to 14 GB.

    plain        both encoders and the multi-modal encoder twice, complete and masked, one pass after the other; all
                 tokens scored for masked words; torch's own products; torch's AdamW
    ours         one pass of each over both, masked words alone scored, products by oneDNN on a CPU, AdamW(fused=True)
    ours, bf16   the same under autocast to bfloat16: other numbers

The loss of the first step must agree with plain's to 1e-5 of it on a CPU in fp32, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIDES = ["plain", "ours", "ours, bf16"]
TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", choices=SIDES, help="measure one here, and print it as JSON")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="timed, after one that is not")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("clips", "steps", "threads", "device")]
    lines = []
    for side in arguments.sides:
        command = [sys.executable, __file__, "--side", side, *shared]
        lines.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        line = lines[-1]
        print(
            f"{side:12} {line['seconds']:7.2f} s {line['cpu_seconds']:7.2f} CPU s {line['memory_gb']:6.1f} GB", end=" "
        )
        print(f"{lines[0]['cpu_seconds'] / line['cpu_seconds']:5.2f} x  loss {line['losses'][0]:.5f}", flush=True)
    if arguments.save:
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.processor()}
        arguments.save.write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n")
    first = {line["name"]: line["losses"][0] for line in lines}
    if arguments.device == "cpu" and {"plain", "ours"} <= first.keys():
        off = abs(first["ours"] - first["plain"]) / abs(first["plain"])
        if off > TOLERANCE:
            sys.exit(f"the losses of the first step differ by {off:.1e} of plain's; at most {TOLERANCE:g} is rounding")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One side, in its process."""
    import torch
    from frameloom.fuse import create_model
    from frameloom.fuse.layers import products

    side, device = arguments.side, torch.device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if side == "plain":
        products.SMALLEST_PRODUCT = sys.maxsize
    torch.manual_seed(0)
    model = create_model("clover", word_masking="random", drop_path=0.0, dropout=0.0).to(device).train()
    fused = {} if side == "plain" else {"fused": True}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.005, betas=(0.9, 0.98), **fused)
    half = device.type == "cuda" or side == "ours, bf16"
    seconds, cpu_seconds, losses = [], [], []
    for number in range(arguments.steps + 1):
        batch = batch_of(arguments.clips, seed=number, device=device)
        begun, cpu_begun = now(device), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = plain_loss(model, batch) if side == "plain" else model.loss(batch)[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now(device) - begun)
        cpu_seconds.append(time.process_time() - cpu_begun)
        losses.append(loss.item())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "name": side,
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "seconds_of_steps": [round(each, 3) for each in seconds],
        "losses": losses,
        "memory_gb": (torch.cuda.max_memory_allocated() if device.type == "cuda" else peak) / 1e9,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def batch_of(num_clips: int, *, seed: int, device: Any) -> dict[str, Any]:
    """Clips of noise, and texts of 30 pieces."""
    import torch
    from frameloom.fuse import Tokens

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 30_000, (num_clips, 30), generator=generator)
    video = torch.randint(0, 256, (num_clips, 8, 3, 224, 224), dtype=torch.uint8, generator=generator)
    made = {"text": (ids, torch.ones(num_clips, 30)), "video": (video, torch.ones(num_clips, 8))}
    return {name: Tokens(*(part.to(device) for part in parts)) for name, parts in made.items()}


def plain_loss(model: Any, batch: dict[str, Any]) -> Any:
    """The authors' order: every encoder once for what is complete and once for what is masked."""
    import torch
    from frameloom.fuse import Tokens

    given = model.given(batch)
    masks, (ids, mask) = model.drawn_masks(given), given["text"]
    pictures = given["video"].values.transpose(1, 2)
    grids = [model.backbone(pictures), model.backbone(pictures, masks.cells)]
    complete, masked = (Tokens(grid.flatten(2, 3), torch.ones(grid.shape[:2], device=mask.device)) for grid in grids)
    states, hidden = model.text_states(given["text"]), model.text_states(Tokens(masks.ids, mask))
    of_text = model.fused(complete, hidden, mask).text
    of_video = model.fused(masked, states, mask).text
    vectors = {
        "V_e": model.project_video(complete),
        "V_m": model.project_video(masked),
        "T_e": model.ssl_head.text(states[:, 0]),
        "T_m": model.ssl_head.text(hidden[:, 0]),
        "M_Vmf": model.mlm_ssl_V_head(of_video[:, 0]),
        "M_Tmf": model.mlm_ssl_T_head(of_text[:, 0]),
    }
    scores = model.mlm_head["predictions"](of_text)[masks.words]
    words = model.word_loss(scores, ids[masks.words], num_samples=len(ids))
    return words + sum(model.alignment_terms(vectors).values())


if __name__ == "__main__":
    main()
