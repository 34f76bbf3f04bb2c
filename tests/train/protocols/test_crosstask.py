"""Reading CrossTask and MiningYouTube: what the files say, and which line is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from frameloom import InputError
from frameloom.train.protocols import (
    read_crosstask_annotation,
    read_crosstask_tasks,
    read_crosstask_videos,
    read_step_set,
)

TASKS = """23521
Make Jello Shots
https://www.example.org/Make-Jello-Shots
3
pour water,pour jello powder,stir mixture

94276
Change a Tire
https://www.example.org/Change-a-Tire
2
brake on, get things out

"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [TASKS, TASKS.rstrip("\n"), TASKS.replace("\n", "\r\n"), "\ufeff" + TASKS])
def test_task_lists(tmp_path: Path, text: str) -> None:
    tasks = read_crosstask_tasks(written(tmp_path / "tasks.txt", text))
    assert list(tasks) == ["23521", "94276"]
    assert tasks["23521"].title == "Make Jello Shots"
    assert tasks["23521"].url.endswith("Shots")
    assert tasks["94276"].steps == ("brake on", "get things out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3\npour", "4\npour", "line 4: '4' steps, and line 5 names 3"),
        ("3\npour", "three\npour", "line 4: 'three' steps"),
        ("2\nbrake", "2\n,brake", "line 10: '2' steps, and line 11 names 3"),
        ("mixture\n\n", "mixture\n", "line 6: an empty line must follow a task, found '94276'"),
        ("94276", "23521", "line 7: the task '23521' is a duplicate"),
        ("2\nbrake on, get things out\n\n", "", "line 9: a task ends after 3 of its 5 lines"),
        (TASKS, "", "holds no task"),
    ],
)
def test_a_wrong_task_list_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path / "tasks.txt", TASKS.replace(old, new))
    with pytest.raises(InputError, match=f"tasks.txt.*{message}"):
        read_crosstask_tasks(path)


def test_video_lists(tmp_path: Path) -> None:
    path = written(tmp_path / "videos.csv", "1,abc,https://example.org/?v=abc,1\n2,abc,https://example.org\n\n")
    assert read_crosstask_videos(path) == [("1", "abc"), ("2", "abc")]
    with pytest.raises(InputError, match="line 2: expected task,video,address"):
        read_crosstask_videos(written(path, "1,abc,u\n1,\n"))
    with pytest.raises(InputError, match="line 2: the video 'abc' of task '1' is a duplicate"):
        read_crosstask_videos(written(path, "1,abc,u\n1,abc,u\n"))
    with pytest.raises(InputError, match="cannot be read as text"):
        read_crosstask_videos(tmp_path / "nowhere.csv")


def test_an_annotation_covers_every_second_that_it_touches(tmp_path: Path) -> None:
    path = written(tmp_path / "1_abc.csv", "1,0.5,2.0\n3,4,4.1\n1,5.2,99\n2,3,3\n")
    labels = read_crosstask_annotation(path, num_seconds=7, num_steps=3)
    assert labels.dtype == bool
    assert [np.flatnonzero(labels[:, k]).tolist() for k in range(3)] == [[0, 1, 5, 6], [], [4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2", "expected step,start,end"),
        ("0,1,2", "step '0' is not one of 1 to 3"),
        ("4,1,2", "step '4' is not one of 1 to 3"),
        ("1.5,1,2", "step '1.5' is not"),
        ("one,1,2", "'one' is not a number"),
        ("1,nan,2", "'nan' is not a number"),
        ("1,-1,2", "the span .* is invalid"),
        ("1,3,2", "the span .* is invalid"),
    ],
)
def test_a_wrong_annotation_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "1_abc.csv", f"1,0,1\n{line}\n")
    with pytest.raises(InputError, match=f"1_abc.csv, line 2: .*{message}"):
        read_crosstask_annotation(path, num_seconds=7, num_steps=3)


@pytest.fixture
def step_set(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "anno"
    folder.mkdir()
    for name in ("7_abc", "xyz"):
        np.save(folder / f"{name}.npy", np.eye(3, 2))
    return {
        "videos": written(tmp_path / "videos.csv", "task,video_id\n7,abc\n"),
        "annotations": folder,
        "steps": written(tmp_path / "steps.json", json.dumps({"7": ["cut", "stir"], "xyz": ["fry", "eat"]})),
    }


def read(step_set: dict[str, Path], dataset: str = "crosstask") -> list:
    return list(
        read_step_set(step_set["videos"], **{k: step_set[k] for k in ("annotations", "steps")}, dataset=dataset)
    )


def test_the_layout_of_everything_at_once(step_set: dict[str, Path]) -> None:
    (found,) = read(step_set)
    assert (found.video, found.task, found.steps) == ("abc", "7", ("cut", "stir"))
    assert found.truth.tolist() == np.eye(3, 2).astype(bool).tolist()
    written(step_set["videos"], "video_id\nxyz\n")
    (found,) = read(step_set, "miningyoutube")
    assert (found.video, found.task, found.steps) == ("xyz", "", ("fry", "eat"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("videos", "video_id\nabc\n", "no column `task`: found video_id"),
        ("videos", "task,video_id\n7,abc\n8,abc\n", "row 2: .*steps.json has no steps of '8'"),
        ("videos", "task,video_id\n7,../abc\n", "row 1: '../abc' of task '7' cannot be a file's name"),
        ("videos", "task,video_id\n,abc\n", "row 1: video_id, task must be given"),
        ("videos", "task,video_id\n7,lost\n", "7_lost.npy"),
        ("steps", "[1]", "an object from task or video"),
        ("steps", '{"7": "cut"}', "steps of '7' must be a list of texts"),
        ("steps", "{", "not valid JSON"),
        ("steps", '{"7": ["cut"]}', r"7_abc.npy has shape \(3, 2\); \(seconds, 1\) fits"),
    ],
)
def test_what_is_wrong_in_that_layout_is_named(step_set: dict[str, Path], file: str, text: str, message: str) -> None:
    written(step_set[file], text)
    with pytest.raises(InputError, match=message):
        read(step_set)


def test_an_annotation_of_other_numbers_is_refused(step_set: dict[str, Path]) -> None:
    np.save(step_set["annotations"] / "7_abc.npy", np.full((3, 2), 0.5))
    with pytest.raises(InputError, match="other than 0 and 1"):
        read(step_set)
