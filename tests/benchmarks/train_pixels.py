"""Training from pixels: steps of five models, what rolling costs, what the loader delivers.

    python tests/benchmarks/train_pixels.py loader CLIPS [--frames 4] [--seconds 8] [--rate 2] [--rounds 5]
    python tests/benchmarks/train_pixels.py step miles|all_in_one|clover|vindlu|t2v2t [--clips 2] [--steps 2]
    python tests/benchmarks/train_pixels.py rolling [--clips 1] [--rounds 5]
    python tests/benchmarks/train_pixels.py fusion [--frames 12 32] [--rounds 3]
    python tests/benchmarks/train_pixels.py direction miles|all_in_one [--size 32] [--patch 8] [--seconds 1] [--fps 8]
        [--std 0.5] [--rate 1e-3] [--steps 400] [--clips 800] [--temporal roll|flatten|none]

`step`: forward, loss, backward and optimiser at the published size: 4 frames of 224 pixels and 30 word pieces (MILES),
3 frames and 40 (All-in-one B), 8 frames and 30 (Clover), 4 frames and 32 (VindLU, T2V2T); nothing dropped. Each side in
a process of its own, up to 14 GB, the first step not counted; "CPU s" are those of all threads, which a busy machine
changes less than the clock.

    plain        `plain_steps.py`: the passes of the authors' step, attention written out, torch's products and AdamW
    ours         SDPA, or single products where it is slow, what is read alone, one pass over complete and masked,
                 AdamW(fused=True), products by oneDNN where the processor has AVX-512
    ours, bf16   the same under autocast to bfloat16: other numbers

"off" is how far the losses of the first and of the last step are from plain's, as a share. That of the first step is at
most 1e-5 on a processor in fp32, or the benchmark fails. Memory is the most that the process held. Operations are those
of loss and backward by torch's counter: their ratio is what can be won where products take all the time.

`rolling`: the joint pass of All-in-one B, forward and backward, with rolling, without, and with all frames in one
sequence; rounds are interleaved. And the operations of one forward pass, by torch's counter (a multiplication and an
addition are two).

`fusion`: the three rounds of T2V2T's joint encoder over one pair, forward and backward, against three layers of
self-attention over text and patches together, as attention of torch does it (no matrix of scores is kept); rounds are
interleaved. Operations are those of forward, memory is what autograd keeps for backward.

`direction`: whether the smallest model can learn the direction of motion from four frames: clips of the laboratory with
labels, 200 others to judge, chance 25 %. It is what studies of time need before their tables mean anything.

`loader`: training batches of T frames at 224, drawn from equal segments of each clip, cropped, scaled; in one thread.
Ours reads them from tar shards of JPEG at 256 pixels, every byte compared with its checksum. "decoding anew" opens each
video with PyAV, seeks once to the key frame before the first wanted instant and decodes on to the last, scaling only
those that are wanted (a seek for each is slower here). Both take as many frames of the same clips and crop alike.
Frames a second, the median of interleaved rounds, and what was paid once to write the shards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SIZE, STORED = 224, 256
SIDES = ["plain", "ours", "ours, bf16"]
FRAMES = {"miles": 4, "all_in_one": 3, "clover": 8, "vindlu": 4, "t2v2t": 4}
WORDS = {"miles": 30, "all_in_one": 40, "clover": 30, "vindlu": 32, "t2v2t": 32}
UNDROPPED: dict[str, dict[str, Any]] = {
    "miles": {"warmup_epochs": 0, "text_dropout": 0.0},
    "all_in_one": {"dropout": 0.0, "drop_path": 0.0},
    "clover": {"dropout": 0.0, "drop_path": 0.0, "word_masking": "random"},
    "vindlu": {"num_frames": 4},  # in evaluation mode, which drops nothing, as T2V2T
    "t2v2t": {"num_frames": 4},
}
TOLERANCE = 1e-5
PAPER_GFLOPS = 58.7
Clip = tuple[Path, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    loader = parts.add_parser("loader")
    loader.add_argument("clips", type=Path)
    for name, default in (("frames", 4), ("seconds", 8), ("rate", 2), ("rounds", 5)):
        loader.add_argument(f"--{name}", type=int, default=default)
    loader.set_defaults(run=measure_loader)
    step = parts.add_parser("step")
    step.add_argument("model", choices=sorted(FRAMES))
    step.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    step.add_argument("--side", choices=SIDES, help="measure one here, and print it as JSON")
    for name, default in (("clips", 2), ("steps", 2), ("threads", 1)):
        step.add_argument(f"--{name}", type=int, default=default)
    step.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    step.set_defaults(run=measure_steps)
    rolling = parts.add_parser("rolling")
    for name, default in (("clips", 1), ("rounds", 5), ("threads", 1)):
        rolling.add_argument(f"--{name}", type=int, default=default)
    rolling.set_defaults(run=measure_rolling)
    fusion = parts.add_parser("fusion")
    fusion.add_argument("--frames", type=int, nargs="+", default=[12, 32])
    fusion.add_argument("--rounds", type=int, default=3)
    fusion.set_defaults(run=measure_fusion)
    direction = parts.add_parser("direction")
    direction.add_argument("model", choices=["miles", "all_in_one"])
    for name, default in (("size", 32), ("patch", 8), ("fps", 8), ("steps", 400), ("clips", 800), ("batch", 64)):
        direction.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("seconds", 1.0), ("std", 0.5), ("rate", 1e-3)):
        direction.add_argument(f"--{name}", type=float, default=value)
    direction.add_argument("--temporal", choices=["roll", "flatten", "none"], default="roll")
    direction.set_defaults(run=learn_direction)
    given = parser.parse_args()
    given.run(given)


def learn_direction(given: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from frameloom.fuse import Tokens, create_model
    from frameloom.workflows.laboratory import ATTRIBUTES, render_frames

    torch.set_num_threads(1)
    torch.manual_seed(0)
    names, judged, num_frames = list(ATTRIBUTES["direction"].values), 200, round(given.seconds * given.fps)

    def clip(number: int) -> tuple[Any, int]:
        draw = np.random.default_rng((7, number))
        traits = {name: attribute.resting for name, attribute in ATTRIBUTES.items()}
        for name in ("direction", "order", "background"):
            traits[name] = str(draw.choice(list(ATTRIBUTES[name].values)))
        frames = list(render_frames(traits, size=given.size, num_frames=num_frames, fps=given.fps, rng=draw))
        return np.stack(frames[:: num_frames // 4][:4]), names.index(traits["direction"])

    drawn = [clip(number) for number in range(given.clips + judged)]
    video = torch.from_numpy(np.stack([frames for frames, _ in drawn])).permute(0, 1, 4, 2, 3).contiguous()
    labels = torch.tensor([label for _, label in drawn])
    sizes = {"image_size": given.size, "patch_size": given.patch, "num_frames": 4, "width": 64, "depth": 2, "heads": 2}
    sizes |= {"vocab_size": 200, "max_words": 8, "projection_dim": 64, "temporal_std": given.std}
    if given.model == "miles":
        small = {"text_width": 64, "text_depth": 1, "text_heads": 2, "text_hidden": 128}
        model = create_model("miles", target="none", **small, **sizes)
    else:
        model = create_model("all_in_one", temporal=given.temporal, dropout=0.0, drop_path=0.0, **sizes)
    head = torch.nn.Linear(64, len(names))

    def scores(frames: Any) -> Any:
        clips = Tokens(frames, torch.ones(frames.shape[:2]))
        if given.model == "miles":
            return head(model.embed("video", model.given({"video": clips})["video"]))
        sentence = Tokens(torch.tensor([[101, 1, 102]]).expand(len(frames), -1), torch.ones(len(frames), 3))
        return head(model.joint(**model.given({"text": sentence, "video": clips})))

    trained = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=given.rate, weight_decay=0.05)
    curve = [
        min(1.0, (n + 1) / 30) * max(0.05, 0.5 * (1 + math.cos(math.pi * n / given.steps))) for n in range(given.steps)
    ]
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: curve[min(number, given.steps - 1)])
    order, begun = torch.Generator().manual_seed(0), time.process_time()
    for step in range(1, given.steps + 1):
        rows = torch.randint(given.clips, (given.batch,), generator=order)
        loss = torch.nn.functional.cross_entropy(scores(video[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        if step % 100 == 0 or step == given.steps:
            with torch.no_grad():
                right = (scores(video[given.clips :]).argmax(dim=1) == labels[given.clips :]).float().mean()
            seconds = time.process_time() - begun
            print(f"{step:5} steps  loss {loss:.3f}  right {right:.1%} of {judged}  {seconds:.0f} CPU s", flush=True)


def measure_loader(given: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        clips, stored = write_shards(Path(folder), given.clips, seconds=given.seconds, rate=given.rate)
        once = time.perf_counter() - begun
        num_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*.tar"))
        epochs = {
            "loader": partial(ours, Path(folder), stored, given.frames),
            "decoding anew": partial(anew, clips, given.frames),
        }
        rates = rounds(epochs, given.rounds)
    files = {path for path, _, _ in clips}
    print(
        f"{len(clips)} clips of {len(files)} videos; shards of {num_bytes / 1e6:.1f} MB, written once in {once:.1f} s"
    )
    for name, each in rates.items():
        print(f"  {name:14} {statistics.median(each):8.1f} frames/s   {[round(one, 1) for one in each]}")
    ratios = [one / other for one, other in zip(rates["loader"], rates["decoding anew"], strict=True)]
    print(f"  ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def rounds(epochs: dict[str, Callable[[int], Iterator[int]]], number: int) -> dict[str, list[float]]:
    """Frames a second of each epoch; the first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for epoch in range(number + 1):
        for name, frames in epochs.items():
            begun = time.perf_counter()
            count = sum(frames(epoch))
            if epoch:
                rates[name].append(count / (time.perf_counter() - begun))
    return rates


