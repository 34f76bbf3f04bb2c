"""How fast rows reach the clip table when it is small and when it holds a million.

    python tests/benchmarks/table.py [--rows 1000000] [--batch 3000] [--width 256] [--folder DIR] [--save RESULTS.json]

Commits batches of new rows as a run of `sync` does, fsync included, and prints the median and the mean of each tenth of
the commits, the largest memory of the process, and the number of files and versions. Then a run over existing rows, the
end of the run, and the first commit of the next run. The claim: the last tenth takes at most twice what the first took.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from frameloom._vocabulary import digest_of
from frameloom.store import ClipTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=3000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        found = measure(Path(scratch), arguments.rows, arguments.batch, arguments.width)
    print(json.dumps(found, indent=1))
    if arguments.save:
        about = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "command": " ".join(sys.argv)}
        arguments.save.write_text(json.dumps({"about": about, **found}, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, num_rows: int, batch: int, width: int) -> dict[str, Any]:
    """Fill a table and say how long each tenth of the commits took, in seconds for one commit."""
    table = ClipTable(folder / "vectors")
    table.create(width, {})
    rng = np.random.default_rng(0)
    num_commits = num_rows // batch
    seconds = [
        _timed(table.apply, rows_of(rng, range(number * batch, (number + 1) * batch), width))
        for number in range(num_commits)
    ]
    tenth = max(1, num_commits // 10)
    parts = [seconds[start : start + tenth] for start in range(0, num_commits - tenth + 1, tenth)]
    medians = [statistics.median(part) for part in parts]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert table.count() == num_commits * batch
    end = _timed(table.finish)
    chosen = [rng.choice(num_commits * batch, batch, replace=False) for _ in range(5)]
    updating = [_timed(table.apply, rows_of(rng, one.tolist(), width)) for one in chosen]
    again = ClipTable(table.uri)
    next_run = _timed(again.apply, rows_of(rng, range(num_commits * batch, (num_commits + 1) * batch), width))
    assert again.count() == (num_commits + 1) * batch
    return {
        "rows": num_commits * batch,
        "commits": num_commits,
        "median_seconds_by_tenth": [round(one, 4) for one in medians],
        "mean_seconds_by_tenth": [round(statistics.mean(part), 4) for part in parts],
        "last_to_first": round(medians[-1] / medians[0], 2),
        "peak_memory_mb_of_commits": memory,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "update_seconds": round(statistics.median(updating), 3),
        "finish_seconds": round(end, 2),
        "first_commit_of_the_next_run_seconds": round(next_run, 2),
        "versions": len(list((folder / "vectors" / "clips.lance" / "_versions").glob("*.manifest"))),
        "data_files": len(list((folder / "vectors" / "clips.lance" / "data").iterdir())),
    }


def rows_of(rng: np.random.Generator, serials: Any, width: int) -> list[dict[str, Any]]:
    vectors = rng.standard_normal((len(serials), width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        {
            "id": f"{digest_of(serial)}-audio+video",
            "clip": digest_of(serial),
            "video": f"videos/{serial // 10:07d}.mp4",
            "modalities": "audio+video",
            "is_primary": True,
            "start_seconds": 0.0,
            "end_seconds": 10.0,
            "captions": ["a caption of some words"],
            "metadata": {},
            "fingerprint": digest_of(["embedding", serial]),
            "row_digest": digest_of(["row", serial]),
            "model": "0" * 32,
            "vector": vector,
        }
        for serial, vector in zip(serials, vectors, strict=True)
    ]


def _timed(call: Callable[..., Any], *given: Any) -> float:
    begun = time.perf_counter()
    call(*given)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
