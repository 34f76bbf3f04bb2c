"""How fast Everything at Once trains, against six plain passes over padded batches.

    python tests/benchmarks/train_eao.py [--sides NAME ...] [--clips 16] [--steps 3] [--device cpu]
                                         [--peak-tflops N] [--save RESULTS.json]

One step is forward, loss, backward and optimiser, at the published size unless `--width` says otherwise. Each side runs
in a process of its own, started with the same allocator settings, on the same weights and the same batches: 5 to 12
rows of video, 1 to 20 words (9 on average), 768 frames of audio in nine clips of ten and 64 to 767 in the others; one
clip of eight has no text, one of sixteen no audio. The first step is not timed; of the others the median counts. At the
published size a side needs up to 16 GB. "CPU s" are those of all
threads, which a busy machine changes less than the clock.

    plain            text, video, audio and each pair one after the other, padded; torch's own layers; torch's Adam
    plain, fused     the same with Adam(fused=True)
    packed           ours with torch's own layers and Adam(fused=True): what packing alone does
    ours             ours as it is: packed, products by oneDNN on a CPU, Adam(fused=True)
    ours, recomputed the same with gradient checkpointing
    ours, bf16       the same under autocast to bfloat16: other numbers

The loss of the first step must agree with plain's to 1e-5 of it on a CPU in fp32, or the benchmark fails. On a GPU all
sides run under autocast to bfloat16 (use some hundreds of clips). "GFLOP" is what the equations ask for: six passes
over real tokens, and backward counted twice; `--peak-tflops` of the processor gives the utilisation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 35),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""Freed memory is kept: without this every large tensor is page-faulted in anew."""
SIDES = ["plain", "plain, fused", "packed", "ours", "ours, recomputed", "ours, bf16"]
MODALITIES = ("text", "video", "audio")
TOLERANCE = 1e-5


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(_measure(arguments)))
        return
    results: dict[str, Any] = {"about": {}, "lines": []}
    for side in arguments.sides:
        line = _in_a_process(side)
        results["about"] = {**_about(), **line.pop("about")}
        results["lines"].append({"name": side, **line})
        _show(results["lines"], peak_tflops=arguments.peak_tflops)
    if arguments.save:
        arguments.save.write_text(json.dumps(results, indent=1) + "\n")
    _check_losses(results["lines"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", choices=SIDES, help="measure one here, and print it as JSON")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--width", type=int, default=4096, help="of tokens; heads, projection and audio CNN go along")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    parser.add_argument("--save", type=Path)
    return parser.parse_args()


def _in_a_process(side: str) -> dict[str, Any]:
    """One side, measured by this file in a fresh process."""
    command = [sys.executable, __file__, "--side", side, *_told()]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# One side, in its process


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from frameloom.fuse.layers import products
    from frameloom.train.loop.recompute import recomputed

    side, device = arguments.side, torch.device(arguments.device)
    if not side.startswith("ours"):
        products.SMALLEST_PRODUCT = sys.maxsize
    model = _model(arguments.width).to(device).train()
    fused = {} if side == "plain" else {"fused": True}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-5, **fused)
    compute: Callable[..., Any] = _plain_loss if side.startswith("plain") else lambda model, batch: model.loss(batch)[0]
    half = device.type == "cuda" or side == "ours, bf16"
    seconds, cpu_seconds, losses, num_tokens, flops = [], [], [], [], []
    with recomputed(model) if side == "ours, recomputed" else nullcontext():
        for number in range(arguments.steps + 1):
            batch = _batch(model, arguments.clips, seed=number, device=device)
            _wait(device)
            begun, cpu_begun = time.perf_counter(), time.process_time()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = compute(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait(device)
            seconds.append(time.perf_counter() - begun)
            cpu_seconds.append(time.process_time() - cpu_begun)
            losses.append(loss.item())
            tokens, work = _work(model, batch)
            num_tokens.append(tokens)
            flops.append(work)
    return {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "seconds_of_steps": [round(each, 3) for each in seconds],
        "losses": losses,
        "memory_gb": _peak_memory(device) / 1e9,
        "tokens_of_six_passes": statistics.mean(num_tokens[1:]),
        "gflop": statistics.mean(flops[1:]) / 1e9,
        "about": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        },
    }


