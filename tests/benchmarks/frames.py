"""How fast clips of pictures come out of `FrameLoader`, against the same shards through webdataset alone.

    python tests/benchmarks/frames.py [--videos 96] [--frames 16] [--side 256] [--rounds 3]

Tar shards of 16 videos, raw and JPEG (quality 90), warm. "webdataset alone" reads members, groups them, unpacks the
arrays, takes four frames and makes batches: no checksum, no draws, no scaling. Ours compares every byte and gives
training batches of 4 frames at 224, cropped, scaled and mirrored. Clips a second, the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 96), ("frames", 16), ("side", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("raw", "jpeg"):
            root = Path(folder) / kind
            clips = write(root, kind, num_videos=given.videos, num_frames=given.frames, side=given.side)
            size = sum(path.stat().st_size for path in root.rglob("*.tar")) / given.videos / given.frames
            sides = {"webdataset alone": partial(alone, root, kind, given.side)}
            for num_workers in (0, 2):
                sides[f"FrameLoader, {num_workers} workers"] = partial(ours, root, clips, num_workers)
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(given.rounds + 1):
                for name, batches in sides.items():
                    begun = time.perf_counter()
                    count = sum(batches())
                    rates[name].append(count / (time.perf_counter() - begun))
            print(f"{kind}: {size / 1e3:.0f} KB a frame")
            for name, each in rates.items():
                print(f"  {name:24} {statistics.median(each[1:]):8.1f} clips/s   {[round(one, 1) for one in each[1:]]}")


def write(root: Path, kind: str, *, num_videos: int, num_frames: int, side: int) -> list[Any]:
    """Shards of smooth noise, which is about as hard to compress as natural pictures."""
    import numpy as np
    from frameloom._vocabulary import FeatureArray
    from frameloom.extract import backbone_spec
    from frameloom.extract.backbones.pixels import jpeg_rows
    from frameloom.store import FeatureStore, Sample, feature_fingerprint
    from frameloom.train.data import FrameClip
    from PIL import Image

    spec, store, rng = backbone_spec("pixels", size=side, frames=kind), FeatureStore(root), np.random.default_rng(0)
    clips, samples = [], []
    for video in range(num_videos):
        small = rng.integers(0, 256, (num_frames, side // 8, side // 8, 3), dtype=np.uint8)
        frames = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in small]
        times = np.arange(num_frames)[:, None] + [[0.0, 1.0]]
        values = np.stack([frame.reshape(-1) for frame in frames])
        if kind == "jpeg":
            blocks = [jpeg_rows(frame, quality=90) for frame in frames]
            values, times = np.concatenate(blocks), np.repeat(times, [len(block) for block in blocks], axis=0)
        name = f"video {video}"
        fingerprint = feature_fingerprint(name, spec, "none")
        sample = Sample(key=name, source_digest=name, fingerprint=fingerprint, feature=FeatureArray(values, times))
        clips.append(FrameClip(clip=name, frames=fingerprint, captions=(name,)))
        samples.append(sample)
        if len(samples) == 16 or video == num_videos - 1:
            store.write_shard("pixels", samples, spec=spec, format="webdataset")
            samples = []
    return clips


def ours(root: Path, clips: list[Any], num_workers: int) -> Iterator[int]:
    from frameloom.train.data import FrameLoader, FrameOptions

    options = FrameOptions(training=True, size=224)
    for batch in FrameLoader(root, clips, options=options, batch_size=8, lanes=2, num_workers=num_workers):
        yield len(batch.clips)


def alone(root: Path, kind: str, side: int) -> Iterator[int]:
    import webdataset as wds

    def pictures(samples: Iterable[dict[str, Any]]) -> Iterator[Any]:
        import numpy as np
        import torch
        from PIL import Image

        for sample in samples:
            values, times = (np.load(io.BytesIO(sample[f"{name}.npy"])) for name in ("values", "times"))
            places = np.flatnonzero(np.r_[True, np.diff(times[:, 0]) != 0])
            chosen = places[np.linspace(0, len(places) - 1, 4).astype(int)]
            ends = dict(zip(places, [*places[1:], len(values)], strict=True))
            if kind == "jpeg":
                files = [io.BytesIO(values[place : ends[place]].tobytes()) for place in chosen]
                frames = np.stack([np.asarray(Image.open(file)) for file in files])
            else:
                frames = values[chosen].reshape(4, side, side, 3)
            yield torch.from_numpy(frames).permute(0, 3, 1, 2)[:, :, 16:240, 16:240]

    shards = wds.SimpleShardList([str(path) for path in sorted(root.rglob("*.tar"))])
    pipeline = wds.DataPipeline(shards, wds.tarfile_to_samples(), pictures, wds.batched(8, collation_fn=list))
    for batch in pipeline:
        import torch

        yield len(torch.stack(batch))


if __name__ == "__main__":
    main()
