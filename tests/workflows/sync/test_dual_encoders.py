"""Projects over towers of one model of transformers: pictures, windows of frames or sound, and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from frameloom import ConfigError
from frameloom._vocabulary import InputError
from frameloom.extract import create_backbone, extract_file
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.index import Index
from frameloom.workflows.project.config import write_template
from frameloom.workflows.project.presets import list_presets
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync.sync import make_plan
from helpers.models import save_model
from helpers.projects import COLOURS, PITCHES_HZ, make_clip, run_sync, write_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("models")

    def folder(family: str, seed: int = 0) -> str:
        path = root / f"{family}-{seed}"
        return str(path if path.exists() else save_model(family, path, seed=seed))

    return folder


def towers(folder: str, *media: str, **text: Any) -> dict[str, Any]:
    """The sections of a project whose towers are of one folder."""
    found: dict[str, Any] = dict.fromkeys(("video", "audio"))
    for name in media:
        found[name] = {"backbone": f"transformers_{name}", "weights": folder, "options": {}}
    return {
        "features": {**found, "text": {"backbone": "transformers_text", "weights": folder, "options": {}, **text}},
        "training": {"recipe": "dual_encoder", "overrides": {}},
        "model": {"name": None},
        "collection": {"captions": None},
    }


def write_videos(folder: Path, *, seconds: float = 2.0) -> list[str]:
    (folder / "videos").mkdir(exist_ok=True)
    names = []
    for number, colour in enumerate(COLOURS):
        names.append(f"videos/{colour}.mp4")
        pitch = list(PITCHES_HZ)[number % 2]
        make_clip(folder / names[-1], colour=colour, pitch=pitch, seconds=seconds)
    return names


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class TestPictures:
    @pytest.fixture
    def project(self, tmp_path: Path, models: Any) -> Path:
        write_videos(tmp_path)
        write_config(tmp_path, **towers(models("clip"), "video"))
        report = run_sync(tmp_path)
        assert report.exit_code == 0, list(report.lines())
        assert (report.done["trained"], report.done["assembled"]) == (0, 1)
        return tmp_path

    def test_every_question_is_the_unit_mean_of_unit_rows(self, project: Path, models: Any) -> None:
        """Of a text, of frames, and of both: the mean of their vectors."""
        session = SearchSession(Project.open(project))
        text = create_backbone("transformers_text", weights=models("clip"))
        pictures = create_backbone("transformers_video", weights=models("clip"))
        words = unit(text.encode("a red picture").values[0])
        (rows,) = extract_file(project / "videos/red.mp4", [pictures]).values()
        assert len(rows.values) == 2
        seen = unit(unit(rows.values).mean(axis=0))
        scores: dict[str, dict[str, float]] = {}
        questions = {"text": {"text": "a red picture"}, "video": {"video": project / "videos/red.mp4"}}
        questions["both"] = questions["text"] | questions["video"]
        for name, question in questions.items():
            scores[name] = {one.video: one.score for one in session.search(Query(**question, top=10))}
        assert scores["video"]["videos/red.mp4"] == pytest.approx(1, abs=1e-3)
        assert scores["text"]["videos/red.mp4"] == pytest.approx(float(words @ seen), abs=2e-3)
        assert scores["both"]["videos/red.mp4"] == pytest.approx(float(unit(words + seen) @ seen), abs=2e-3)
        for video in scores["both"]:
            mean = (scores["text"][video] + scores["video"][video]) / np.linalg.norm(words + seen)
            assert scores["both"][video] == pytest.approx(mean, abs=4e-3)
        session.close()

    def test_nothing_is_done_twice_and_a_prompt_changes_words_alone(self, project: Path, models: Any) -> None:
        assert run_sync(project).did_nothing
        write_config(project, **towers(models("clip"), "video", options={"prompt": "a photo of {}"}))
        done = run_sync(project).done
        assert (done["extracted"], done["assembled"]) == (0, 1)
        write_config(project, **towers(models("clip", 1), "video"))
        assert run_sync(project).done["extracted"] == len(COLOURS)

    def test_is_judged_on_captions(self, project: Path, models: Any) -> None:
        rows = [{"video": f"videos/{name}.mp4", "captions": [f"a {name} picture"], "split": "test"} for name in COLOURS]
        (project / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_config(project, **towers(models("clip"), "video") | {"collection": {"captions": "captions.jsonl"}})
        assert run_sync(project).exit_code == 0
        assert evaluate(Project.open(project)).metrics.keys() == {"video"}


def test_windows_of_frames(tmp_path: Path, models: Any) -> None:
    write_videos(tmp_path)
    write_config(tmp_path, **towers(models("x_clip"), "video"))
    assert run_sync(tmp_path).exit_code == 0
    found = Index(tmp_path).search("a red picture", video=tmp_path / "videos/red.mp4", top=10)
    assert len(found) == len(COLOURS)


class TestSound:
    def test_is_found_by_words_and_by_sound(self, tmp_path: Path, models: Any) -> None:
        names = write_videos(tmp_path)
        make_clip(tmp_path / "videos/silent.mp4", colour="red", pitch=None)
        write_config(tmp_path, **towers(models("clap"), "audio"))
        report = run_sync(tmp_path)
        assert report.done["assembled"] == 1
        index = Index(tmp_path)
        assert {one.video for one in index.search("the sound of a dog", top=10)} == {*names}
        found = index.search(audio=tmp_path / "videos/red.mp4", top=10)
        assert {one.video for one in found[:2]} == {"videos/red.mp4", "videos/blue.mp4"}  # of one tone
        assert found[0].modalities == "audio"
        assert found[0].score == pytest.approx(1, abs=1e-3)
        mixed = index.search("the sound of a dog", audio=tmp_path / "videos/red.mp4", top=10)
        assert 0 < mixed[0].score < 1
        with pytest.raises(ConfigError, match=r"no video feature: add features\.video"):
            index.search(video=tmp_path / "videos/red.mp4")
        index.close()

    def test_a_long_track_is_the_unit_mean_of_its_windows(self, tmp_path: Path, models: Any) -> None:
        (tmp_path / "videos").mkdir()
        make_clip(tmp_path / "videos/long.mp4", colour="red", pitch="low", seconds=13)
        make_clip(tmp_path / "videos/short.mp4", colour="red", pitch="high", seconds=2)
        config = towers(models("clap"), "audio") | {"collection": {"captions": None, "clip_seconds": None}}
        write_config(tmp_path, **config)
        assert run_sync(tmp_path).exit_code == 0
        sound = create_backbone("transformers_audio", weights=models("clap"))
        (rows,) = extract_file(tmp_path / "videos/long.mp4", [sound]).values()
        assert len(rows.values) == 2
        words = create_backbone("transformers_text", weights=models("clap")).encode("a dog").values[0]
        expected = float(unit(words) @ unit(unit(rows.values).mean(axis=0)))
        found = {one.video: one.score for one in Index(tmp_path).search("a dog", top=5)}
        assert found["videos/long.mp4"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("preset", ["clip", "siglip2", "clap"])
def test_presets_search_with_the_model_that_is_given(tmp_path: Path, models: Any, preset: str) -> None:
    assert preset in list_presets()
    write_videos(tmp_path)
    write_template(tmp_path / "frameloom.yaml", videos=["videos"], captions=None, preset=preset, weights=models(preset))
    config = yaml.safe_load((tmp_path / "frameloom.yaml").read_text())
    (tmp_path / "frameloom.yaml").write_text(yaml.safe_dump(config | {"run": {"workers": 0}}))
    assert run_sync(tmp_path).exit_code == 0
    assert len(Index(tmp_path).search("a red picture", top=10)) == len(COLOURS)


def test_presets_without_a_model_say_what_to_give(tmp_path: Path) -> None:
    write_template(tmp_path / "frameloom.yaml", videos=["videos"], captions=None, preset="clip")
    with pytest.raises(ConfigError, match=r"features\.video\.weights: transformers_video needs a model: give a folder"):
        Project.open(tmp_path)
    (tmp_path / "frameloom.yaml").unlink()
    with pytest.raises(ConfigError, match="the preset ready names its own weights: leave --weights out"):
        write_template(tmp_path / "frameloom.yaml", videos=["videos"], captions=None, preset="ready", weights="folder")
    assert not (tmp_path / "frameloom.yaml").exists()


class TestTowersThatDoNotFit:
    """Said before any work, in one line."""

    def refused(self, folder: Path, sections: dict[str, Any], words: str) -> None:
        (folder / "videos").mkdir(exist_ok=True)
        if not (folder / "videos/red.mp4").exists():
            make_clip(folder / "videos/red.mp4", colour="red", pitch="low", seconds=1)
        write_config(folder, **sections)
        with pytest.raises((ConfigError, InputError), match=words) as caught:
            make_plan(Project.open(folder))
        assert "\n" not in str(caught.value)

    def test_of_two_models(self, tmp_path: Path, models: Any) -> None:
        sections = towers(models("clip"), "video", weights=models("clip", 1))
        self.refused(tmp_path, sections, "rows of different models cannot be compared")
        self.refused(
            tmp_path, towers(models("clip"), "video", weights=models("siglip")), "rows of different models cannot"
        )

    def test_a_project_without_words(self, tmp_path: Path, models: Any) -> None:
        sections = towers(models("clap"), "audio")
        sections["features"] = {**sections["features"], "text": None}
        self.refused(
            tmp_path, sections, r"features\.text: the model dual_encoder compares words with pictures or sound"
        )

    def test_a_tower_under_the_wrong_name(self, tmp_path: Path, models: Any) -> None:
        self.refused(tmp_path, towers(models("clap"), "video"), "reads texts and sound: use it with transformers_audio")

    def test_a_model_that_was_not_fetched(self, tmp_path: Path) -> None:
        self.refused(
            tmp_path,
            towers("hf://openai/clip-vit-base-patch32@main", "video"),
            "run `frameloom weights fetch transformers_video hf://openai/clip-vit-base-patch32@main` first",
        )

    def test_imported_rows_of_an_unknown_model(self, tmp_path: Path) -> None:
        self.refused(tmp_path, towers("imported:mine", "video"), "transformers_video needs a model")
