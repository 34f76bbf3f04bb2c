"""Published lists become manifests that a collection takes; what is wrong in a list is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.workflows.cli.app import app
from frameloom.workflows.project.collection import discover
from frameloom.workflows.project.manifest import read_manifest
from frameloom.workflows.project.published_lists import write_published_manifest
from typer.testing import CliRunner

# Excerpts in the form of the published lists.
MSRVTT_CSV = 'key,vid_key,video_id,sentence\nret0,msr0,video0,a person is cooking\nret1,msr1,video1,"a cat, asleep"\n'
YOUCOOK_CSV = "end,start,task,text,video_id\n60,47,226,pick the ends off,abc\n89,67,226,combine it,abc\n9,1,3,fry,xyz\n"
MSRVTT_JSON = {
    "videos": [
        {"video_id": "video1", "split": "validate", "start time": 1.0, "end time": 9.0},
        {"video_id": "video0", "split": "train"},
    ],
    "sentences": [
        {"video_id": "video0", "caption": "a person cooks", "sen_id": 0},
        {"video_id": "video1", "caption": "a cat", "sen_id": 1},
        {"video_id": "video0", "caption": "someone cooks", "sen_id": 2},
    ],
}
YOUCOOK_JSON = {
    "database": {
        "abc": {
            "subset": "training",
            "duration": 100.0,
            "annotations": [{"segment": [47, 60], "id": 0, "sentence": "pick the ends off"}],
        }
    }
}
NARRATION = {"abc": {"start": [5.0, 0.5], "end": [7.25, 4.0], "text": ["and stir", "cut the onion"]}}


def converted(tmp_path: Path, kind: str, name: str, content: Any, **options: Any) -> list[dict[str, Any]]:
    path, out = tmp_path / name, tmp_path / "out.jsonl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    write_published_manifest(kind, path, out, **options)
    return [
        {"video": video, "captions": list(span.captions), "span": (span.start_seconds, span.end_seconds),
         "split": span.split}
        for video, span in read_manifest(out, needs_captions=True)
    ]  # fmt: skip


def row(video: str, caption: str | list[str], split: str, *span: float) -> dict[str, Any]:
    captions = [caption] if isinstance(caption, str) else caption
    return {"video": video, "captions": captions, "span": span or (None, None), "split": split}


@pytest.mark.parametrize(
    ("kind", "name", "content", "rows"),
    [
        ("msrvtt", "a.csv", MSRVTT_CSV,
         [row("video0.mp4", "a person is cooking", "test"), row("video1.mp4", "a cat, asleep", "test")]),
        ("msrvtt", "a.json", MSRVTT_JSON,
         [row("video1.mp4", "a cat", "val"), row("video0.mp4", ["a person cooks", "someone cooks"], "train")]),
        ("youcook2", "a.csv", YOUCOOK_CSV,
         [row("abc.mp4", "pick the ends off", "val", 47, 60), row("abc.mp4", "combine it", "val", 67, 89),
          row("xyz.mp4", "fry", "val", 1, 9)]),
        ("youcook2", "a.json", YOUCOOK_JSON, [row("abc.mp4", "pick the ends off", "train", 47, 60)]),
        ("howto100m", "a.json", NARRATION,
         [row("abc.mp4", "cut the onion", "train", 0.5, 4.0), row("abc.mp4", "and stir", "train", 5.0, 7.25)]),
        ("howto100m", "abc.csv", "start,end,text\n0.5,4,cut the onion\n",
         [row("abc.mp4", "cut the onion", "train", 0.5, 4.0)]),
    ],
)  # fmt: skip
def test_each_list_becomes_the_rows_that_it_says(
    tmp_path: Path, kind: str, name: str, content: Any, rows: list
) -> None:
    assert converted(tmp_path, kind, name, content) == rows


def test_the_narration_of_the_authors_is_a_pickle(tmp_path: Path) -> None:
    arrays = {"abc": {**NARRATION["abc"], "start": np.array([5.0, 0.5]), "end": np.array([7.25, 4.0])}}
    found = converted(tmp_path, "howto100m", "caption.pickle", pickle.dumps(arrays))
    assert [(each["captions"], each["span"]) for each in found] == [
        (["cut the onion"], (0.5, 4.0)), (["and stir"], (5.0, 7.25)),
    ]  # fmt: skip


def test_another_split_and_ending_can_be_said(tmp_path: Path) -> None:
    found = converted(tmp_path, "youcook2", "a.csv", YOUCOOK_CSV, split="test", suffix=".webm")
    assert {(each["video"], each["split"]) for each in found} == {("abc.webm", "test"), ("xyz.webm", "test")}


def test_videos_are_found_in_their_folder_and_a_collection_takes_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "videos" / "226").mkdir(parents=True)
    (tmp_path / "videos" / "226" / "abc.mkv").touch()
    (tmp_path / "videos" / "226" / "abc.txt").touch()
    (tmp_path / "list.csv").write_text(YOUCOOK_CSV)
    out = tmp_path / "manifests" / "youcook2.jsonl"
    out.parent.mkdir()
    report = write_published_manifest("youcook2", tmp_path / "list.csv", out, videos=tmp_path / "videos")
    assert (report.rows, report.videos, report.without_file) == (2, 1, ("xyz",))
    assert "such as 'xyz'" in "".join(report.lines())
    collection = discover([str(tmp_path / "videos")], captions=str(out), base=tmp_path)
    assert [len(video.spans) for video in collection.videos] == [2]
    assert not collection.unmatched
    (tmp_path / "videos" / "abc.mp4").touch()
    with pytest.raises(ConfigError, match=r"abc\.(mp4|mkv) and .*abc\.(mp4|mkv) are both 'abc'"):
        write_published_manifest("youcook2", tmp_path / "list.csv", out, videos=tmp_path / "videos")


def test_sentences_without_words_or_length_are_left_out_and_counted(tmp_path: Path) -> None:
    said = {"abc": {"start": [0, 1, 2], "end": [1, 1, 3], "text": ["  ", "cut", "stir"]}}
    assert [each["captions"] for each in converted(tmp_path, "howto100m", "a.json", said)] == [["stir"]]
    report = write_published_manifest("howto100m", tmp_path / "a.json", tmp_path / "b.jsonl")
    assert (report.left_out, report.rows) == (2, 1)


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("msvd", "a.csv", MSRVTT_CSV, "'msvd': did you mean msrvtt"),
        ("msrvtt", "a.csv", YOUCOOK_CSV, "no column `sentence`"),
        ("msrvtt", "a.csv", "video_id,sentence,video_id\n", "duplicate column 'video_id'"),
        ("msrvtt", "a.csv", "video_id,sentence\nvideo0,\n", "row 1: video_id, sentence must be given"),
        ("msrvtt", "a.csv", "video_id,sentence\n", "holds no caption"),
        ("msrvtt", "a.json", "{", "cannot be read as JSON"),
        ("msrvtt", "a.json", {"videos": []}, "no `sentences`: found videos"),
        ("msrvtt", "a.json", MSRVTT_JSON | {"sentences": [3]}, "sentence 1: `video_id` must be a text"),
        ("msrvtt", "a.json", MSRVTT_JSON | {"sentences": []}, "video 1: 'video1' has no sentence"),
        ("msrvtt", "a.json", MSRVTT_JSON | {"videos": [{"video_id": "video0", "split": "x"}]}, "video 1: split 'x'"),
        ("youcook2", "a.csv", YOUCOOK_CSV.replace("60,47", "47,60"), "row 1: 60 to 47 s is no span"),
        ("youcook2", "a.csv", YOUCOOK_CSV.replace("60,47", "nan,47"), "row 1: 47 to nan s is no span"),
        (
            "youcook2",
            "a.csv",
            YOUCOOK_CSV.replace("60,47", "end,47"),
            "row 1: start '47' and end 'end' must be seconds",
        ),
        ("youcook2", "a.json", {"database": {"abc": {"subset": "training"}}}, "'abc': `annotations` must be a list"),
        ("howto100m", "a.json", {"abc": {"start": [1]}}, "'abc': it needs start, end and text, and has no end"),
        ("howto100m", "a.json", {"abc": {"start": [1], "end": [2], "text": "x"}}, "'abc': text must be a list"),
        ("howto100m", "a.json", {"abc": {"start": [1], "end": [2], "text": []}}, r"text have \[1, 1, 0\] values"),
        ("howto100m", "a.json", [1], "an object was expected, found a list"),
        (
            "howto100m",
            "a.json",
            {"abc": {"start": [1], "end": [2], "text": ["x\ud800"]}},
            r"'abc.mp4': 'x.+ud800' holds an invalid character",
        ),
        (
            "msrvtt",
            "a.csv",
            "video_id,sentence\nvideo0,a\0b\n",
            "'video0.mp4': 'a.x00b' holds an invalid character",
        ),
    ],
)
def test_what_is_wrong_in_a_list_is_named(tmp_path: Path, kind: str, name: str, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        converted(tmp_path, kind, name, content)


def test_a_narration_whose_text_is_missing_is_no_sentence(tmp_path: Path) -> None:
    narration = {"abc": {"start": [0, 1, 2], "end": [1, 2, 3], "text": ["stir", float("nan"), None]}}
    assert converted(tmp_path, "howto100m", "a.json", narration) == [row("abc.mp4", "stir", "train", 0, 1)]


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(MSRVTT_CSV)
    out = tmp_path / "msrvtt.jsonl"
    result = CliRunner().invoke(app, ["manifest", "msrvtt", str(tmp_path / "list.csv"), str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == 2
    assert len(out.read_text().splitlines()) == 2
    for arguments, message in (
        (["msrvtt", "nowhere.csv", str(out)], "cannot be read as csv"),
        (["msrvtt", str(tmp_path / "list.csv"), "out.csv"], "is written as .jsonl"),
        (["msrvtt", str(tmp_path / "list.csv"), str(out), "--split", "all"], "split 'all'"),
        (["msrvtt", str(tmp_path / "list.csv"), str(out), "--videos", str(tmp_path / "no")], "is not a folder"),
    ):
        refused = CliRunner().invoke(app, ["manifest", *arguments])
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
