"""Projects that are searched by what is said in their videos, with the stand-in of faster-whisper."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from frameloom import ConfigError, FrameloomError, InputError
from frameloom.extract.speech import whisper as module
from frameloom.workflows.cli.app import app
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from frameloom.workflows.project.presets import preset_text
from frameloom.workflows.sync import make_plan, take_state
from helpers.media import steady, write_media
from helpers.models import StandIn, spoken, whisper, write_model
from helpers.projects import COLOURS, run_sync, write_config
from typer.testing import CliRunner

__all__ = ["whisper"]  # a fixture
FILMS: dict[str, tuple[float | None, ...] | None] = {
    "red": (220.0, 880.0, None, 440.0),
    "green": (None, None, 1760.0, 440.0),
    "blue": (None, None, None, None),
    "grey": None,
}
"""What is said in each second of each video; None where it has no sound."""
READY: dict[str, Any] = {
    "collection": {"captions": None, "clip_seconds": 2},
    "features": {
        "video": {"backbone": "test_classes"},
        "audio": None,
        "text": {"backbone": "test_bert", "options": {"pooling": "mean_of_all"}},
    },
    "model": {"name": None},
    "training": {"recipe": "imagenet_labels", "overrides": {}},
    "store": {"combinations": ["video"]},
}
SPEECH = {"backbone": "whisper", "weights": "model"}


def write(folder: Path, *, speech: Any = SPEECH, **sections: Any) -> Path:
    merged = {name: {**READY.get(name, {}), **sections.get(name, {})} for name in {*READY, *sections}}
    merged["features"] = {**merged["features"], **({} if speech is None else {"speech": speech})}
    return write_config(folder, **merged)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of four seconds, and a folder of weights."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "videos").mkdir()
    for colour, said in FILMS.items():
        picture = np.full((64, 64, 3), COLOURS[colour], np.uint8)
        sound = None if said is None else spoken(*said)[None]
        path = folder / "videos" / f"{colour}.mp4"
        write_media(path, instants=steady(32, 8), paint=lambda _, one=picture: one, frame_rate=8, sound=sound)
    write_model(folder / "model")
    return folder


@pytest.fixture
def project(films: Path, tmp_path: Path, whisper: type[StandIn]) -> Path:
    return write(Path(shutil.copytree(films, tmp_path / "project"))).parent


def columns(folder: Path) -> dict[tuple[str, float], str | None]:
    rows = Project.open(folder).table.get(columns=["video", "start_seconds", "speech"])
    return {(Path(row["video"]).stem, row["start_seconds"]): row["speech"] for row in rows}


def test_clips_are_found_by_what_is_said(project: Path, whisper: type[StandIn]) -> None:
    report = run_sync(project)
    assert report.exit_code == 0, list(report.lines())
    assert columns(project) == {
        ("red", 0.0): "telescope Goddard",
        ("red", 2.0): "rivers",
        ("green", 0.0): None,
        ("green", 2.0): "running rivers",
        ("blue", 0.0): None,
        ("blue", 2.0): None,
        ("grey", 0.0): None,
        ("grey", 2.0): None,
    }
    index = Index(project)
    (found,) = index.search("Goddard", modalities="speech")
    assert (Path(found.video).stem, found.start_seconds) == ("red", 0.0)
    (score,) = found.scores
    assert (score.name, score.better, score.value) == ("speech", "higher", found.score)
    assert found.score > 0
    several = index.search("a river that runs", modalities="speech")
    assert [(Path(one.video).stem, one.start_seconds) for one in several] == [("green", 2.0), ("red", 2.0)]
    assert not index.search("nobody knows this word", modalities="speech")
    for one in (
        index.search("rivers", modalities="speech", top=1),
        index.search("rivers", modalities="speech", offset=1),
    ):
        assert len(one) == 1
    assert len(index.search("rivers", modalities="speech", where="start_seconds > 5")) == 0
    assert len(index.search("telescope", where="speech LIKE '%scope%'")) == 1


def test_an_answer_says_which_seconds_carried_it(project: Path) -> None:
    run_sync(project)
    index = Index(project)
    (found,) = index.search("where is the telescope of Goddard", modalities="speech", explain=True)
    assert found.explanation is not None
    (said,) = found.explanation.speech
    assert (said.start_seconds, said.end_seconds) == pytest.approx((0.1, 1.9), abs=0.01)
    assert (said.text, said.words) == ("telescope Goddard", ("telescope", "Goddard"))
    assert found.moment_seconds == pytest.approx(1.0, abs=0.01)
    assert "said 0.1-1.9: telescope Goddard" in found.explanation.lines()
    hybrid = index.search("runs", hybrid=True, explain=True, top=1)[0]
    assert hybrid.explanation is not None
    assert [one.words for one in hybrid.explanation.speech] == [("runs",)]
    assert 2 < hybrid.explanation.speech[0].start_seconds < 3
    assert hybrid.explanation.senses.keys() == {"sight"}


def test_hybrid_fuses_speech_by_ranks(project: Path) -> None:
    run_sync(project)
    index = Index(project)
    plain = [one.clip for one in index.search("Goddard", top=8)]
    (said,) = index.search("Goddard", modalities="speech")
    found = index.search("Goddard", hybrid=True, top=8)
    assert found[0].clip == said.clip
    assert {one.name: one.value for one in found[0].scores}.keys() == {"sight", "speech", "fused"}
    assert found[0].score == pytest.approx(1 / (61 + plain.index(said.clip)) + 1 / 61)
    assert all("speech" not in [score.name for score in one.scores] for one in found[1:])
    many = index.search_many(["Goddard", "rivers"], modalities="speech")
    assert [[one.clip for one in each] for each in many] == [
        [one.clip for one in index.search(text, modalities="speech")] for text in ("Goddard", "rivers")
    ]
    merged = index.search("telescope rivers", modalities="speech", merge=True)
    assert {Path(one.video).stem for one in merged} == {"red", "green"}
    assert (Path(merged[0].video).stem, merged[0].start_seconds) == ("red", 0.0)


def test_videos_without_sound_or_words_have_a_status_and_are_no_failure(project: Path) -> None:
    report = run_sync(project)
    assert (report.exit_code, "4 discovered = 4 indexed" in "\n".join(report.lines())) == (0, True)
    statuses = {
        state.name.rpartition("/")[2]: next(one.status for one in state.streams if one.request.purpose == "speech")
        for state in take_state(Project.open(project)).survey.videos
    }
    assert {name: status[0].value for name, status in statuses.items() if status} == {
        "red.mp4": "ok", "green.mp4": "ok", "blue.mp4": "no_text", "grey.mp4": "no_audio",
    }  # fmt: skip


def test_nothing_is_heard_twice(project: Path, whisper: type[StandIn]) -> None:
    run_sync(project)
    heard = len(whisper.asked)
    assert make_plan(Project.open(project, read_only=True)).is_empty
    report = run_sync(project)
    assert (len(whisper.asked), report.done["extracted"]) == (heard, 0)
    (project / "videos" / "red.mp4").rename(project / "videos" / "renamed.mp4")
    run_sync(project)
    assert len(whisper.asked) == heard
    assert columns(project)["renamed", 0.0] == "telescope Goddard"


def test_speech_is_added_to_a_project_and_taken_away(project: Path, whisper: type[StandIn], decodes: list[str]) -> None:
    """Other features, clips and the model stay; rows get the column, and lose what is in it."""
    write(project, speech=None)
    run_sync(project)
    before = Project.open(project)
    ids = {row["id"] for row in before.table.get(columns=["id"])}
    key = before.resolve().model_key
    assert not whisper.asked
    decodes.clear()
    write(project)
    report = run_sync(project)
    assert report.exit_code == 0
    assert sorted(decodes) == ["blue.mp4", "green.mp4", "grey.mp4", "red.mp4"]  # once each, for speech alone
    after = Project.open(project)
    assert {row["id"] for row in after.table.get(columns=["id"])} == ids
    assert after.resolve().model_key == key
    assert columns(project)["red", 0.0] == "telescope Goddard"
    write(project, speech={**SPEECH, "options": {"language": "en"}})  # another transcript
    run_sync(project)
    assert len(whisper.asked) == 6
    write(project, speech=None)
    run_sync(project)
    assert set(columns(project).values()) == {None}
    with pytest.raises(InputError, match="the table has rows of video"):
        Index(project).search("rivers", modalities="speech")


def test_a_changed_file_is_heard_anew(project: Path, whisper: type[StandIn]) -> None:
    run_sync(project)
    sound = spoken(880, 880, None, None)[None]
    write_media(project / "videos" / "grey.mp4", instants=steady(32, 8), frame_rate=8, sound=sound)
    run_sync(project)
    assert columns(project)["grey", 0.0] == "Goddard Goddard"
    assert {Path(one.video).stem for one in Index(project).search("Goddard", modalities="speech")} == {"red", "grey"}


def test_where_nobody_speaks_nothing_is_found(project: Path) -> None:
    for name in ("red", "green"):
        (project / "videos" / f"{name}.mp4").unlink()
    assert run_sync(project).exit_code == 0
    assert Index(project).search("Goddard", modalities="speech") == []


def test_shards_are_the_same_whatever_was_there_before(project: Path, films: Path, tmp_path: Path) -> None:
    """Speech has batches of its own: made together with the rest or later, alone or not."""
    run_sync(project)
    other = Path(shutil.copytree(films, tmp_path / "other"))
    write(other, speech=None)
    run_sync(other)
    write(other)
    run_sync(other)

    def shards(folder: Path) -> set[str]:
        return {path.name for path in (folder / ".frameloom").rglob("*.h5")}

    assert len(shards(project)) >= 3
    assert shards(project) == shards(other)
    write(other, store={"format": "webdataset", "path": "tar"})
    run_sync(other)
    assert columns(other) == columns(project)


def test_mistakes_are_said_in_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sync(project)
    index = Index(project)
    clip = index.search("red", top=1)[0].clip
    for question in ({"like": clip}, {"text": "red", "unlike": clip}, {"text": "red", "hybrid": True}):
        with pytest.raises(InputError, match="speech is searched for words"):
            index.search(**question, modalities="speech")
    for speech, words in (
        ({"backbone": "logmel_avlnet"}, "gives no words: use whisper"),
        ({"backbone": "test_resnet"}, "features.speech.backbone: 'test_resnet' reads video"),
        ({"backbone": "whisper"}, "needs weights"),
        ([SPEECH, dict(SPEECH)], "takes one backbone"),
        ({**SPEECH, "options": {"beam": 0}}, "beam"),
    ):
        with pytest.raises(ConfigError, match=words):
            Project.open(write(project, speech=speech))
    with pytest.raises(ConfigError, match="rows of whisper are words"):
        Project.open(write(project, speech=None, features={"audio": SPEECH}))
    with pytest.raises(ConfigError, match="leave one of them out"):
        Project.open(write(project, features={"extra_text": {"speech": "said"}}))
    row = {"video": "videos/red.mp4", "captions": ["red"], "Speech": "a column"}
    (project / "captions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="the manifest has one: rename that"):
        _ = Project.open(write(project, collection={"captions": "captions.jsonl"})).collection
    write(project, store={"table": "fresh"}, speech=None)
    run_sync(project)
    write(project, store={"table": "fresh"})
    with pytest.raises(FrameloomError, match="not in the table yet: run `frameloom sync`"):
        Index(project).search("red", modalities="speech")
    write(project, store={"path": "new"})
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "faster_whisper" else find(name, *more)
    )
    done = CliRunner().invoke(app, ["sync", "-c", str(project / "frameloom.yaml")])
    assert done.exit_code == 2
    assert "pip install 'frameloom[speech]'" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", ["ready", "clip", "siglip2", "clap", "everything_at_once"])
def test_presets_name_it_and_leave_it_out(name: str) -> None:
    text = preset_text(name)
    assert not (yaml.safe_load(text)["features"] or {}).get("speech")
    (line,) = [one for one in text.splitlines() if one.strip().startswith("# speech:")]
    speech = yaml.safe_load(line.strip().removeprefix("# "))["speech"]
    assert (speech["backbone"], speech["weights"]) == ("whisper", module.PACKAGED.tag)
