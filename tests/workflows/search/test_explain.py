"""Explanations: each number against a search that asks for it, and what cannot be explained."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from frameloom import InputError
from frameloom.workflows.cli.app import app
from frameloom.workflows.index import Index
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import question_timeline
from frameloom.workflows.search.results import Explanation, Stretch, Worth
from typer.testing import CliRunner


def score_of(index: Index, clip: str, text: str, **options: str) -> float:
    return next(one.score for one in index.search(text, top=100, **options) if one.clip == clip)


def explanation(index: Index, text: str, **options: str) -> tuple[str, Explanation]:
    found = index.search(text, top=1, explain=True, **options)[0]
    assert found.explanation is not None
    return found.clip, found.explanation


def test_a_word_is_worth_what_the_score_loses_without_it(synced: Path) -> None:
    index = Index(synced)
    clip, found = explanation(index, "red picture xyzzy")
    assert [one.word for one in found.words] == ["red", "picture", "xyzzy"]
    whole = score_of(index, clip, "red picture")
    expected = [whole - score_of(index, clip, rest) for rest in ("picture", "red", "red picture")]
    assert [one.value for one in found.words] == pytest.approx(expected, abs=1e-5)
    assert found.words[2].value == pytest.approx(0, abs=1e-6)


def test_the_only_known_word_is_worth_all(synced: Path) -> None:
    index = Index(synced)
    for text in ("red", "red xyzzy"):
        clip, found = explanation(index, text)
        assert found.words[0].value == pytest.approx(score_of(index, clip, "red"), abs=1e-5)


def test_senses_are_the_scores_of_the_clip_s_rows(synced: Path) -> None:
    index = Index(synced)
    clip, found = explanation(index, "a red picture with a low tone", modalities="video+audio")
    for sense, modalities in (("sight", "video"), ("sound", "audio"), ("sight+sound", "video+audio")):
        score = score_of(index, clip, "a red picture with a low tone", modalities=modalities)
        assert found.senses[sense] == pytest.approx(score, abs=1e-5)


def test_seconds_are_those_of_the_clip_each_alone(synced: Path) -> None:
    index = Index(synced)
    hit = index.search("a red picture", top=1, explain=True)[0]
    assert hit.explanation is not None
    seconds = hit.explanation.seconds
    assert seconds[0].start_seconds == hit.start_seconds
    assert all(one.end_seconds == other.start_seconds for one, other in pairwise(seconds))
    line = question_timeline(
        Project.open(synced), "a red picture", video=hit.video, window_seconds=1.0, step_seconds=1.0
    )
    assert [one.value for one in seconds] == pytest.approx(line.similarities[: len(seconds)].tolist(), abs=1e-5)


def test_a_question_without_words_has_none(synced: Path) -> None:
    index = Index(synced)
    hit = index.search(like=index.search("red", top=1)[0].clip, top=1, explain=True)[0]
    assert hit.explanation is not None
    assert hit.explanation.words == ()
    assert np.isfinite([one.value for one in hit.explanation.seconds]).all()


def test_the_lines_say_the_most_important_first() -> None:
    found = Explanation(
        senses={"sight": 0.5},
        words=tuple(Worth(word=f"w{number}", value=number / 10) for number in range(8)),
        seconds=tuple(Stretch(start_seconds=number, end_seconds=number + 1, value=number / 10) for number in range(8)),
    )
    assert found.lines(most=2) == [
        "sight 0.500",
        "words: w7 +0.700, w6 +0.600",
        "seconds: 7.0-8.0 0.700, 6.0-7.0 0.600",
    ]


def test_too_many_words_are_refused(synced: Path) -> None:
    with pytest.raises(InputError, match="101 words: up to 100 can be explained"):
        Index(synced).search("red " * 101, explain=True)


def test_the_command(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(synced)
    lines = CliRunner().invoke(app, ["query", "red picture", "--top", "1", "--explain"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "sight", "words:", "seconds:"]
    document = json.loads(CliRunner().invoke(app, ["query", "red", "--top", "1", "--explain", "--json"]).stdout)
    assert document[0]["explanation"]["words"][0]["word"] == "red"
    plain = json.loads(CliRunner().invoke(app, ["query", "red", "--top", "1", "--json"]).stdout)
    assert plain[0]["explanation"] is None
