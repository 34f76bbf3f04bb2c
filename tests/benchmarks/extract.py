"""How fast extraction is: against the usual loop, and against what the models alone would take, on a folder's files.

    python tests/benchmarks/extract.py CLIPS [--measure NAME ...] [--rounds 5] [--threads 2] [--save RESULTS.json]

Everything is measured in one run, each measurement in a process of its own, one after another, on the same cores.
Measurements are interleaved: a round has each of them once, ratios are taken within a round, and the median over the
rounds is printed with the smallest and the largest. Seconds are those of the work, without start and building the
networks; those of the command are of the whole command. Without CLIPS it uses a small world of the laboratory.

    loop      resnet152 as it is usually run: contiguous float32, one video at a time, decoded for it alone, in the
              environment of a user (`loop`), and with the allocator set to keep freed memory (`loop_kept`). Against it
              what a user calls, in the environment of a user: README's snippet in float32 and in bfloat16, and the
              command `frameloom extract` with as many workers as there are cores
    once      resnet152 + resnext101_3d + s3d_howto100m + logmel_avlnet through one call, against the sum of the models'
              pure forward passes on batches that are already decoded and prepared
    tiny      the tiny siblings of these four, together and one after another: here decoding is what costs
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
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

FOUR = ["resnet152", "resnext101_3d", "s3d_howto100m", "logmel_avlnet"]
TINY = ["test_resnet", "test_resnet3d", "test_s3d", "logmel_avlnet"]
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts"}
MEASURES = ["loop", "once", "tiny"]
# Of a user nothing is set; the others run as a worker of the command does.
OF_A_USER = ("loop", "snippet_fp32", "snippet_bf16", "command_fp32", "command_bf16")


def main() -> None:
    arguments = _arguments()
    if arguments.one is not None:
        print(json.dumps(ONE[arguments.one](arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        clips = arguments.clips or _laboratory(Path(scratch))
        results = {"about": _about(clips, arguments.threads)}
        names = [name for measure in arguments.measure for name in PARTS[measure]]
        rounds = [
            {name: _measure(name, clips, arguments.threads, Path(scratch)) for name in names}
            for _ in range(arguments.rounds)
        ]
        results["measured"] = rounds[-1]
        results["seconds"] = {name: [one[name]["seconds"] for one in rounds] for name in names}
        results["processor_seconds"] = {name: [one[name]["processor_seconds"] for one in rounds] for name in names}
        results["deviations"] = dict(_deviations(Path(scratch)))
    results["ratios"] = _over_rounds([dict(_ratios(one, "seconds")) for one in rounds])
    results["ratios_of_processor_seconds"] = _over_rounds([dict(_ratios(one, "processor_seconds")) for one in rounds])
    _show(results)
    if arguments.save:
        arguments.save.write_text(json.dumps(results, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="?", type=Path)
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--one", choices=sorted(ONE), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(name: str, clips: Path, threads: int, scratch: Path) -> dict[str, Any]:
    from frameloom.workflows.sync.cluster import WORKER_ENVIRONMENT

    environment = dict(os.environ) if name in OF_A_USER else {**os.environ, **WORKER_ENVIRONMENT}
    if name not in OF_A_USER:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    command = [sys.executable, __file__, str(clips), "--one", name, "--threads", str(threads), "--out", str(scratch)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = json.loads(done.stdout)
    found["processor_seconds"] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"{name:12} {found['seconds']:8.1f} s, {found['processor_seconds']:8.1f} s of a core", file=sys.stderr)
    return found


def _files(clips: Path) -> list[Path]:
    return sorted(path for path in clips.rglob("*") if path.suffix.lower() in SUFFIXES)


def _backbones(names: list[str], **options: Any) -> list[Any]:
    from frameloom.extract import create_backbone

    return [create_backbone(name, **({} if name == "logmel_avlnet" else options)) for name in names]


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


# One measurement each, in a process of its own.


def _loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Contiguous float32, one video at a time, decoded for this backbone alone, in the same process."""
    import timm
    import torch
    from frameloom.extract import backbone_spec
    from frameloom.extract.backbones.resnet import ResNet
    from frameloom.extract.networks import seeded_network

    _set_threads(arguments.threads)
    assert timm
    network = seeded_network(lambda: ResNet.random_network(backbone_spec("resnet152")), seed=0).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features, begun = {}, time.perf_counter()
    for path in _files(arguments.clips):
        pictures = np.stack(list(_one_a_second(path)))
        frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)
        with torch.inference_mode():
            features[path.name] = torch.cat([network(part) for part in frames.split(64)]).numpy()
    seconds = time.perf_counter() - begun
    np.savez(arguments.out / "loop.npz", **features)
    return {"seconds": seconds, "rows": sum(map(len, features.values()))}