def write_shards(root: Path, folder: Path, *, seconds: int, rate: int) -> tuple[list[Clip], list[Any]]:
    """Decode every video once; its windows as files and spans, and as stored clips."""
    from frameloom.extract import create_backbone, extract_files
    from frameloom.store import FeatureStore, Sample, feature_fingerprint
    from frameloom.train.data import FrameClip

    backbone = create_backbone("pixels", rate_hz=float(rate), size=STORED, frames="jpeg")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mp4", ".webm", ".mkv", ".mov"))
    clips: list[Clip] = []
    stored, store = [], FeatureStore(root)
    for first in range(0, len(paths), 8):
        samples = []
        for path, found in zip(
            paths[first : first + 8], extract_files(paths[first : first + 8], [backbone]), strict=True
        ):
            feature = found["pixels"]
            if not len(feature.values):
                continue
            name = str(path.relative_to(folder))
            fingerprint = feature_fingerprint(name, backbone.spec, "none")
            samples.append(Sample(key=name, source_digest=name, fingerprint=fingerprint, feature=feature))
            end = float(feature.times[-1, 1])
            for number in range(max(1, int(end // seconds))):
                span = (number * float(seconds), min(end, (number + 1) * float(seconds)))
                clips.append((path, *span))
                stored.append(
                    FrameClip(clip=f"{name} {number}", frames=fingerprint, start_seconds=span[0], end_seconds=span[1])
                )
        if samples:
            store.write_shard("pixels", samples, spec=backbone.spec, format="webdataset")
    return clips, stored


def ours(root: Path, stored: list[Any], num_frames: int, epoch: int) -> Iterator[int]:
    from frameloom.train.data import FrameLoader, FrameOptions

    options = FrameOptions(training=True, size=SIZE, num_frames=num_frames)
    loader = FrameLoader(root, stored, options=options, batch_size=8)
    loader.set_epoch(epoch)
    for batch in loader:
        yield int(batch.num_frames.sum())


def anew(clips: list[Clip], num_frames: int, epoch: int) -> Iterator[int]:
    import av
    import numpy as np
    import torch
    from frameloom.train.data.frame_shards import random_crop
    from torchvision.transforms.v2 import functional

    for number in np.random.default_rng(epoch).permutation(len(clips)).tolist():
        path, start, end = clips[number]
        draw = np.random.default_rng((epoch, number))
        edges = np.linspace(start, end, num_frames + 1)
        wanted = [float(draw.uniform(a, b)) for a, b in itertools.pairwise(edges)]
        pictures = []
        with av.open(str(path)) as media:
            stream = media.streams.video[0]
            stream.thread_type = "NONE"
            media.seek(int(wanted[0] / stream.time_base), stream=stream, backward=True)
            half_seconds, left_over = 0.5 / float(stream.average_rate or 25), list(wanted)
            for frame in media.decode(stream):
                last = frame
                while left_over and frame.time >= left_over[0] - half_seconds:
                    pictures.append(square(frame))
                    left_over.pop(0)
                if not left_over:
                    break
            pictures += [square(last)] * len(left_over)
        clip = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        top, left, height, width = random_crop(draw, STORED, 0.5, 4 / 3)
        clip = functional.resize(clip[:, :, top : top + height, left : left + width], [SIZE, SIZE], antialias=True)
        yield len(clip)


def square(frame: Any) -> Any:
    """The middle square of a decoded frame, its short side scaled to what is stored."""
    scale = STORED / min(frame.width, frame.height)
    sized = frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24").to_ndarray()
    top, left = (sized.shape[0] - STORED) // 2, (sized.shape[1] - STORED) // 2
    return sized[top : top + STORED, left : left + STORED]


def measure_steps(given: argparse.Namespace) -> None:
    if given.side:
        print(json.dumps(one_side(given)))
        return
    import torch

    shared = [f"--{name}={getattr(given, name)}" for name in ("clips", "steps", "threads", "device")]
    print(
        f"{given.model}, {given.clips} clips, {given.threads} threads;"
        f" torch uses {torch.backends.cpu.get_cpu_capability()},"
        f" bfloat16 by oneDNN: {torch.ops.mkldnn._is_mkldnn_bf16_supported()}"
    )
    lines = []
    for side in given.sides:
        command = [sys.executable, __file__, "step", given.model, "--side", side, *shared]
        lines.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        one, first = lines[-1], lines[0]
        off = [abs(a - b) / abs(b) for a, b in zip(one["losses"], first["losses"], strict=True)]
        print(
            f"{side:12} {one['seconds']:7.2f} s {one['cpu_seconds']:7.2f} CPU s {one['memory_gb']:6.1f} GB"
            f" {first['cpu_seconds'] / one['cpu_seconds']:5.2f} x  {one['gflop']:6.0f} GFLOP"
            f" ({first['gflop'] / one['gflop']:.2f} x)  loss {one['losses'][0]:.5f}"
            f" (off {off[0]:.1e}, {off[-1]:.1e} after {given.steps} steps)",
            flush=True,
        )
    losses = {one["side"]: one["losses"][0] for one in lines}
    if given.device == "cpu" and {"plain", "ours"} <= losses.keys():
        off = abs(losses["ours"] - losses["plain"]) / abs(losses["plain"])
        if off > TOLERANCE:
            sys.exit(f"the losses of the first step differ by {off:.1e} of plain's; at most {TOLERANCE:g} is rounding")


def one_side(given: argparse.Namespace) -> dict[str, Any]:
    """One side of a step, in its process."""
    import torch
    from frameloom.fuse import create_model
    from plain_steps import PLAIN_LOSSES, plain_parts, plain_products
    from torch.utils.flop_counter import FlopCounterMode

    side, device = given.side, torch.device(given.device)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = create_model(given.model, **UNDROPPED[given.model]).to(device).train(given.model not in ("vindlu", "t2v2t"))
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, **({} if side == "plain" else {"fused": True}))
    seconds, cpu_seconds, losses = [], [], []

    def backward(batch: dict[str, Any]) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=side == "ours, bf16"):
            plain = PLAIN_LOSSES.get(given.model) if side == "plain" else None
            loss = model.loss(batch)[0] if plain is None else plain(model, batch)
        loss.backward()
        return loss

    with plain_parts() if side == "plain" else nullcontext():
        for number in range(given.steps + 1):
            batch = noise(given.model, given.clips, seed=number, device=device)
            begun, cpu_begun = now(device), time.process_time()
            loss = backward(batch)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(now(device) - begun)
            cpu_seconds.append(time.process_time() - cpu_begun)
            losses.append(loss.item())
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else held
        with FlopCounterMode(display=False) as counter, plain_products():
            backward(batch)
    return {
        "side": side,
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "losses": losses,
        "gflop": counter.get_total_flops() / 1e9,
        "memory_gb": peak / 1e9,
    }


def now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def noise(model: str, num_clips: int, *, seed: int, device: Any) -> dict[str, Any]:
    """Clips of noise, and texts of random word pieces."""
    import torch
    from frameloom.fuse import Tokens

    generator = torch.Generator().manual_seed(seed)
    shape = (num_clips, FRAMES[model], 3, SIZE, SIZE)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ids = torch.randint(1000, 30_000, (num_clips, WORDS[model]), generator=generator)
    made = {"text": (ids, torch.ones_like(ids)), "video": (video, torch.ones(shape[:2]))}
    return {name: Tokens(*(part.to(device) for part in parts)) for name, parts in made.items()}


def measure_rolling(given: argparse.Namespace) -> None:
    import torch
    from frameloom.fuse import create_model
    from plain_steps import plain_products
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(given.threads)
    models = {}
    for how in ("none", "roll", "flatten"):
        torch.manual_seed(0)
        models[how] = create_model("all_in_one", temporal=how, dropout=0.0, drop_path=0.0, contrast_weight=0.0)
    batch = noise("all_in_one", given.clips, seed=0, device=torch.device("cpu"))

    def both_ways(model: Any) -> None:
        model.joint(**model.given(batch)).sum().backward()
        model.zero_grad()

    cpu_seconds = in_turns({how: partial(both_ways, model) for how, model in models.items()}, given.rounds)
    for how, model in models.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad(), plain_products():
            model.joint(**model.given(noise("all_in_one", 1, seed=0, device=torch.device("cpu"))))
        ratios = [one / other for one, other in zip(cpu_seconds[how], cpu_seconds["none"], strict=True)]
        operations = counter.get_total_flops() / 1e9
        print(
            f"{how:8} {statistics.median(cpu_seconds[how]):6.2f} CPU s, {statistics.median(ratios):.2f} of none"
            f" ({min(ratios):.2f} to {max(ratios):.2f}); forward {operations:.1f} GFLOP, {operations / 2:.1f} G"
            f" multiplications and additions; the paper says {PAPER_GFLOPS} GFLOPs"
        )


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The CPU seconds of each side in every turn; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            begun = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - begun)
    return seconds


