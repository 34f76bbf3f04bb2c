"""Training from pixels: what the loader of frames delivers to one core, against decoding the videos anew each epoch.

    python tests/benchmarks/train_pixels.py loader CLIPS [--frames 4] [--seconds 8] [--rate 2] [--rounds 5]

`loader`: training batches of T frames at 224, drawn from equal segments of each clip, cropped, scaled; in one thread.
Ours reads them from tar shards of JPEG at 256 pixels, every byte compared with its checksum. "decoding anew" opens each
video with PyAV, seeks once to the key frame before the first wanted instant and decodes on to the last, scaling only
those that are wanted (a seek for each is slower here). Both take as many frames of the same clips and crop alike.
Frames a second, the median of interleaved rounds, and what was paid once to write the shards.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SIZE, STORED = 224, 256
Clip = tuple[Path, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    loader = parts.add_parser("loader")
    loader.add_argument("clips", type=Path)
    for name, default in (("frames", 4), ("seconds", 8), ("rate", 2), ("rounds", 5)):
        loader.add_argument(f"--{name}", type=int, default=default)
    loader.set_defaults(run=measure_loader)
    given = parser.parse_args()
    given.run(given)


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


if __name__ == "__main__":
    main()
