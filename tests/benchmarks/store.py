"""How fast the store gives back what it keeps, against the plain ways of keeping it.

    python tests/benchmarks/store.py [--measure NAME ...] [--repeats 5] [--folder DIR] [--save RESULTS.json]

Everything is made here and removed afterwards (some 3 GB in DIR, by default the system's temporary folder), and
measured in one process and one thread. What is compared takes turns, and of each the median of the repeats counts.
Unless it says "from disk", files are in the system's cache and have been read once by this process.

Ours compares every block that it reads with its checksum, each time, also the first. Theirs is not checked. Only ratios
of one run on a machine that does nothing else count.

    loader      what a training loop gets: padded batches of 64 in random order, of samples of (12, 4096) float16, from
                `FeatureLoader`, against torch's `DataLoader` over one .npy for each video (np.load, torch.stack), the
                same tensors from both. A loader's first epoch opens the shards; "and opening the store" first reads
                what is stored and plans where it lies. "As fit reads" are rows in float32 of unit length, theirs by
                torch; "one sample" is `FeatureStore.read` against np.load
    windows     10 s out of long videos' two features of width 2048: `FeatureStore.read_span`, and batches of 10 windows
                of a video that a `FeatureDataset` draws anew in each epoch, against loading both whole .npy files and
                cutting. Loading whole files stands for the published data set of Everything at Once, which does so for
                each video; it reads .npz and converts to float32 besides, which this does not
    scan        all samples in their order, in bytes a second: one by one and as padded batches, against reading the
                shards' files in pieces of 1 MB into the same buffer, which stays in the processor's cache, and against
                reading each whole file into memory of its own (np.fromfile)
    opening     100,000 samples, written in shards of 8 and merged as `sync` does: seconds from `FeatureStore(...)` to
                knowing every fingerprint, and how long the merging took
    webdataset  all samples of tar shards in their order, against plain ``webdataset`` with its arrays decoded
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality, digest_of
from frameloom.store import FeatureStore, Sample

ROWS, WIDTH, BATCH = 12, 4096, 64
MEASURES = ["loader", "windows", "scan", "opening", "webdataset"]


def main() -> None:
    arguments = _arguments()
    os.fsync = lambda descriptor: None  # what is made here need not survive a power cut
    results: dict[str, Any] = {"about": _about(arguments), "lines": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        os.environ["FRAMELOOM_CACHE"] = str(Path(scratch) / "cache")
        for name in arguments.measure:
            folder = Path(scratch) / name
            folder.mkdir()
            for line in LINES[name](folder, arguments):
                results["lines"].append(line)
                _show(line)
    if arguments.save:
        arguments.save.write_text(json.dumps(results, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=5000, help="of loader, scan and webdataset")
    parser.add_argument("--shard-samples", type=int, default=250)
    parser.add_argument("--videos", type=int, default=12, help="of windows")
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 60], help="length of each of these")
    parser.add_argument("--entries", type=int, default=100_000, help="of opening")
    parser.add_argument("--sidecar-samples", type=int, default=8, help="in a shard before it is merged")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--save", type=Path)
    return parser.parse_args()


# What is stored


def _spec(name: str, dim: int) -> FeatureSpec:
    return FeatureSpec(name=name, modality=Modality.VIDEO, dim=dim, rate_hz=1.0, sampling={}, preprocessing={})


def _samples(name: str, count: int, *, rows: int, dim: int) -> Iterator[Sample]:
    noise = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float16)
    starts = np.arange(rows, dtype=np.float64)
    times = np.stack([starts, starts + 1], axis=1)
    for number in range(count):
        feature = FeatureArray(np.roll(noise, number, axis=1), times)
        key = f"videos/clip-{number:06}.mp4"
        fingerprint = digest_of([name, number])
        yield Sample(key=key, source_digest=digest_of(number) * 2, fingerprint=fingerprint, feature=feature)


def _store(root: Path, samples: Iterable[Sample], spec: FeatureSpec, *, in_shard: int, **how: Any) -> list[str]:
    """Write samples; their fingerprints in order."""
    store, batch, names = FeatureStore(root), list[Sample](), list[str]()
    for sample in samples:
        batch.append(sample)
        names.append(sample.fingerprint)
        if len(batch) == in_shard:
            store.write_shard(spec.name, batch, spec=spec, **how)
            batch = []
    if batch:
        store.write_shard(spec.name, batch, spec=spec, **how)
    return names


# Measuring


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _in_turns(repeats: int, *works: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> list[float]:
    """The median seconds of each work. Every round has an order of its own: who reads after whom may decide."""
    found: list[list[float]] = [[] for _ in works]
    for turn in range(repeats):
        for number in random.Random(turn).sample(range(len(works)), len(works)):
            before()
            found[number].append(_seconds(works[number]))
    return [statistics.median(seconds) for seconds in found]


def _line(
    name: str, ours: float, theirs: float, unit: str, target: str, *, ratio: float | None = None
) -> dict[str, Any]:
    ratio = ours / theirs if ratio is None else ratio
    return {"name": name, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio, "target": target}


def _drop_from_cache(paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# The five lines


def _loader(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    count, spec = arguments.samples, _spec("features", WIDTH)
    (folder / "npy").mkdir()
    for sample in _samples("features", count, rows=ROWS, dim=WIDTH):
        np.save(folder / "npy" / f"{sample.fingerprint}.npy", sample.feature.values)
    samples = _samples("features", count, rows=ROWS, dim=WIDTH)
    names = _store(folder / "store", samples, spec, in_shard=arguments.shard_samples)
    random.Random(0).shuffle(names)
    store = FeatureStore(folder / "store")
    yield from _loader_batches(store, names, folder / "npy", arguments)

    def ours() -> None:
        for name in names:
            store.read(name)

    def theirs() -> None:
        for name in names:
            np.load(folder / "npy" / f"{name}.npy")

    opened = _seconds(ours)
    mine, plain = _in_turns(arguments.repeats, ours, theirs)
    yield _line("loader, one sample", count / mine, count / plain, "samples/s", "")
    yield _line("loader, one sample, first", count / opened, count / plain, "samples/s", "")


def _loader_batches(
    store: FeatureStore, names: list[str], folder: Path, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Batches of 64: of ours, and of one .npy for each video."""
    always = _batches(store, names, shuffle=True)
    paths = [str(folder / f"{name}.npy") for name in names]
    plain = _plain_loader(paths, list(always.sampler))
    for ours, (values, mask) in zip(always, plain, strict=True):
        assert ours["video"].values.equal(values)
        assert ours["video"].mask.equal(mask)
    fresh: list[Any] = []

    def open_again() -> None:
        fresh[:] = [_batches(FeatureStore(store.root), names, shuffle=True)]

    def open_and_exhaust() -> None:
        open_again()
        _exhaust(fresh[0])

    works = [lambda: _exhaust(always), lambda: _exhaust(fresh[0]), open_and_exhaust, lambda: _exhaust(plain)]
    checked, first, opened, theirs = _in_turns(arguments.repeats, *works, before=open_again)
    count = len(names)
    yield _line("loader", count / checked, count / theirs, "samples/s", ">= 5")
    yield _line("loader, first epoch", count / first, count / theirs, "samples/s", ">= 5")
    yield _line("loader, first epoch and opening the store", count / opened, count / theirs, "samples/s", "")
    of_fit = _batches(store, names, shuffle=True, for_fit=True)
    plain_of_fit = _plain_loader(paths, list(of_fit.sampler), for_fit=True)
    works = [lambda loader=loader: _exhaust(loader) for loader in (of_fit, plain_of_fit)]
    checked, theirs = _in_turns(arguments.repeats, *works)
    yield _line("loader, as fit reads", count / checked, count / theirs, "samples/s", "")


