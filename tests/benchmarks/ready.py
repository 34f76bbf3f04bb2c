"""How well search answers without captions and without training: the preset `ready` on your own clips.

    python tests/benchmarks/ready.py CLIPS --captions FILE [--clip-seconds 4] [--seeds 0 1 2] [--save RESULTS.json]

FILE says what is in the clips, as `frameloom init --captions` takes it. It is not given to the project: each of its
captions is asked as a question, and the answer is right where the best clip is of the video that it was written for.
The same is asked of the classifier with random weights, so that it can be seen whether the weights do it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from frameloom import open as open_index
from frameloom.workflows.console import Console
from frameloom.workflows.project.collection import discover
from frameloom.workflows.project.config import write_template
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.sync import sync


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--clip-seconds", type=float, help="length of a window; 0 keeps videos whole [the preset's]")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of random weights")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    judged = discover([str(arguments.clips)], captions=str(arguments.captions), base=Path.cwd())
    questions = [
        (caption, video.path.resolve())
        for video in judged.videos
        for caption in dict.fromkeys(caption for span in video.spans for caption in span.captions)
    ]
    found = []
    for seed in (None, *arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measured(Path(folder), arguments, questions, seed=seed))
        print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    if arguments.save is not None:
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "videos": len(judged.videos),
            "questions": len(questions),
        }
        arguments.save.write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")


def measured(folder: Path, arguments: Any, questions: list[tuple[str, Path]], *, seed: int | None) -> dict[str, Any]:
    """R@1, R@5 and the median rank of the right video; `seed` of random weights in place of the published ones."""
    path = folder / "frameloom.yaml"
    write_template(path, videos=[str(arguments.clips.resolve())], captions=None, preset="ready")
    config = yaml.safe_load(path.read_text())
    if arguments.clip_seconds is not None:
        config["collection"]["clip_seconds"] = arguments.clip_seconds or None
    if seed is not None:
        config["features"]["video"] |= {"weights": None, "seed": seed}
    path.write_text(yaml.safe_dump(config))
    begun = time.monotonic()
    sync(Project.open(path), Console(quiet=True))
    seconds = time.monotonic() - begun
    index = open_index(path)
    ranks = []
    for question, answer in questions:
        videos = dict.fromkeys(Path(hit.path).resolve() for hit in index.search(text=question, top=1000))
        ranks.append(list(videos).index(answer) + 1)
    of_all = np.array(ranks)
    return {
        "weights": "published" if seed is None else f"random, seed {seed}",
        "r1": round(float((of_all == 1).mean() * 100), 1),
        "r5": round(float((of_all <= 5).mean() * 100), 1),
        "medr": float(np.median(of_all)),
        "sync_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