def _one_a_second(path: Path) -> Iterator[np.ndarray]:
    """The frame on display at the middle of each second, scaled; by PyAV, as simply as can be."""
    import av
    from frameloom.extract.decode.video import _SCALING, scaled_size

    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda video: video.width * video.height)
        has_pts = container.format.name != "avi"
        stream.codec_context.thread_count = len(os.sched_getaffinity(0))
        aspect = stream.sample_aspect_ratio or Fraction(1)
        held, cell = None, 0
        zero = min(s.start_time * s.time_base for s in (*container.streams.video, *container.streams.audio))
        for frame in container.decode(stream):
            ticks = frame.pts if has_pts else frame.dts
            if ticks is None:  # the last ones of an AVI
                assert held is not None
                start = held[0] + float(1 / stream.average_rate)
            else:
                start = float(ticks * frame.time_base - zero)
            while held is not None and cell + 0.5 < start:
                if cell + 0.5 >= held[0]:
                    yield _scaled(held[1], aspect, scaled_size, _SCALING)
                cell += 1
            held, end = (start, frame), start + float((frame.duration or 0) * frame.time_base)
        assert held is not None
        while cell + 0.5 < max(end, held[0]):
            yield _scaled(held[1], aspect, scaled_size, _SCALING)
            cell += 1
        if cell == 0:
            yield _scaled(held[1], aspect, scaled_size, _SCALING)


def _scaled(frame: Any, aspect: Fraction, scaled_size: Callable[..., tuple[int, int]], how: Any) -> np.ndarray:
    from frameloom.extract.decode.video import orientation_of, upright

    orientation = orientation_of(frame)
    width, height = float(frame.width * aspect), float(frame.height)
    size = scaled_size(*((height, width) if orientation.swap else (width, height)), 224)
    size = size[::-1] if orientation.swap else size
    small = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation=how)
    return upright(small.to_ndarray(), orientation)


def _ours(names: list[str], **options: Any) -> Callable[[argparse.Namespace], dict[str, Any]]:
    def measure(arguments: argparse.Namespace) -> dict[str, Any]:
        from frameloom.extract import Decoder, extract_files
        from frameloom.extract.windows import Stopwatch

        _set_threads(arguments.threads)
        files, backbones, watch = _files(arguments.clips), _backbones(names, dtype="float32", **options), Stopwatch()
        prepared = _time_preparing(backbones)
        with Decoder() as decoder:
            begun = time.perf_counter()
            found = extract_files(files, backbones, decoder=decoder, stopwatch=watch)
            extracted = time.perf_counter() - begun
            decoding = _processor_seconds(decoder.pid)
            written = _write(arguments.out, backbones, found)
        usable = sum(f[names[0]].status.value == "ok" for f in found)
        models = {name: seconds - prepared.get(name, 0.0) for name, seconds in (watch.visual | watch.audio).items()}
        preprocessing = sum(prepared.values())
        shares = {"waiting for decode": watch.waiting, "preprocess": preprocessing, **models, "write": written}
        shares["rest"] = extracted + written - sum(shares.values())
        return {
            "seconds": extracted,
            "files_ok": usable,
            "videos_per_second": len(files) / extracted,
            "frames_per_second": watch.num_frames / extracted,
            "seconds_by_stage": shares,
            "decode_processor_seconds": decoding,
            "rows": {name: sum(len(f[name].values) for f in found) for name in names},
        }

    return measure


def _snippet(save: str, **options: Any) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """What README shows, and nothing else: `extract_files` on a list of files."""

    def measure(arguments: argparse.Namespace) -> dict[str, Any]:
        from frameloom.extract import create_backbone, extract_files

        _set_threads(arguments.threads)
        files, backbone = _files(arguments.clips), create_backbone("resnet152", dtype="float32", **options)
        begun = time.perf_counter()
        found = extract_files(files, [backbone])
        seconds = time.perf_counter() - begun
        values = {path.name: one["resnet152"].values for path, one in zip(files, found, strict=True)}
        np.savez(arguments.out / f"{save}.npz", **values)
        return {"seconds": seconds, "rows": sum(map(len, values.values()))}

    return measure


