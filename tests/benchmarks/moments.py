"""Moments in a long video: shots, windows and merged frames, by how often the best answer is the right span.

    python tests/benchmarks/moments.py CLIPS --captions FILE [--keep FOLDER] [--save RESULTS.json]

The clips are joined into one file, each with its frames at their own times and without sound. FILE says what is in
them; each of its captions is asked as a question of the preset `ready`, once for each unit, and the answer is right
where it overlaps the span of the caption's clip by enough (intersection over union). A join is found where a detector
sets a cut within two frames of it. Thresholds and lengths are the published or usual ones; the share by which hits
merge (`search/moments.py`) was chosen on these questions. The spans' ends are cuts, which favours shots, as in edited
video and not in a long take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from frameloom import open as open_index
from frameloom.workflows.console import Console
from frameloom.workflows.project.collection import discover
from frameloom.workflows.project.config import write_template
from frameloom.workflows.project.project import Project
from frameloom.workflows.project.units import cuts_of
from frameloom.workflows.sync import sync
from frameloom.workflows.sync.survey import survey

WIDTH, HEIGHT, TICKS = 320, 240, 90_000
UNITS: dict[str, tuple[dict[str, Any], bool]] = {
    "windows 5 s": ({"clip_seconds": 5}, False),
    "windows 10 s, every 5 s": ({"clip_seconds": 10, "stride_seconds": 5}, False),
    "windows 4 s (the preset's)": ({"clip_seconds": 4}, False),
    "windows 4 s, merged": ({"clip_seconds": 4}, True),
    "windows 10 s, every 5 s, merged": ({"clip_seconds": 10, "stride_seconds": 5}, True),
    "frames (1 s), merged": ({"clip_seconds": 1}, True),
    "shots, content_change": ({"shots": {"detector": "content_change"}}, False),
    "shots, transnet_v2": ({"shots": {}}, False),
    "shots, transnet_v2, merged": ({"shots": {}}, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="a folder for the joined file and the project; a later run goes on")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    judged = discover([str(arguments.clips)], captions=str(arguments.captions), base=Path.cwd())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        joined, spans = folder / "videos" / "joined.mp4", folder / "spans.json"
        if not spans.exists():
            spans.write_text(json.dumps(join([video.path for video in judged.videos], joined)))
        ends = [0.0, *json.loads(spans.read_text())]
        questions = [
            (caption, (ends[number], ends[number + 1]))
            for number, video in enumerate(judged.videos)
            for caption in dict.fromkeys(caption for span in video.spans for caption in span.captions)
        ]
        rows = []
        for name, (unit, merge) in UNITS.items():
            rows.append({"unit": name, **measured(folder, unit, merge=merge, questions=questions, joins=ends[1:-1])})
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.save is not None:
        facts = {"date": datetime.now(UTC).date().isoformat(), "videos": len(judged.videos), "seconds": ends[-1]}
        facts |= {"questions": len(questions), "joins": len(ends) - 2}
        arguments.save.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def join(paths: Sequence[Path], target: Path) -> list[float]:
    """Write all pictures of files one after another, in one size. Returns where each file ends, in seconds."""
    ends: list[float] = []
    offset, newest = 0, -1
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        for path in paths:
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                first: int | None = None
                for frame in source.decode(video):
                    instant = round(frame.pts * frame.time_base * TICKS)
                    first = instant if first is None else first
                    if instant - first + offset <= newest:
                        continue  # a file whose times go back
                    newest = instant - first + offset
                    picture = frame.reformat(WIDTH, HEIGHT, "yuv420p")
                    picture.pts, picture.time_base, picture.pict_type = newest, Fraction(1, TICKS), 0
                    output.mux(stream.encode(picture))
                offset = newest + round(TICKS / video.average_rate)
            ends.append(offset / TICKS)
        output.mux(stream.encode(None))
    return ends


def measured(
    folder: Path,
    unit: dict[str, Any],
    *,
    merge: bool,
    questions: Sequence[tuple[str, tuple[float, float]]],
    joins: Sequence[float],
) -> dict[str, Any]:
    """Recall of the right span for one unit; for shots also how many joins the detector finds."""
    path = folder / "frameloom.yaml"
    path.unlink(missing_ok=True)
    write_template(path, videos=["videos"], captions=None, preset="ready")
    config = yaml.safe_load(path.read_text())
    config["collection"] = {"videos": "videos", **unit}
    path.write_text(yaml.safe_dump(config))
    begun = time.monotonic()
    report = sync(Project.open(path), Console(quiet=True))
    assert report.exit_code == 0, list(report.lines())
    seconds = time.monotonic() - begun
    index = open_index(path)
    overlaps = []
    for question, span in questions:
        hits = index.search(text=question, top=5, merge=merge)
        overlaps.append([overlap((hit.start_seconds, hit.end_seconds), span) for hit in hits])
    best = np.array([several[0] for several in overlaps])
    found: dict[str, Any] = {
        "r1_at_iou_0.5": percent(best >= 0.5),
        "r1_at_iou_0.7": percent(best >= 0.7),
        "r5_at_iou_0.5": percent(np.array([max(several) for several in overlaps]) >= 0.5),
        "mean_iou": percent(best),
        "units": Project.open(path).table.count(),
        "sync_seconds": round(seconds, 1),
    }
    if "shots" in unit:
        cuts, frame_seconds = found_cuts(Project.open(path))
        distances = [min((abs(cut - join) for cut in cuts), default=np.inf) for join in joins]
        found |= {"cuts": len(cuts), "joins_found": sum(one <= 2 * frame_seconds for one in distances)}
    return found


def found_cuts(project: Project) -> tuple[list[float], float]:
    """The cuts of the joined file, and how long a frame of the detector lasts."""
    shots, request = project.config.collection.shots, project.shots
    assert shots is not None
    assert request is not None
    (state,) = survey(project).videos
    (name,) = [one.fingerprint for one in state.streams if one.request.name == request.name]
    return cuts_of(project.store.read(name), threshold=shots.cut_value), 1 / (request.spec.rate_hz or 1.0)


def overlap(span: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans."""
    inside = min(span[1], other[1]) - max(span[0], other[0])
    return max(0.0, inside) / (max(span[1], other[1]) - min(span[0], other[0]))


def percent(values: Any) -> float:
    return round(float(np.mean(values) * 100), 1)


if __name__ == "__main__":
    main()
