"""Projects small enough to run every stage in a test: a few clips of half a second, a tiny backbone, a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.report import Report
from frameloom.workflows.sync.sync import sync

from helpers.media import steady, write_media

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120, 120, 120)}
PITCHES_HZ = {"low": 220.0, "high": 1760.0}


def make_clip(path: Path, *, colour: str, pitch: str | None, seconds: float = 2.0) -> None:
    """A real H.264/AAC file of one colour and one tone; without a pitch it has no sound track."""
    picture = np.full((64, 64, 3), COLOURS[colour], np.uint8)
    sound = None
    if pitch is not None:
        time = np.arange(int(seconds * 16000)) / 16000
        sound = (0.4 * np.sin(2 * np.pi * PITCHES_HZ[pitch] * time)).astype(np.float32)[None]
    write_media(path, instants=steady(int(seconds * 8), 8), paint=lambda _number: picture, frame_rate=8, sound=sound)


def write_config(folder: Path, **sections: Any) -> Path:
    """A configuration that runs in this process, with the smallest backbone and model."""
    config: dict[str, Any] = {
        "collection": {"videos": "videos", "captions": "captions.jsonl"},
        "features": {
            "video": {"backbone": "test_resnet"},
            "audio": {"backbone": "logmel_avlnet"},
            "text": {"backbone": "word2vec", "options": {"dim": 16}},
        },
        "model": {"name": "test_everything_at_once"},
        "training": {"recipe": "everything_at_once_tiny", "overrides": {"epochs": 2, "min_steps": 0, "batch_size": 4}},
        "run": {"workers": 0, "batch_videos": 3},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section}
    path = folder / "frameloom.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_pixel_config(folder: Path, name: str, **sections: Any) -> Path:
    """The same for a model of pixels."""
    frames = {"size": 32, "num_frames": 4}
    overrides = {"frames": frames, "max_words": 12, "epochs": 1, "min_steps": 0, "batch_size": 4}
    config: dict[str, Any] = {
        "collection": {"videos": "videos", "captions": "captions.jsonl"},
        "features": {
            "video": {"backbone": "pixels", "options": {"size": 40, "rate_hz": 4, "frames": "jpeg"}},
            "text": {"backbone": "wordpiece", "options": {"vocabulary": 256}},
        },
        "model": {"name": name},
        "training": {"recipe": "miles_tiny", "overrides": overrides},
        "store": {"format": "webdataset", "combinations": ["video"]},
        "run": {"workers": 0, "batch_videos": 3},
    }
    config |= {key: {**config[key], **section} for key, section in sections.items()}
    path = folder / "frameloom.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def make_collection(folder: Path) -> None:
    """Eight clips (two without sound) with captions, a split and metadata."""
    (folder / "videos").mkdir(parents=True)
    rows = []
    for number, colour in enumerate(COLOURS):
        for pitch in ("low", "high" if number % 2 else None):
            name = f"videos/{colour} & {pitch}.v1.mp4"
            make_clip(folder / name, colour=colour, pitch=pitch)
            rows.append(
                {
                    "video": name,
                    "captions": [f"a {colour} picture", f"{colour} with a {pitch} tone"],
                    "split": "test" if colour == "grey" else "train",
                    "views": number,
                }
            )
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_sync(folder: Path) -> Report:
    return sync(Project.open(folder / "frameloom.yaml"), Console(quiet=True))