def _command(**options: Any) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """`frameloom extract` on a project of these files, from its start to its end, shards included."""

    def measure(arguments: argparse.Namespace) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            config = {
                "collection": {"videos": str(arguments.clips.absolute())},
                "features": {"video": {"backbone": "resnet152", "options": options}, "audio": None, "text": None},
            }
            (Path(folder) / "frameloom.yaml").write_text(json.dumps(config))
            begun = time.perf_counter()
            command = [sys.executable, "-m", "frameloom", "extract", "-c", f"{folder}/frameloom.yaml", "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            seconds = time.perf_counter() - begun
        assert done.returncode in (0, 3), done.stdout
        return {"seconds": seconds}

    return measure


def _time_preparing(backbones: list[Any]) -> dict[str, float]:
    """Time how long every network takes to make pixels its input. The mapping that is returned grows."""
    seconds: dict[str, float] = {}

    def timed(name: str, prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def prepare_timed(frames: Any) -> Any:
            begun = time.perf_counter()
            inputs = prepare(frames)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begun
            return inputs

        return prepare_timed

    for backbone in backbones:
        if hasattr(backbone, "prepare"):
            backbone.prepare = timed(backbone.spec.name, backbone.prepare)
    return seconds


def _processor_seconds(pid: int) -> float:
    """What a process has taken of the processors so far; the decoder works beside the models."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write(folder: Path, backbones: list[Any], found: list[dict[str, Any]]) -> float:
    from frameloom.store import FeatureStore, Sample

    begun = time.perf_counter()
    for backbone in backbones:
        name = backbone.spec.name
        samples = [
            Sample(key=str(i), source_digest=str(i), fingerprint=f"{name}{i}", feature=features[name])
            for i, features in enumerate(found)
        ]
        FeatureStore(folder / f"store-{os.getpid()}").write_shard(name, samples, spec=backbone.spec)
    return time.perf_counter() - begun


def _pure(name: str, **options: Any) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """The network alone, on batches that are decoded and prepared before the clock starts."""

    def measure(arguments: argparse.Namespace) -> dict[str, Any]:
        import torch
        from frameloom.extract.windows.windows import stacked

        _set_threads(arguments.threads)
        (backbone,) = _backbones([name], **options)
        precision = getattr(torch, backbone.spec.precision)
        seconds, rows = 0.0, 0
        for windows in _full_batches(backbone, _files(arguments.clips)):
            frames = torch.from_numpy(stacked(windows))
            with torch.inference_mode(), torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
                inputs = backbone.prepare(frames)
                if not rows:
                    backbone.embed(inputs)  # the first call chooses algorithms
                begun = time.perf_counter()
                backbone.embed(inputs)
                seconds += time.perf_counter() - begun
            rows += len(windows)
        return {"seconds": seconds, "rows": rows}

    return measure


def _full_batches(backbone: Any, files: list[Path]) -> Iterator[list[Any]]:
    from frameloom.extract import Decoder
    from frameloom.extract.decode import FramesChunk
    from frameloom.extract.pipeline import frames_wanted
    from frameloom.extract.windows.windows import WindowCutter

    waiting: dict[tuple[int, ...], list[Any]] = {}
    with Decoder() as decoder:
        for path in files:
            cutter = WindowCutter(backbone.windows)
            windows: list[Any] = []
            for event in decoder.decode(path, frames=[frames_wanted(backbone.spec)]):
                if isinstance(event, FramesChunk):
                    windows += cutter.push(event.frames)
            for window in [*windows, *cutter.finish()]:
                shape = window.picture_shape
                waiting.setdefault(shape, []).append(window)
                if len(waiting[shape]) == backbone.batch_windows(shape):
                    yield waiting.pop(shape)
    yield from waiting.values()


def _pure_sound(arguments: argparse.Namespace) -> dict[str, Any]:
    from frameloom.extract import DecodedAudio, Decoder
    from frameloom.extract.decode import AudioWanted, SamplesChunk

    _set_threads(arguments.threads)
    (backbone,) = _backbones(["logmel_avlnet"])
    seconds, rows = 0.0, 0
    with Decoder() as decoder:
        for path in _files(arguments.clips):
            events = decoder.decode(path, audio=AudioWanted(16_000))
            samples = [event.samples for event in events if isinstance(event, SamplesChunk)]
            if samples:
                track = DecodedAudio(np.concatenate(samples), 16_000)
                begun = time.perf_counter()
                rows += len(backbone.encode(track).values)
                seconds += time.perf_counter() - begun
    return {"seconds": seconds, "rows": rows}


PARTS = {
    "loop": ["loop", "loop_kept", "snippet_fp32", "snippet_bf16", "command_fp32", "command_bf16"],
    "once": ["pure_2d", "pure_3d", "pure_s3d", "pure_sound", "four"],
    "tiny": ["tiny_four", *(f"tiny_{name}" for name in TINY)],
}
ONE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "loop": _loop,
    "loop_kept": _loop,
    "snippet_fp32": _snippet("fp32"),
    "snippet_bf16": _snippet("bf16", precision="bfloat16"),
    "command_fp32": _command(dtype="float32"),
    "command_bf16": _command(dtype="float32", precision="bfloat16"),
    "pure_2d": _pure("resnet152"),
    "pure_3d": _pure("resnext101_3d"),
    "pure_s3d": _pure("s3d_howto100m"),
    "pure_sound": _pure_sound,
    "four": _ours(FOUR),
    "tiny_four": _ours(TINY),
    **{f"tiny_{name}": _ours([name]) for name in TINY},
}


def _over_rounds(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": statistics.median(one[name] for one in rounds),
            "smallest": min(one[name] for one in rounds),
            "largest": max(one[name] for one in rounds),
        }
        for name in rounds[0]
    }


def _ratios(measured: dict[str, Any], of: str) -> Iterator[tuple[str, float]]:
    seconds = {name: found[of] for name, found in measured.items()}
    for ours in ("snippet_fp32", "snippet_bf16", "command_fp32", "command_bf16"):
        for loop in ("loop", "loop_kept"):
            if {loop, ours} <= seconds.keys():
                yield f"{loop} / {ours}", seconds[loop] / seconds[ours]
    pure = [name for name in seconds if name.startswith("pure")]
    if pure and "four" in seconds:
        yield "four / sum of pure forwards", seconds["four"] / sum(seconds[name] for name in pure)
    alone = [name for name in seconds if name.startswith("tiny_") and name != "tiny_four"]
    if alone:
        yield "tiny together / one after another", seconds["tiny_four"] / sum(seconds[name] for name in alone)


def _deviations(folder: Path) -> Iterator[tuple[str, float]]:
    """Largest difference from what the usual loop gives: of a value, and of a whole row relative to its length."""
    if not (folder / "loop.npz").exists():
        return
    with np.load(folder / "loop.npz") as loop:
        for kind in ("fp32", "bf16"):
            if (folder / f"{kind}.npz").exists():
                with np.load(folder / f"{kind}.npz") as ours:
                    assert set(ours.files) == set(loop.files), "some files have features one way and not the other"
                    rows = [(ours[name], loop[name]) for name in loop.files]
                yield (
                    f"{kind}, a value (absolute or relative)",
                    max(float((np.abs(a - b) / np.maximum(1, np.abs(b))).max()) for a, b in rows),
                )
                yield (
                    f"{kind}, a row (relative)",
                    max(float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()) for a, b in rows),
                )


def _about(clips: Path, threads: int) -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "threads": threads,
        "torch": torch.__version__,
        "files": len(_files(clips)),
    }


def _laboratory(folder: Path) -> Path:
    from frameloom.workflows.laboratory.world import World, make_collection

    make_collection(folder, World(num_train=24, num_val=0, num_test=8, seed=3))
    return folder


def _show(results: dict[str, Any]) -> None:
    about = results["about"]
    print(", ".join(f"{name}: {about[name]}" for name in ("files", "threads", "processor", "torch", "date")))
    for name, found in results["measured"].items():
        print(f"  {name:28} {found['seconds']:8.2f} s")
        if "videos_per_second" in found:
            print(f"      {found['videos_per_second']:.2f} videos/s, {found['frames_per_second']:.0f} frames/s")
            total = sum(found["seconds_by_stage"].values())
            decoding = found["decode_processor_seconds"]
            print(f"      {'decode, beside the rest':24} {decoding:8.2f} s of one core")
            for stage, seconds in found["seconds_by_stage"].items():
                print(f"      {stage:24} {seconds:8.2f} s  {100 * seconds / total:5.1f} %")
    for title, found in (("", results["ratios"]), (" (processor)", results["ratios_of_processor_seconds"])):
        for name, one in found.items():
            print(f"  {name}{title}: {one['median']:.2f} ({one['smallest']:.2f} to {one['largest']:.2f})")
    for name, deviation in results["deviations"].items():
        print(f"  largest deviation, {name}: {deviation:.2g}")


if __name__ == "__main__":
    main()
