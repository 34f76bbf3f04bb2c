"""Reading step localisation sets: CrossTask's release, and the layout that Everything at Once reads both sets from.

Sources: DmZhukov/CrossTask@9e6fdcc, data.py (task lists, video lists, annotations); ninatu/everything_at_once@4daeab6,
everything_at_once/dataset/crosstask_mining_dataset.py (a list of videos, a folder of annotations (T, K) as .npy, steps
in JSON). Both releases lie outside of any repository, so that no file of theirs is among the tests.

Deviations: what the published readers take as it comes is refused here, with the file and the line: a number of steps
that is not the number of names, a step or an instant that cannot be, a video that is listed twice.

Legend: T seconds, K steps.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from ..._vocabulary import InputError
from ...store.foreign import read_npy

StepSet = Literal["crosstask", "miningyoutube"]
_LINES_PER_TASK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossTaskTask:
    """One task of CrossTask: its id, its title, the page that it comes from, and its steps in their order."""

    task: str
    title: str
    url: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLabels:
    """One annotated video: its name, its task (empty for MiningYouTube), its steps, and (T, K) their seconds."""

    video: str
    task: str
    steps: tuple[str, ...]
    truth: NDArray[np.bool_]


def read_crosstask_tasks(path: Path) -> dict[str, CrossTaskTask]:
    """The tasks of tasks_primary.txt or tasks_related.txt, by id.

    Blocks of six lines: id, title, address, number of steps, names of the steps joined by commas, an empty line (which
    may be missing after the last).

    Raises:
        InputError: names the file and the line.
    """
    lines = _lines(path)
    while lines and not lines[-1]:
        lines.pop()
    tasks: dict[str, CrossTaskTask] = {}
    for first in range(0, len(lines), _LINES_PER_TASK):
        task = _task(path, first, lines[first : first + _LINES_PER_TASK])
        if task.task in tasks:
            raise InputError(f"{path}, line {first + 1}: the task {task.task!r} is a duplicate")
        tasks[task.task] = task
    if not tasks:
        raise InputError(f"{path} holds no task: blocks of six lines are read")
    return tasks


def _task(path: Path, first: int, block: list[str]) -> CrossTaskTask:
    if len(block) < _LINES_PER_TASK - 1:
        raise InputError(f"{path}, line {first + len(block)}: a task ends after {len(block)} of its 5 lines")
    task, title, url, count, names = block[:5]
    if len(block) == _LINES_PER_TASK and block[5]:
        raise InputError(f"{path}, line {first + 6}: an empty line must follow a task, found {block[5]!r:.60}")
    if not task:
        raise InputError(f"{path}, line {first + 1}: the id of a task is empty")
    steps = tuple(name.strip() for name in names.split(","))
    if not count.isdecimal() or int(count) != len(steps) or not all(steps):
        raise InputError(f"{path}, line {first + 4}: {count!r:.20} steps, and line {first + 5} names {len(steps)}")
    return CrossTaskTask(task=task, title=title, url=url, steps=steps)


def read_crosstask_videos(path: Path) -> list[tuple[str, str]]:
    """(task, video) of every line of videos.csv or videos_val.csv, which are ``task,video,address``.

    Raises:
        InputError: names the file and the line.
    """
    found: dict[tuple[str, str], None] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line:
            continue
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) != 3 or not parts[0] or not parts[1]:
            raise InputError(f"{path}, line {number}: expected task,video,address; found {line!r:.80}")
        if (parts[0], parts[1]) in found:
            raise InputError(f"{path}, line {number}: the video {parts[1]!r} of task {parts[0]!r} is a duplicate")
        found[parts[0], parts[1]] = None
    return list(found)


def read_crosstask_annotation(path: Path, *, num_seconds: int, num_steps: int) -> Bool[np.ndarray, "T K"]:
    """The seconds of every step from an annotation file ``TASK_VIDEO.csv``: lines of step (from 1), start, end.

    A step has the seconds floor(start) up to ceil(end), the last excluded; what lies behind the last second is left
    out.

    Args:
        path: of the file.
        num_seconds: T, which is the length of the video's features.
        num_steps: K of the task.

    Raises:
        InputError: names the file and the line.
    """
    labels = np.zeros((num_seconds, num_steps), bool)
    for number, line in enumerate(_lines(path), 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        parts = line.split(",")
        if len(parts) != 3:
            raise InputError(f"{where}: expected step,start,end; found {line!r:.60}")
        step = _number(parts[0], where, what="step")
        start, end = (_number(part, where, what="seconds") for part in parts[1:])
        if step != int(step) or not 1 <= step <= num_steps:
            raise InputError(f"{where}: step {parts[0].strip()!r:.20} is not one of 1 to {num_steps}")
        if not 0 <= start <= end:
            raise InputError(f"{where}: the span {start} to {end} s is invalid: 0 <= start <= end is needed")
        labels[math.floor(start) : math.ceil(end), int(step) - 1] = True
    return labels


def read_step_set(
    videos: Path, *, annotations: Path, steps: Path, dataset: StepSet = "crosstask"
) -> Iterator[StepLabels]:
    """The annotated videos of a set in the layout of Everything at Once, one after the other.

    Args:
        videos: .csv with the column ``video_id``, and for CrossTask ``task``.
        annotations: folder of ``TASK_VIDEO.npy`` (CrossTask) or ``VIDEO.npy`` (MiningYouTube), each (T, K) of 0 and 1.
        steps: .json with the names of the steps, by task (CrossTask) or by video (MiningYouTube).
        dataset: which of the two.

    Raises:
        InputError: names the file and the line.
    """
    known = _steps(steps)
    for number, row in _csv_rows(videos, ("video_id", "task") if dataset == "crosstask" else ("video_id",)):
        video, task = row["video_id"], row["task"] if dataset == "crosstask" else ""
        where, key = f"{videos}, row {number}", task if dataset == "crosstask" else video
        if "/" in video + task or video.startswith(".") or task.startswith(".") or "\0" in video + task:
            raise InputError(f"{where}: {video!r:.60} of task {task!r:.60} cannot be a file's name")
        if key not in known:
            raise InputError(f"{where}: {steps} has no steps of {key!r:.60}")
        name = f"{task}_{video}.npy" if dataset == "crosstask" else f"{video}.npy"
        truth = read_npy(annotations / name)
        if truth.ndim != 2 or truth.shape[1] != len(known[key]):
            raise InputError(
                f"{annotations / name} has shape {truth.shape}; (seconds, {len(known[key])}) fits its steps"
            )
        if not np.isin(truth, (0, 1)).all():
            raise InputError(f"{annotations / name} holds numbers other than 0 and 1")
        yield StepLabels(video=video, task=task, steps=known[key], truth=truth.astype(bool))


def _steps(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        found: Any = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: an object from task or video to a list of steps is read")
    for key, names in found.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: the steps of {key!r:.60} must be a list of texts, found {names!r:.60}")
    return {key: tuple(names) for key, names in found.items()}


def _csv_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(_text(path).splitlines())
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: no column `{missing[0]}`: found {', '.join(reader.fieldnames or ()) or 'nothing'}")
    for number, row in enumerate(reader, 1):
        if not all(row[name] for name in needed):
            raise InputError(f"{path}, row {number}: {', '.join(needed)} must be given")
        yield number, row


def _number(text: str, where: str, *, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {text.strip()!r:.40} is not a number ({what})")
    return value


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text in UTF-8: {error}") from None