def _model(width: int) -> Any:
    import torch
    from frameloom.fuse import create_model

    torch.manual_seed(0)
    if width == 4096:
        return create_model("everything_at_once")
    # The audio CNN's first four stages, and two as wide as a token.
    stem = (width // 32, width // 32, width // 16, width // 8, width // 4, width // 2, width)
    options = {"audio_cnn_blocks": (2, 2, 1, 1, 1, 1), "audio_cnn_widths": stem, "heads": width // 64}
    return create_model("everything_at_once", width=width, projection_dim=width * 3 // 2, **options)


def _batch(model: Any, num_clips: int, *, seed: int, device: Any) -> dict[str, Any]:
    """Random rows of lengths as in HowTo100M. See the head of this file."""
    import torch
    from frameloom.fuse import Tokens

    chance = torch.Generator().manual_seed(1000 + seed)
    places = torch.arange(num_clips)
    words = torch.poisson(torch.full((num_clips,), 9.0), generator=chance).long().clamp(1, 20)
    frames = torch.full((num_clips,), 768)
    frames[places % 10 == 3] = torch.randint(64, 768, (num_clips,), generator=chance)[places % 10 == 3]
    lengths = {
        "text": words.masked_fill(places % 8 == 5, 0),
        "video": torch.randint(5, 13, (num_clips,), generator=chance),
        "audio": frames.masked_fill(places % 16 == 9, 0),
    }
    batch = {}
    for name, limit in (("text", 20), ("video", 12), ("audio", 768)):
        values = torch.randn(num_clips, limit, model.config.row_dims()[name], generator=chance)
        mask = torch.arange(limit) < lengths[name][:, None]
        batch[name] = Tokens((values * mask[..., None]).to(device), mask.to(device))
    return batch


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_memory(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# The plain way


def _plain_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Equation 2: six padded passes through one block, and the contrastive losses of their embeddings."""
    import torch

    tokens, masks, present = _plain_tokens(model, batch)
    vectors = {}
    for size in (1, 2):
        for names in combinations(MODALITIES, size):
            x = torch.cat([tokens[name] for name in names], dim=1)
            mask = torch.cat([masks[name] for name in names], dim=1)
            for block in model.fusion.blocks:
                x = _plain_block(block, x, mask)
            outputs = x.split([tokens[name].shape[1] for name in names], dim=1)
            projected = [
                _gated(getattr(model, f"{name}_proj"), _mean(output, masks[name]))
                for name, output in zip(names, outputs, strict=True)
            ]
            vectors["+".join(names)] = projected[0] if size == 1 else sum(map(_unit, projected)) / 2
    return _plain_contrast(vectors, present, model.config)


def _plain_tokens(model: Any, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    import torch
    from torch.nn import functional

    tokens, masks, present = {}, {}, {}
    for name in MODALITIES:
        values, mask = batch[name]
        if name == "audio":
            values = model.davenet(values, mask)
            mask = functional.max_pool1d(mask.float()[:, None], model.audio_stride)[:, 0].bool()
        x = getattr(model, f"{name}_norm_layer")(_gated(getattr(model, f"{name}_token_proj"), values))
        present[name] = mask.any(dim=1)
        stood_in = ~present[name][:, None] & (torch.arange(mask.shape[1], device=mask.device) == 0)
        tokens[name] = torch.where(stood_in[..., None], model.fusion.masking_token.to(x.dtype), x)
        masks[name] = mask | stood_in
    return tokens, masks, present


def _plain_block(block: Any, x: Any, mask: Any) -> Any:
    from torch.nn import functional

    q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    x = x + block.attn.proj(attended.transpose(1, 2).flatten(2))
    return x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))


def _gated(unit: Any, x: Any) -> Any:
    y = unit.fc(x)
    return y * unit.cg.fc(y).sigmoid()


def _mean(x: Any, mask: Any) -> Any:
    return (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _unit(x: Any) -> Any:
    return x.float() / x.float().norm(dim=1, keepdim=True).clamp(min=1e-8)


def _plain_contrast(vectors: dict[str, Any], present: dict[str, Any], config: Any) -> Any:
    import torch
    from torch.nn import functional

    total, weights = torch.zeros((), device=vectors["text"].device), 0.0
    for (x, y), weight in config.loss_weights().items():
        rows = torch.stack([present[name] for name in {*x.split("+"), *y.split("+")}]).all(dim=0)
        scores = _unit(vectors[x][rows]) @ _unit(vectors[y][rows]).T / config.temperature
        answers = torch.arange(len(scores), device=scores.device)
        both = functional.cross_entropy(scores, answers) + functional.cross_entropy(scores.T, answers)
        total, weights = total + weight * both, weights + weight
    return total / weights


# What the equations ask for


def _work(model: Any, batch: dict[str, Any]) -> tuple[int, float]:
    """Real tokens in six passes, and floating-point operations of a step: two a multiplication, three times over."""
    config, width = model.config, model.config.width
    lengths = {name: batch[name].mask.sum(dim=1).double().cpu() for name in MODALITIES}
    lengths["audio"] = (lengths["audio"] / model.audio_stride).ceil()
    widths = config.token_widths()
    products = sum(float(lengths[name].sum()) * width * (widths[name] + width) for name in MODALITIES)
    num_tokens = 0.0
    for size in (1, 2):
        for names in combinations(MODALITIES, size):
            length = sum(lengths[name] for name in names)
            num_tokens += float(length.sum())
            linear = width * width * (4 + 2 * config.mlp_ratio)
            products += config.depth * float((length * linear + 2 * length**2 * width).sum())
            products += size * len(length) * config.projection_dim * (width + config.projection_dim)
    products += _audio_products(model, batch["audio"].mask.shape)
    return int(num_tokens), 6.0 * products


def _audio_products(model: Any, shape: tuple[int, int]) -> float:
    num_clips, num_frames = shape
    products = float(model.davenet.conv1.weight.numel() * num_frames)
    for stage in range(1, model.davenet.num_stages + 1):
        num_frames = -(-num_frames // 2)
        kernels = [p for p in getattr(model.davenet, f"layer{stage}").parameters() if p.ndim == 4]
        products += num_frames * sum(kernel.numel() for kernel in kernels)
    return num_clips * products


# What comes out


def _check_losses(lines: list[dict[str, Any]]) -> None:
    """Fail where a side's first loss is not the plain one's. bfloat16 has other numbers."""
    by_name = {line["name"]: line["losses"][0] for line in lines if "bf16" not in line["name"]}
    plain = by_name.get("plain")
    wrong = {name: loss for name, loss in by_name.items() if plain and abs(loss / plain - 1) > TOLERANCE}
    on_gpu = "--device" in sys.argv and "cuda" in sys.argv
    if wrong and not on_gpu:
        sys.exit(f"the loss of the first step is {plain} for plain, and {wrong}")


def _about() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "allocator": ALLOCATOR,
        "command": " ".join(["python", "tests/benchmarks/train_eao.py", *_told(sides=True)]),
    }


def _told(*, sides: bool = False) -> list[str]:
    """The arguments that decide what is measured; not where it is saved, nor, unless asked, the sides."""
    told, keep = [], True
    for word in sys.argv[1:]:
        if word.startswith("--"):
            keep = word != "--save" and (sides or word != "--sides")
        if keep:
            told.append(word if " " not in word else f'"{word}"')
    return told


def _show(lines: list[dict[str, Any]], *, peak_tflops: float) -> None:
    if len(lines) == 1:
        heads = ["s a step", "times", "CPU s", "times", "GB", "tokens/s", "GFLOP/s", "of peak"]
        widths = [9, 6, 7, 6, 6, 10, 9, 8]
        print(" " * 18, *(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)), " first loss")
    line, first = lines[-1], lines[0]
    speed = line["gflop"] / line["seconds"]
    peak = f"{speed / peak_tflops / 1e3:8.1%}" if peak_tflops else f"{'':8}"
    print(
        f"{line['name']:18} {line['seconds']:9.2f} {first['seconds'] / line['seconds']:6.2f} "
        f"{line['cpu_seconds']:7.2f} {first['cpu_seconds'] / line['cpu_seconds']:6.2f} {line['memory_gb']:6.2f} "
        f"{line['tokens_of_six_passes'] / line['seconds']:10,.0f} {speed:9,.0f} {peak}  {line['losses'][0]:.7f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
