"""Projects with the systems that Everything at Once is compared with: what they take, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync.sync import make_plan
from helpers.projects import make_clip, run_sync, write_config

SMALL = {"recipe": "everything_at_once_tiny", "overrides": {"epochs": 1, "min_steps": 0, "batch_size": 4}}


def test_howto100m_without_sound(tmp_path: Path) -> None:
    """From videos to answers with a model of two modalities."""
    (tmp_path / "videos").mkdir()
    rows = []
    for colour in ("red", "green", "blue", "grey"):
        make_clip(tmp_path / "videos" / f"{colour}.mp4", colour=colour, pitch=None, seconds=1.0)
        split = "test" if colour in ("blue", "grey") else "train"
        rows.append({"video": f"videos/{colour}.mp4", "captions": [f"a {colour} picture"], "split": split})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(tmp_path, features={"audio": None}, model={"name": "test_howto100m"}, training=SMALL)
    report = run_sync(tmp_path)
    assert report.exit_code == 0, list(report.lines())
    project = Project.open(tmp_path)
    rows = project.table.get(columns=["modalities", "vector"])
    assert [row["modalities"] for row in rows] == ["video"] * 4
    np.testing.assert_allclose([np.linalg.norm(row["vector"]) for row in rows], 1.0, rtol=1e-5)
    assert len(SearchSession(project).search(Query(text="a red picture", top=3))) == 3
    assert evaluate(project).metrics.keys() == {"video"}
    assert run_sync(tmp_path).did_nothing


def project_of(folder: Path, **sections: Any) -> Project:
    (folder / "videos").mkdir(exist_ok=True)
    make_clip(folder / "videos" / "one.mp4", colour="red", pitch=None, seconds=0.5)
    (folder / "captions.jsonl").write_text('{"video": "videos/one.mp4", "captions": ["a red picture"]}\n')
    return Project.open(write_config(folder, **sections))


@pytest.mark.parametrize("name", ["test_howto100m", "test_mil_nce"])
def test_a_feature_that_the_model_does_not_read_is_refused(tmp_path: Path, name: str) -> None:
    project = project_of(tmp_path, model={"name": name})
    with pytest.raises(ConfigError, match=rf"features.audio: the model {name} takes text, video: leave the key out"):
        make_plan(project)


def test_rows_that_the_model_cannot_make_are_refused(tmp_path: Path) -> None:
    sections = {"features": {"audio": None}, "model": {"name": "test_howto100m"}}
    project = project_of(tmp_path, **sections, store={"combinations": ["video", "video+audio"]})
    with pytest.raises(ConfigError, match=r"store.combinations: .* not video\+audio: .* combinations: \[video\]"):
        make_plan(project)
    assert make_plan(project_of(tmp_path, **sections)).train is not None


def test_a_further_modality_is_refused_by_its_key(tmp_path: Path) -> None:
    extra = {"extra_text": {"speech": "transcript"}}
    project = project_of(tmp_path, features=extra, model={"name": "test_avlnet"})
    with pytest.raises(
        ConfigError, match=r"features.extra_text.speech: the model test_avlnet takes text, video, audio:"
    ):
        project.check_model(project.resolve())


@pytest.mark.parametrize("name", ["test_avlnet", "test_mcn"])
def test_models_of_three_modalities_take_all(tmp_path: Path, name: str) -> None:
    project = project_of(tmp_path, model={"name": name})
    project.check_model(project.resolve())


def test_a_given_checkpoint_answers_for_the_table(tmp_path: Path) -> None:
    """A model that was trained elsewhere brings its own modalities, whatever the recipe's model is."""
    from frameloom.fuse import create_model
    from frameloom.train import save_checkpoint

    project = project_of(tmp_path, model={"checkpoint": "given"})
    save_checkpoint(create_model("test_howto100m", video_dim=96, text_dim=16), tmp_path / "given")
    with pytest.raises(ConfigError, match=r"combinations: the model test_howto100m takes text, video, and not audio"):
        project.check_model(project.resolve())