def _batches(store: FeatureStore, names: list[str], *, shuffle: bool, for_fit: bool = False) -> Any:
    from frameloom.train.data import ClipDataset, ClipFeatures, FeatureDataset, FeatureLoader

    clips = [ClipFeatures(clip=name, features={"video": (name,)}) for name in names]
    dataset = FeatureDataset(store, clips, features=["video"])
    batches = dataset.batches(batch_size=BATCH, shuffle=shuffle)
    return FeatureLoader(ClipDataset(dataset, training=True) if for_fit else dataset, batches)


def _plain_loader(paths: list[str], batches: list[list[int]], *, for_fit: bool = False) -> Any:
    """How one loads features that are one .npy for each video; `for_fit` as float32 rows of unit length."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset

    class Videos(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            rows = torch.from_numpy(np.load(paths[index]))
            return functional.normalize(rows.float(), dim=-1) if for_fit else rows

    def collate(rows: list[Any]) -> tuple[Any, Any]:
        return torch.stack(rows), torch.ones(len(rows), len(rows[0]), dtype=torch.bool)

    return DataLoader(Videos(), batch_sampler=batches, collate_fn=collate)


def _exhaust(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def _windows(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for minutes in arguments.minutes:
        yield from _windows_of(folder / str(minutes), 60 * minutes, arguments)


def _windows_of(folder: Path, seconds: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    features, names = ["frames", "motion"], dict[str, list[str]]()
    for feature in features:
        (folder / feature).mkdir(parents=True)
        made = list(_samples(feature, arguments.videos, rows=seconds, dim=2048))
        for sample in made:
            np.save(folder / feature / f"{sample.fingerprint}.npy", sample.feature.values)
        names[feature] = _store(folder / "store", made, _spec(feature, 2048), in_shard=8)
    store, chance = FeatureStore(folder / "store"), random.Random(0)
    picks = [(chance.randrange(arguments.videos), chance.randrange(seconds - 10)) for _ in range(300)]

    def ours() -> None:
        for video, start in picks:
            for feature in features:
                assert len(store.read_span(names[feature][video], start, start + 10).values) == 10

    def theirs() -> None:
        for video, start in picks:
            for feature in features:
                np.load(folder / feature / f"{names[feature][video]}.npy")[start : start + 10].copy()

    opened = _seconds(ours)
    drawn = _drawn_windows(store, names)
    mine, anew, plain = _in_turns(arguments.repeats, ours, lambda: drawn(len(picks)), theirs)
    name, target = f"windows of {seconds // 60} minutes", ">= 25" if seconds >= 3600 else ""
    yield _line(name, len(picks) / mine, len(picks) / plain, "windows/s", target)
    yield _line(f"{name}, drawn anew", len(picks) / anew, len(picks) / plain, "windows/s", target)
    yield _line(f"{name}, first", len(picks) / opened, len(picks) / plain, "windows/s", "")


def _drawn_windows(store: FeatureStore, names: dict[str, list[str]]) -> Callable[[int], None]:
    """The function that reads so many windows of a training, 10 of each video in a batch, others in each epoch."""
    from frameloom.train.data import ClipFeatures, FeatureDataset, UniformWindow

    videos = [
        {name: (one,) for name, one in zip(names, prints, strict=True)} for prints in zip(*names.values(), strict=True)
    ]
    clips = [ClipFeatures(clip=str(number), features=videos[number // 10]) for number in range(10 * len(videos))]
    dataset = FeatureDataset(store, clips, features=list(names), draw=UniformWindow(10.0))

    def read(count: int) -> None:
        for first in range(0, count, 10):
            if not first % len(clips):
                dataset.set_epoch(dataset.epoch + 1)
            batch = dataset.read(range(first % len(clips), first % len(clips) + 10)).tokens()
            assert batch.keys() == names.keys()

    return read


def _scan(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    samples = _samples("features", arguments.samples, rows=ROWS, dim=WIDTH)
    names = _store(folder, samples, _spec("features", WIDTH), in_shard=arguments.shard_samples)
    store = FeatureStore(folder)
    order = [entry.fingerprint for entry in store.entries()]
    assert len(order) == len(names)
    shards = [shard.path for shard in store.shards()]
    num_bytes = sum(path.stat().st_size for path in shards)

    def one_by_one() -> None:
        for name in order:
            store.read(name)

    def in_pieces() -> None:
        for path in shards:
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass

    def whole_files() -> None:
        for path in shards:
            np.fromfile(path, np.uint8)

    always = _batches(store, order, shuffle=False)
    ours = {
        "one by one": one_by_one,
        "batches, always": lambda: _exhaust(always),
    }
    for work in ours.values():
        work()
    from_memory = ("", arguments.repeats, lambda: None)
    from_disk = (", from disk", 3 * arguments.repeats, lambda: _drop_from_cache(shards))  # which is less steady
    for cached, repeats, before in (from_memory, from_disk):
        *mine, pieces, whole = _in_turns(repeats, *ours.values(), in_pieces, whole_files, before=before)
        for name, seconds in zip(ours, mine, strict=True):
            for against, plain in (("pieces", pieces), ("whole files", whole)):
                target = ">= 0.8" if name != "one by one" else ""
                shown = f"scan, {name} / {against}{cached}"
                yield _line(shown, num_bytes / seconds / 1e9, num_bytes / plain / 1e9, "GB/s", target)


def _opening(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from frameloom.store.health import merge_small_shards

    samples = _samples("x", arguments.entries, rows=1, dim=4)
    names = _store(folder, samples, _spec("x", 4), in_shard=arguments.sidecar_samples)
    store = FeatureStore(folder)

    def merge() -> None:
        while not merge_small_shards(store, max_bytes=1 << 30).is_empty:
            pass

    merged = _seconds(merge)

    def ours() -> None:
        assert len(FeatureStore(folder)) == len(names)

    (mine,) = _in_turns(arguments.repeats, ours)
    shown = f"opening {len(names):,} samples, merged to {len(store.shards())} shards"
    yield _line(shown, mine, 1.0, "s", "< 0.5", ratio=mine)
    yield _line(f"merging shards of {arguments.sidecar_samples}", merged, 1.0, "s", "", ratio=merged)


def _webdataset(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import webdataset

    samples = _samples("features", arguments.samples, rows=ROWS, dim=WIDTH)
    _store(folder, samples, _spec("features", WIDTH), in_shard=arguments.shard_samples, format="webdataset")
    store = FeatureStore(folder)
    order = [entry.fingerprint for entry in store.entries()]
    shards = sorted(str(shard.path) for shard in store.shards())

    def ours() -> None:
        for name in order:
            store.read(name)

    def theirs() -> None:
        count = 0
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            np.load(io.BytesIO(sample["values.npy"])), np.load(io.BytesIO(sample["times.npy"]))
            count += 1
        assert count == len(order)

    opened = _seconds(ours)
    mine, plain = _in_turns(arguments.repeats, ours, theirs)
    unit = "samples/s"
    yield _line("webdataset, ours / plain", len(order) / mine, len(order) / plain, unit, ">= 0.9")
    yield _line("webdataset, first", len(order) / opened, len(order) / plain, unit, ">= 0.9")


LINES: dict[str, Callable[[Path, argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "loader": _loader,
    "windows": _windows,
    "scan": _scan,
    "opening": _opening,
    "webdataset": _webdataset,
}


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    import h5py

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "samples": arguments.samples,
        "repeats": arguments.repeats,
        "command": " ".join(["python", "tests/benchmarks/store.py", *_told()]),
    }


def _told() -> list[str]:
    """The arguments that decide what is measured; not where."""
    where = {"--folder", "--save"}
    pairs = zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)
    return [word for before, word in pairs if word not in where and before not in where]


def _show(line: dict[str, Any]) -> None:
    plain = "" if line["name"].startswith("opening") else f"{line['theirs']:12,.1f}"
    target = f"(wanted {line['target']})" if line["target"] else ""
    print(
        f"{line['name']:44} {line['ours']:12,.2f} {plain:>12} {line['unit']:10} {line['ratio']:8.2f} {target}",
        flush=True,
    )


if __name__ == "__main__":
    main()
