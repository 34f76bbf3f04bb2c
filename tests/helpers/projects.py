"""Projects small enough to run every stage in a test: a few clips of half a second, a tiny backbone, a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.report import Report
from frameloom.workflows.sync.sync import sync

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120, 120, 120)}
PITCHES_HZ = {"low": 220.0, "high": 1760.0}


def make_clip(path: Path, *, colour: str, pitch: str | None, seconds: float = 2.0) -> None:
    """A real H.264/AAC file of one colour and one tone; without a pitch it has no sound track."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if pitch else None
        picture = np.full((64, 64, 3), COLOURS[colour], np.uint8)
        for _ in range(int(seconds * 8)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None and pitch is not None:
            time = np.arange(int(seconds * 16000)) / 16000
            tone = (0.4 * np.sin(2 * np.pi * PITCHES_HZ[pitch] * time)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
            frame.sample_rate = 16000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


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
