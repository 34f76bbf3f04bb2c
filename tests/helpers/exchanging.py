"""Projects for export and import: files of a few bytes that are never decoded, and features written straight in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from frameloom._vocabulary import FeatureArray, Modality, Status
from frameloom.store import Sample, feature_fingerprint
from frameloom.workflows.console import Console
from frameloom.workflows.exchange.records import chosen_features
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.tasks import text_digest

from helpers.projects import write_config

QUIET = Console(quiet=True)
NAMES = (
    "videos/plain.mp4",
    "videos/plain.mkv",
    "videos/sub/plain.mp4",
    "videos/two  words.v1.2.mp4",
    "videos/fünf — 五 🎬.mp4",
    "videos/CASE.mp4",
    "videos/case.mp4",
    "videos/" + "long" * 60 + ".mp4",
    "videos/tilde~1.mp4",
    "videos/a'b\"c,d;e\n.mp4",
)
SILENT, CUT, PENDING = NAMES[1], NAMES[2], NAMES[3]
MISSING = "videos/gone.mp4"


def make_files(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Files whose content is their name, one link that leads nowhere, captions, and word vectors."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    (folder / MISSING).symlink_to(folder / "nowhere.mp4")
    rows = [
        {"video": name, "captions": [f"say {number}", "all say"], "split": "test" if number % 2 else "train"}
        for number, name in enumerate(names)
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "vectors.txt").write_text("2 4\nsay 1 0 0 0\nall 0 1 0 0\n", encoding="utf-8")


def configure(folder: Path, *, path: str = ".frameloom", **weights: str) -> Path:
    """A configuration of three features, with other weights where they are given."""
    features: dict[str, Any] = {
        "video": {"backbone": "test_resnet"},
        "audio": {"backbone": "logmel_avlnet"},
        "text": {"backbone": "word2vec", "weights": "vectors.txt", "options": {"dim": 4}},
    }
    for name, value in weights.items():
        features[name]["weights"] = value
    return write_config(folder, features=features, store={"path": path})


def feature_of(name: str, spec: Any) -> FeatureArray:
    """A feature whose numbers follow from the name."""
    if spec.modality is Modality.AUDIO and name == SILENT:
        return FeatureArray.empty(spec, Status.NO_AUDIO, "it has no sound track")
    rng = np.random.default_rng(list(f"{name} {spec.name}".encode()))
    count = int(rng.integers(1, 9))
    values = rng.standard_normal((count, spec.dim)).astype(spec.dtype)
    if spec.modality is Modality.TEXT:
        return FeatureArray(values, np.full((count, 2), np.nan))
    starts = np.arange(count) / (spec.rate_hz or 1) + 0.25
    times = np.stack([starts, starts + 1 / 3], axis=1)
    extent = (0.0, float(count) + 0.5)
    if name == CUT:
        return FeatureArray(values, times, Status.TRUNCATED, "cut at 3 s", extent=extent)
    return FeatureArray(values, times, extent=extent)


def fill(project: Project) -> None:
    """Store every feature of every video and caption, but for those of PENDING."""
    from frameloom.workflows.sync.survey import survey

    files = {state.file.video.video: state.file.digest for state in survey(project).videos}
    for want in chosen_features(project, None).values():
        digests: dict[str, Any] = {name: digest for name, digest in files.items() if digest and name != PENDING}
        if want.modality is Modality.TEXT:
            digests = {caption: text_digest(caption) for caption in project.collection.texts()}
        samples = [
            Sample(
                key=name,
                source_digest=digest,
                fingerprint=feature_fingerprint(digest, want.spec, want.weights_digest),
                feature=feature_of(name, want.spec),
            )
            for name, digest in digests.items()
        ]
        project.store.write_shard(want.spec.name, samples, spec=want.spec)


def contents(project: Project) -> dict[tuple[str, str], tuple[Any, ...]]:
    """All that a store says of each feature and key."""
    project.store.refresh()
    found = {}
    for entry in project.store.entries():
        feature = project.store.read(entry.fingerprint)
        span = (entry.start_seconds, entry.end_seconds)
        told = (entry.fingerprint, entry.status, entry.message, span, feature.values.dtype)
        found[entry.feature, entry.key] = (*told, feature.values.tobytes(), feature.times.tobytes())
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
