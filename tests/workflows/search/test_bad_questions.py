"""Wrong questions through the command line: one line, exit code 2, nothing changed, nothing told of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom.workflows.cli.app import app
from frameloom.workflows.search import SearchSession
from helpers.projects import make_collection, run_sync, write_config
from helpers.stores import tree
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synced project with files that are no answer to anything."""
    folder = tmp_path_factory.mktemp("asked")
    make_collection(folder)
    write_config(folder)
    run_sync(folder)
    (folder / "note.txt").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes((folder / "videos" / "red & low.v1.mp4").read_bytes()[:200])
    (folder / "picture.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return folder


def where(condition: str) -> list[str]:
    return ["red", "--where", condition]


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "nothing": ([], ["empty question"]),
    "blanks": ([" \t\n"], ["empty question"]),
    "no known word": (["xylophone"], ["no word", "xylophone"]),
    "a long unknown word": (["x" * 9_999], ["no word"]),
    "a megabyte of words": (["red " * 262_144], ["1,048,576 characters", "10,000 are allowed"]),
    "an unknown option of SQL": (where("split = 'test' LIMIT 1"), ["no column", "'LIMIT'"]),
    "an empty condition": (where("  "), ["filter is empty"]),
    "a megabyte of condition": (where("views = 1 OR " * 80_000 + "true"), ["characters", "10,000 are allowed"]),
    "an unknown column": (where("colour = 'red'"), ["no column is called 'colour'", "Columns: id, clip"]),
    "a misspelt column": (where("veiws > 1"), ["did you mean views?"]),
    "an unknown quoted column": (where("\"split.\" = 'test'"), ["did you mean split?"]),
    "the vectors": (where("vector IS NOT NULL"), ["no column is called 'vector'"]),
    "the row's number": (where("_rowid > 3"), ["no column is called '_rowid'"]),
    "another statement": (where("views = 1; DROP TABLE clips"), ["';'", "one condition"]),
    "a comment": (where("views = 1 -- rest"), ["'--'", "one condition"]),
    "a comment inside": (where("views = /* 2 */ 1"), ["'/*'"]),
    "a bracket that leaves": (where("views = 1) OR (true"), ["brackets", "do not match"]),
    "a quote that leaves": (where("split = '' OR 'x"), ["quote that is not closed"]),
    "two conditions": (where("views = 1 views = 2"), ["is not right"]),
    "a query inside": (where("id IN (SELECT id FROM clips)"), ["'SELECT'"]),
    "what the machine says": (where("version() = ''"), ["calls 'version'", "allowed functions"]),
    "what costs memory": (where("repeat('x', 1000000000) = 'a'"), ["calls 'repeat'"]),
    "chance": (where("random() > 0.5"), ["calls 'random'"]),
    "deep brackets": (where("(" * 40 + "true" + ")" * 40), ["nested too deeply"]),
    "a chain of sums": (where("views = 1" + " + 1" * 2_000), ["comparisons, sums and words"]),
    "another type": (where("views = 'three'"), ["is not right"]),
    "no condition": (where("views"), ["is not right"]),
    "top of 0": (["red", "--top", "0"], ["top = 0", "from 1 to 10,000"]),
    "top below 0": (["red", "--top", "-3"], ["top = -3"]),
    "top of a billion": (["red", "--top", "1000000000"], ["top = 1000000000"]),
    "an unknown clip": (["--like", "nothing"], ["no clip has the id 'nothing'", "`clip` field"]),
    "an injected clip": (["--like", "x' OR 1=1 --"], ["no clip has the id"]),
    "a megabyte of clip": (["--like", "x" * 1_048_576], ["--like has 1,048,576 characters"]),
    "a clip and words": (["red", "--like", "nothing"], ["without words"]),
    "an unknown combination": (["red", "--modalities", "smell' OR true"], ["rows of video, audio, video+audio"]),
    "no such file": (["--video", "nowhere.mp4"], ["nowhere.mp4", "missing"]),
    "a file of text": (["--video", "note.txt"], ["note.txt", "not_media"]),
    "an empty file": (["--video", "empty.mp4"], ["empty.mp4"]),
    "a file that is cut": (["--video", "cut.mp4"], ["cut.mp4"]),
    "not what its name says": (["--audio", "picture.mp4"], ["picture.mp4"]),
    "a folder": (["--video", "videos"], ["videos"]),
    "a device": (["--video", "/dev/zero"], ["/dev/zero"]),
    "no sound in it": (["--audio", "videos/red & None.v1.mp4"], ["no_audio"]),
    "an address": (["--video", "http://127.0.0.1:9/a.mp4"], ["missing"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_question_is_one_line(name: str, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, words = WRONG[name]
    monkeypatch.chdir(asked)
    before = tree(asked, without=[".readers", "ledger.sqlite*"])
    result = CliRunner().invoke(app, ["query", *arguments, "--json"])
    assert (result.exit_code, result.stdout) == (2, ""), result.output[:500]
    (line,) = result.stderr.splitlines()
    assert line.startswith("frameloom: ")
    assert len(line) < 700
    assert all(word in line for word in words), line
    assert ".rs:" not in line
    assert ".frameloom" not in line
    assert tree(asked, without=[".readers", "ledger.sqlite*"]) == before


def test_a_vector_that_is_no_number_is_refused(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asked)
    monkeypatch.setattr(SearchSession, "embed", lambda self, sample: np.full(self.table.dim(), np.nan, np.float32))
    result = CliRunner().invoke(app, ["query", "red"])
    assert result.exit_code == 2
    assert "query vector has length nan" in result.stderr


def test_what_a_condition_may_say(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asked)
    for condition, count in {
        "views = 1": 2,
        "VIEWS >= 1 AND NOT split = 'test'": 4,
        "\"split\" IN ('test', 'it''s; -- (')": 2,
        "captions IS NOT NULL AND array_has(captions, 'a red picture')": 2,
        "lower(video) LIKE '%red%' OR views BETWEEN 3 AND 4": 4,
        "end_seconds - start_seconds > 0.5": 8,
    }.items():
        result = CliRunner().invoke(app, ["query", "red", "--where", condition, "--json"])
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)) == count, condition


def test_hundred_values_are_one_condition(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asked)
    values: Any = ", ".join(map(str, range(1500)))
    result = CliRunner().invoke(app, ["query", "red", "--where", f"views IN ({values})", "--json"])
    assert len(json.loads(result.stdout)) == 8
