"""Samples, rows and trees that the store's tests are made of."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality, Status, digest_of
from frameloom.store import FeatureStore, Sample, feature_fingerprint

DIM = 8


def make_spec(*, dim: int = DIM, dtype: Any = "float16", modality: Modality = Modality.VIDEO) -> FeatureSpec:
    return FeatureSpec(
        name="test_feature",
        modality=modality,
        dim=dim,
        rate_hz=None if modality is Modality.TEXT else 1.0,
        sampling={"grid": "middles"},
        preprocessing={"mean": (0.5, 0.25)},
        dtype=dtype,
    )


SPEC = make_spec()


def make_sample(
    name: str, num_rows: int, *, spec: FeatureSpec = SPEC, status: Status | None = None, message: str = ""
) -> Sample:
    """A sample whose numbers follow from its name alone."""
    rng = np.random.default_rng(list(name.encode()))
    values = rng.standard_normal((num_rows, spec.dim))
    if spec.dtype == "uint8":
        values = 40 * np.abs(values)
    values = values.astype(spec.dtype)
    starts = np.arange(num_rows, dtype=np.float64)
    times = np.stack([starts, starts + 1], axis=1)
    if spec.modality is Modality.TEXT:
        times[:] = np.nan
    status = status or (Status.OK if num_rows else Status.NO_FRAMES)
    source = digest_of(["source", name])
    return Sample(
        key=name,
        source_digest=source,
        fingerprint=feature_fingerprint(source, spec, "seeded:0"),
        feature=FeatureArray(values, times, status, message),
    )


BATCHES = [
    [make_sample("a.mp4", 3), make_sample("b.mp4", 0, message="no frame could be decoded"), make_sample("c.mp4", 70)],
    [make_sample("d.mp4", 1)],
    [make_sample("e/f.mp4", 12), make_sample("g.mp4", 5, status=Status.TRUNCATED, message="cut at 5 s")],
]


def write_all(root: Path) -> None:
    store = FeatureStore(root)
    for batch in BATCHES:
        store.write_shard(SPEC.name, batch, spec=SPEC)


def tree(root: Path, *, without: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below a folder by relative path, but for those whose name matches a pattern of `without`."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if not any(fnmatch(path.name, pattern) for pattern in without)
    }


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_row(serial: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"id-{serial:03d}",
        "clip": f"clip-{serial:03d}",
        "video": f"video-{serial}.mp4",
        "modalities": "video+audio",
        "start_seconds": 0.0,
        "end_seconds": float(serial + 1),
        "split": "test" if serial % 2 else "train",
        "captions": [f"caption {serial}", "another"],
        "metadata": {"camera": "left", "take": serial},
        "fingerprint": digest_of(serial),
        "row_digest": digest_of(["row", serial]),
        "model": "model-1",
        "vector": unit(serial),
    }
    return {**row, **changes}


METADATA = {"camera": "string", "take": "int64", "loudness": "double", "indoors": "bool"}