def measure_fusion(given: argparse.Namespace) -> None:
    import torch
    from frameloom.fuse.layers import BertEncoder, BertSpec
    from frameloom.fuse.t2v2t.fusion import FusionLayer, FusionSpec, fuse
    from plain_steps import plain_products
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds, most = ("bypass", "naive", "unidirectional"), "joint self-attention"
    layers = {kind: [FusionLayer(FusionSpec(kind=kind)).eval() for _ in range(3)] for kind in kinds}
    together = BertEncoder(BertSpec(depth=3)).eval()

    def forward(kind: str, text: Any, frames: Any) -> Any:
        if kind == most:
            return together(torch.cat([text, frames.flatten(1, 2)], dim=1))[:, : text.shape[1]]
        masks = {"text_mask": torch.ones(1, 32), "frame_mask": torch.ones(frames.shape[:2])}
        return fuse(layers[kind], text, frames, **masks)[-1].text

    def both_ways(*what: Any) -> None:
        forward(*what).sum().backward()

    for num_frames in given.frames:
        text = torch.randn(1, 32, 768, requires_grad=True)
        frames = torch.randn(1, num_frames, 196, 768, requires_grad=True)
        flops, kept = {}, {}
        for kind in (*kinds, most):
            with FlopCounterMode(display=False) as counter, plain_products(), torch.no_grad():
                forward(kind, text.detach(), frames.detach())
            storages: dict[int, int] = {}

            def keep(tensor: Any, storages: dict[int, int] = storages) -> Any:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                forward(kind, text, frames)
            flops[kind], kept[kind] = counter.get_total_flops() / 1e9, sum(storages.values()) / 1e9
        seconds = in_turns({kind: partial(both_ways, kind, text, frames) for kind in (*kinds, most)}, given.rounds)
        print(f"{num_frames} frames, {num_frames * 196} patches and 32 words")
        for kind in (*kinds, most):
            faster = statistics.median(a / b for a, b in zip(seconds[most], seconds[kind], strict=True))
            print(
                f"  {kind:22} {flops[kind]:8.1f} GFLOP ({flops[most] / flops[kind]:5.2f} times fewer)"
                f"  {statistics.median(seconds[kind]):6.2f} CPU s ({faster:5.2f} times faster)"
                f"  {kept[kind]:6.2f} GB kept ({kept[most] / kept[kind]:5.2f} times less)",
                flush=True,
            )


if __name__ == "__main__":
    main()
