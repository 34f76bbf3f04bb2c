"""The command line: what it prints where, and the exit code that follows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from frameloom.store import writer_lock
from frameloom.workflows.cli.app import app
from helpers.field_media import Maker
from helpers.projects import make_clip, write_config
from typer.testing import CliRunner, Result


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    runner = CliRunner()

    def invoke(*arguments: str, cwd: Path) -> Result:
        monkeypatch.chdir(cwd)
        return runner.invoke(app, arguments)

    return invoke


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("frameloom: ")
    return lines[0]


def test_init_writes_a_configuration_that_names_its_folder(run: Any, tmp_path: Path) -> None:
    videos = tmp_path / "my videos"
    videos.mkdir()
    make_clip(videos / "a.mp4", colour="red", pitch=None)
    (tmp_path / "c.jsonl").write_text('{"video": "my videos/a.mp4", "captions": ["red"]}\n')
    project = tmp_path / "project"
    project.mkdir()
    result = run("init", str(videos), "--captions", "../c.jsonl", cwd=project)
    assert result.exit_code == 0
    assert "1 videos, 1 of them with captions" in result.stdout
    assert [path.name for path in project.iterdir()] == ["frameloom.yaml"]
    again = run("init", str(videos), cwd=project)
    assert again.exit_code == 2
    assert "exists" in one_line(again)


def test_init_writes_the_model_that_is_given_twice(run: Any, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", colour="red", pitch=None)
    result = run("init", ".", "--preset", "siglip2", "--weights", "hf://some/model@abc", cwd=tmp_path)
    assert result.exit_code == 0
    features = yaml.safe_load((tmp_path / "frameloom.yaml").read_text())["features"]
    assert {name: one["weights"] for name, one in features.items()} == dict.fromkeys(
        ("video", "text"), "hf://some/model@abc"
    )
    assert "weights fetch transformers_video hf://some/model@abc" in one_line(run("sync", cwd=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "does not exist"]),
        (["empty"], ["no videos found", ".mp4"]),
        (["videos", "--captions", "nowhere.jsonl"], ["nowhere.jsonl", "does not exist"]),
        (["videos", "--captions", "bad.jsonl"], ["row 1", "no column `captions`"]),
        (["videos", "--captions", "bad.txt"], ["ends in .csv"]),
        (["videos", "--preset", "clipp"], ["no preset 'clipp'", "clip"]),
        (["videos", "--preset", "ready", "--weights", "model"], ["ready names its own weights"]),
    ],
)
def test_init_with_bad_input_is_one_line_and_writes_nothing(
    run: Any, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("x")
    (tmp_path / "bad.jsonl").write_text('{"video": "videos/a.mp4"}\n')
    (tmp_path / "bad.txt").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    result = run("init", *arguments, cwd=tmp_path)
    assert result.exit_code == 2
    assert all(word in one_line(result) for word in words), result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["sync", "extract", "train", "embed", "status", "query"])
def test_every_command_says_that_there_is_no_project(run: Any, tmp_path: Path, command: str) -> None:
    result = run(command, *(["words"] if command == "query" else []), cwd=tmp_path)
    assert result.exit_code == 2
    assert "frameloom init" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_unknown_command_and_option_are_usage_errors(run: Any, tmp_path: Path) -> None:
    assert run("snyc", cwd=tmp_path).exit_code == 2
    assert run("sync", "--dryrun", cwd=tmp_path).exit_code == 2


def test_json_is_one_document_and_nothing_else(run: Any, synced: Path) -> None:
    for arguments in (["sync", "--json"], ["sync", "--dry-run", "--json"], ["status", "--json"]):
        result = run(*arguments, cwd=synced)
        assert result.exit_code == 0, result.stderr
        assert isinstance(json.loads(result.stdout), dict)
    for arguments in (["query", "a red picture", "--json"], ["backbones", "--json"], ["models", "--json"]):
        result = run(*arguments, cwd=synced)
        assert result.exit_code == 0, result.stderr
        assert isinstance(json.loads(result.stdout), list)


def test_nothing_to_do_is_said(run: Any, synced: Path) -> None:
    result = run("sync", cwd=synced)
    assert result.exit_code == 0
    assert "nothing to do" in result.stdout
    assert "8 discovered = 8 indexed + 0 partial + 0 rejected + 0 quarantined + 0 pending" in result.stdout
    assert "nothing to do" in run("sync", "--dry-run", cwd=synced).stdout


def test_query_names_file_span_and_score(run: Any, synced: Path) -> None:
    result = run("query", "a red picture", "--json", "--top", "3", "--where", "split = 'train'", cwd=synced)
    found = json.loads(result.stdout)
    assert len(found) == 3
    for row in found:
        assert {"video", "path", "start_seconds", "end_seconds", "score", "clip"} <= row.keys()
        assert Path(row["path"]).is_file()
        assert row["split"] == "train"
        assert 0 <= row["start_seconds"] < row["end_seconds"] <= 2.5
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    like = json.loads(run("query", "--like", found[0]["clip"], "--json", cwd=synced).stdout)
    assert found[0]["clip"] not in [row["clip"] for row in like]
    path = str(synced / "videos" / "red & low.v1.mp4")
    same = json.loads(run("query", "--video", path, "--audio", path, "--json", cwd=synced).stdout)
    assert same[0]["video"] == "videos/red & low.v1.mp4"
    assert same[0]["score"] == pytest.approx(1, abs=1e-4)
    only = json.loads(run("query", "red", "--modalities", "audio", "--json", cwd=synced).stdout)
    assert {row["modalities"] for row in only} == {"audio"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["empty question"]),
        ([" "], 2, ["empty question"]),
        (["xylophone"], 2, ["no word", "xylophone"]),
        (["red", "--top", "0"], 2, ["top = 0"]),
        (["red", "--where", "colour = 'red'"], 2, ["colour", "split"]),
        (["red", "--where", "split = 'test"], 2, ["filter"]),
        (["red", "--modalities", "smell"], 2, ["smell", "rows of video, audio, video+audio"]),
        (["red", "--modalities", ""], 2, ["''", "rows of video, audio, video+audio"]),
        (["red", "--modalities", "text+video"], 2, ["text+video", "rows of video, audio, video+audio"]),
        (["--like", "nothing"], 2, ["nothing", "clip"]),
        (["--like", "x' OR 1=1 --"], 2, ["no clip"]),
        (["--video", "nowhere.mp4"], 2, ["nowhere.mp4", "missing"]),
        (["--audio", "videos/red & None.v1.mp4"], 2, ["no_audio"]),
    ],
)
def test_bad_questions_are_one_line(run: Any, synced: Path, arguments: list[str], code: int, words: list[str]) -> None:
    result = run("query", *arguments, cwd=synced)
    assert all(word in one_line(result) for word in words), result.stderr
    assert result.exit_code == code


def test_probe_lists_every_file(run: Any, synced: Path) -> None:
    (synced / "videos" / "text.mp4").write_text("no video")
    result = run("probe", "videos", "nowhere.mp4", "--json", cwd=synced)
    found = {Path(row["path"]).name: row["status"] for row in json.loads(result.stdout)}
    assert len(found) == 10
    assert (found["red & low.v1.mp4"], found["text.mp4"], found["nowhere.mp4"]) == ("ok", "not_media", "missing")
    assert result.exit_code == 3
    plain = run("probe", "videos/red & low.v1.mp4", "videos/red & None.v1.mp4", cwd=synced)
    assert plain.exit_code == 0
    assert "64x64 h264, aac 16000 Hz" in plain.stdout
    assert "no sound" in plain.stdout


@pytest.mark.parametrize("place", [0, 1])
def test_probe_names_the_track_that_is_used(run: Any, tmp_path: Path, place: int) -> None:
    tracks = [(128, 1, 25.0)]  # a larger still
    tracks.insert(place, (64, 58, 28.0))
    (tmp_path / "two.mp4").write_bytes(Maker(tmp_path).tracks("mp4", tracks))
    assert f"64x48 h264 (stream {place} of 2), no sound" in run("probe", "two.mp4", cwd=tmp_path).stdout


def test_extract_train_embed_do_one_stage_each(run: Any, synced: Path) -> None:
    assert run("extract", cwd=synced).exit_code == 0
    assert "up to date" in run("train", cwd=synced).stdout
    assert run("embed", cwd=synced).exit_code == 0
    write_config(synced, training={"overrides": {"epochs": 1, "min_steps": 0, "batch_size": 4}})
    result = run("embed", cwd=synced)
    assert result.exit_code == 2
    assert "frameloom train" in one_line(result)


def test_failures_end_with_3_and_are_named(run: Any, synced: Path) -> None:
    (synced / "videos" / "text.mp4").write_text("no video")
    result = run("sync", cwd=synced)
    assert result.exit_code == 3
    assert "videos/text.mp4: not_media:" in result.stdout


def test_lock_held_by_another_is_exit_code_6(run: Any, synced: Path) -> None:
    with writer_lock(synced / ".frameloom"):
        result = run("sync", cwd=synced)
    assert result.exit_code == 6
    one_line(result)


def test_help_teaches(run: Any, tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path).stdout
    for command in ("demo", "init", "probe", "extract", "train", "embed", "sync", "status", "query", "backbones"):
        assert command in text
        assert "--help" in run(command, "--help", cwd=tmp_path).stdout


def test_installed_command_keeps_standard_output_clean(synced: Path) -> None:
    (synced / "videos" / "text.mp4").write_text("no video")
    command = [sys.executable, "-m", "frameloom.workflows.cli", "sync", "--json"]
    done = subprocess.run(command, cwd=synced, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["files"][0]["status"] == "not_media"
    assert "Traceback" not in done.stderr
