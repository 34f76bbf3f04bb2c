"""Pre-training on narrated videos from a project: sentences are the captions of a video's spans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from frameloom import InputError
from frameloom.train import read_checkpoint
from frameloom.train.data import NarratedDataset, training_data
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import take_state
from frameloom.workflows.sync.examples import training_set
from helpers.projects import make_clip, run_sync, write_config


def make_narrated(folder: Path) -> None:
    """Six videos of six seconds, with two to three sentences each; in the last nothing is said."""
    (folder / "videos").mkdir(parents=True)
    rows = []
    for number, colour in enumerate(["red", "green", "blue", "grey", "red", "green"]):
        name = f"videos/{number} {colour}.mp4"
        make_clip(folder / name, colour=colour, pitch="low" if number % 2 else "high", seconds=6.0)
        for start in range(0, 6 if number < 5 else 0, 2 + number % 2):
            row = {"video": name, "captions": [f"now a {colour} one at {start}"], "split": "train"}
            rows.append({**row, "start_seconds": start, "end_seconds": start + 2})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_project(folder: Path) -> None:
    overrides = {
        "narration": {"clips_per_video": 3, "min_seconds": 3.0, "audio_shift": "later"},
        "epochs": 2,
        "min_steps": 0,
        "batch_size": 3,
    }
    write_config(folder, training={"recipe": "everything_at_once_tiny", "overrides": overrides})


def test_a_project_trains_on_clips_drawn_of_its_videos(tmp_path: Path) -> None:
    make_narrated(tmp_path)
    write_project(tmp_path)
    report = run_sync(tmp_path)
    assert report.exit_code == 0, list(report.lines())
    project = Project.open(tmp_path)
    checkpoint = project.resolve().checkpoint
    assert checkpoint is not None
    assert checkpoint.num_examples == 6
    assert read_checkpoint(checkpoint.folder).provenance["training"]["step"] == 2 * 2

    found = training_set(project.recipe, take_state(project).clips)
    assert found.digest == checkpoint.examples_digest
    assert [len(one.sentences) for one in found.videos] == [3, 2, 3, 2, 3, 0]
    data = training_data(
        checkpoint.folder / "examples.parquet",
        str(project.store.root),
        limits=project.resolve().limits,
        seed=project.recipe.seed,
        narration=project.recipe.narration.model_dump(),
    )
    assert isinstance(data, NarratedDataset)
    clips = data[0]
    assert len(clips) == 3
    assert all(clip["video"] is not None and len(clip["video"]) >= 3 for clip in clips)
    assert data[5][0]["text"] is None
    assert run_sync(tmp_path).did_nothing


def test_another_sentence_is_another_training_set(tmp_path: Path) -> None:
    make_narrated(tmp_path)
    write_project(tmp_path)
    run_sync(tmp_path)
    before = Project.open(tmp_path).resolve().checkpoint
    path = tmp_path / "captions.jsonl"
    path.write_text(path.read_text().replace("now a blue one at 2", "a blue one now"))
    run_sync(tmp_path)
    project = Project.open(tmp_path)
    now = training_set(project.recipe, take_state(project).clips)
    assert before is not None
    assert now.digest != before.examples_digest
    assert "a blue one now" in now.videos[2].sentences


def test_videos_in_which_nothing_is_said_are_refused(tmp_path: Path) -> None:
    make_narrated(tmp_path)
    write_project(tmp_path)
    path = tmp_path / "captions.jsonl"
    rows = [{**json.loads(line), "captions": []} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="nothing is said in any of 6 narrated videos"):
        run_sync(tmp_path)
