"""A fourth modality by configuration alone: what is said in a clip, as a second stream of text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError
from frameloom.train import read_checkpoint
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync import take_state
from helpers.projects import make_collection, run_sync, write_config

COMBINATIONS = ["video", "video+audio", "speech", "video+audio+speech"]


def write_project(folder: Path, *, column: str = "transcript") -> Path:
    features = {
        "video": {"backbone": "test_resnet"},
        "audio": {"backbone": "logmel_avlnet"},
        "text": {"backbone": "word2vec", "options": {"dim": 12}},
        "extra_text": {"speech": column},
    }
    return write_config(folder, features=features, store={"combinations": COMBINATIONS})


def told(folder: Path, transcripts: dict[str, str]) -> None:
    """Write what is said in each clip, by the colour that it shows."""
    path = folder / "captions.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["transcript"] = next((text for colour, text in transcripts.items() if colour in row["video"]), None)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def spoken_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken") / "project"
    make_collection(folder)
    told(folder, {"red": "a red thing i say", "green": "and green it is", "grey": "a red tone"})
    write_project(folder)
    report = run_sync(folder)
    assert report.exit_code == 0, list(report.lines())
    return folder


@pytest.fixture
def spoken(spoken_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(spoken_once, tmp_path / "project"))


def rows_of(folder: Path) -> dict[str, set[str]]:
    """The combinations of each video."""
    found: dict[str, set[str]] = {}
    for row in Project.open(folder).table.get(columns=["video", "modalities"]):
        found.setdefault(row["video"], set()).add(row["modalities"])
    return found


def test_clips_have_rows_of_what_they_have(spoken: Path) -> None:
    rows = rows_of(spoken)
    assert rows["videos/red & low.v1.mp4"] == set(COMBINATIONS)
    assert rows["videos/blue & low.v1.mp4"] == {"video", "video+audio"}
    assert rows["videos/grey & low.v1.mp4"] == set(COMBINATIONS)


def test_the_model_was_made_for_it_and_trained_on_it(spoken: Path) -> None:
    project = Project.open(spoken)
    checkpoint = project.resolve().checkpoint
    assert checkpoint is not None
    meta = read_checkpoint(checkpoint.folder)
    assert meta.config["extra_dims"] == {"speech": 12}
    assert meta.provenance["features"]["speech"] == meta.provenance["features"]["text"]


def test_it_is_searched_and_judged(spoken: Path) -> None:
    project = Project.open(spoken)
    (best,) = SearchSession(project).search(Query(text="a green picture", modalities="speech", top=1))
    assert "red" in best.video or "green" in best.video or "grey" in best.video
    # A clip is found through its primary row; the silent one has none of all three.
    found = SearchSession(project).search(Query(text="a red picture", where="views = 0"))
    assert {one.video: one.modalities for one in found} == {
        "videos/red & low.v1.mp4": "video+audio+speech",
        "videos/red & None.v1.mp4": "video",
    }
    assert set(evaluate(project, split="test").metrics) == set(COMBINATIONS)


def test_only_a_clip_of_which_something_else_is_said_is_embedded_anew(spoken: Path) -> None:
    before = {row["id"]: row["fingerprint"] for row in Project.open(spoken).table.get(columns=["id", "fingerprint"])}
    told(spoken, {"red": "a red thing i say", "green": "green with a tone", "grey": "a red tone"})
    report = run_sync(spoken)
    assert report.exit_code == 0
    after = {row["id"]: row["fingerprint"] for row in Project.open(spoken).table.get(columns=["id", "fingerprint"])}
    states = take_state(Project.open(spoken)).clips
    green = {state.clip.clip_id for state in states if "green" in state.clip.video}
    assert {name.split("-")[0] for name in after if before.get(name) != after[name]} == green
    assert run_sync(spoken).did_nothing


def test_words_without_a_known_one_are_no_modality(spoken: Path) -> None:
    told(spoken, {"red": "xyzzy plugh"})
    assert run_sync(spoken).exit_code == 0
    assert rows_of(spoken)["videos/red & low.v1.mp4"] == {"video", "video+audio"}


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    make_collection(tmp_path)
    write_project(tmp_path, column="transcrpt")
    with pytest.raises(ConfigError, match=r"features\.extra_text\.speech: .* no column 'transcrpt'.*views"):
        run_sync(tmp_path)
    assert not (tmp_path / ".frameloom" / "vectors").exists()
