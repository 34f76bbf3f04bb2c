"""Orders of answers: fusion, paging, duplicates, diversity, unlike; named scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom.workflows.cli.app import app
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.search.ranking import arranged, away_from, distinct, diverse, fused
from typer.testing import CliRunner


def unit(*numbers: float) -> np.ndarray:
    found = np.array(numbers, np.float32)
    return found / np.linalg.norm(found)


def test_fusion_is_the_sum_of_reciprocal_ranks() -> None:
    found = fused(["a", "b", "c"], ["c", "d"])
    assert list(found) == ["c", "a", "b", "d"]
    assert found["c"] == pytest.approx(1 / 63 + 1 / 61)
    assert found["b"] == pytest.approx(found["d"]) == pytest.approx(1 / 62)
    assert fused([], []) == {}


def test_away_from_an_example() -> None:
    question, example = unit(1, 0), unit(1, 1)
    moved = away_from(question, example * 3)
    assert moved @ example < question @ example
    np.testing.assert_allclose(away_from(None, example * 3), -example, atol=1e-6)


def test_duplicates_of_a_better_answer_are_left_out() -> None:
    vectors = np.array([unit(1, 0), unit(1, 0.01), unit(0, 1), unit(0.01, 1), unit(1, 1)])
    assert distinct(vectors, 0.98) == [0, 2, 4]
    assert distinct(vectors, 0.5) == [0, 2]
    assert distinct(vectors[:0], 0.5) == []


def test_diversity_goes_from_the_order_of_scores_to_the_most_different() -> None:
    vectors = np.array([unit(1, 0), unit(1, 0.05), unit(1, 0.1), unit(0, 1)])
    scores = [0.9, 0.89, 0.88, 0.3]
    assert diverse(scores, vectors, 0.0, 4) == [0, 1, 2, 3]
    assert diverse(scores, vectors, 0.5, 2) == [0, 3]
    assert diverse(scores, vectors, 1.0, 2) == [0, 3]
    assert sorted(diverse(scores, vectors, 0.5, 9)) == [0, 1, 2, 3]


def test_arranged_gives_rows_of_the_first_page() -> None:
    rows = [{"vector": unit(1, x), "score": 1 - x, "id": str(x)} for x in (0.0, 0.01, 0.5, 0.9)]
    ids = [row["id"] for row in arranged(rows, number=2, threshold=0.99, weight=0.0)]
    assert ids == ["0.0", "0.5"]
    assert arranged([], number=3, threshold=None, weight=0.5) == []


@pytest.fixture(scope="module")
def session(synced_once: Path) -> SearchSession:
    return SearchSession(Project.open(synced_once))


def clips(session: SearchSession, **options: Any) -> list[str]:
    return [one.clip for one in session.search(Query.ask(**options))]


def test_pages_are_parts_of_one_order(session: SearchSession) -> None:
    for options in ({}, {"hybrid": True}, {"diversity": 0.5}, {"distinct": 1.0}):
        whole = clips(session, text="a red picture", top=8, **options)
        assert len({*whole}) == len(whole)
        pages = [clips(session, text="a red picture", top=3, offset=start, **options) for start in (0, 3, 6, 9)]
        assert [one for page in pages for one in page] == whole


def test_words_in_captions_are_fused_with_vectors(session: SearchSession) -> None:
    alone = session.search(Query.ask(text="a grey picture", top=8))
    both = session.search(Query.ask(text="a grey picture", top=8, hybrid=True))
    assert {one.clip for one in both} == {one.clip for one in alone}
    by_vector = [one.clip for one in alone]
    for one in both:
        named = {score.name: score.value for score in one.scores}
        assert one.score == named["fused"]
        rank, words = by_vector.index(one.clip) + 1, _words(one)
        assert words > 0  # all captions say "picture"
        # Equal ones are in the order of their rows' ids, which nothing here shows.
        better, same = (sum(holds(_words(each)) for each in both) for holds in (words.__lt__, words.__eq__))
        least, most = (1 / (60 + rank) + 1 / (60 + place) for place in (better + same, better + 1))
        assert least - 1e-9 <= one.score <= most + 1e-9
    most_words = sorted(both, key=_words, reverse=True)[:2]
    assert all("grey" in one.video for one in most_words)
    assert [one.score for one in both] == sorted((one.score for one in both), reverse=True)


def _words(result: Any) -> float:
    return next((score.value for score in result.scores if score.name == "words"), 0.0)


def test_nothing_in_words_has_a_meaning_of_its_own(session: SearchSession) -> None:
    found = session.search(Query.ask(text='red" OR (1=1 -- AND *', top=8, hybrid=True))
    assert sum(_words(one) > 0 for one in found) == 2  # the clips whose captions say red


def test_every_answer_has_named_scores_with_their_direction(session: SearchSession) -> None:
    names = {"video+audio": "sight+sound", "video": "sight", "audio": "sound"}
    for modalities in (None, "video", "audio"):
        for one in session.search(Query.ask(text="red", modalities=modalities, top=8)):
            name = names[one.modalities]
            assert [(score.name, score.value, score.better) for score in one.scores] == [(name, one.score, "higher")]


def test_unlike_moves_a_question_away(session: SearchSession) -> None:
    best = session.search(Query.ask(text="a red picture", top=1))[0]
    moved = clips(session, text="a red picture", unlike=best.clip, top=8)
    assert best.clip not in moved
    assert len(moved) == 7
    order = clips(session, like=best.clip, top=8)
    away = clips(session, unlike=best.clip, top=8)
    assert away == order[::-1]


def test_filters_hold_for_every_order(session: SearchSession) -> None:
    for options in ({"hybrid": True}, {"diversity": 0.3, "distinct": 0.999}):
        found = session.search(Query.ask(text="a red picture", where="split = 'test'", top=8, **options))
        assert {one.split for one in found} == {"test"}


def test_duplicates_and_diversity_through_the_python_call(synced_once: Path) -> None:
    index = Index(synced_once)
    whole = index.search("a red picture", top=8)
    assert len(index.search("a red picture", top=8, distinct=0.01)) < len(whole)
    assert index.search("a red picture", top=1, diversity=1.0)[0].clip == whole[0].clip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["red", "--offset", "-1"], ["offset = -1"]),
        (["red", "--offset", "10000"], ["offset = 10000", "from 1 to 10,000"]),
        (["red", "--offset", "995", "--diversity", "0.5"], ["from 1 to 1,000"]),
        (["red", "--diversity", "2"], ["diversity is 2"]),
        (["red", "--diversity", "nan"], ["diversity"]),
        (["red", "--distinct", "0"], ["distinct is 0"]),
        (["--hybrid", "--like", "x"], ["--hybrid", "give words"]),
        (["--unlike", "nothing"], ["no clip has the id 'nothing'"]),
        (["red", "--hybrid", "--where", "colour = 1"], ["no column is called 'colour'"]),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], words: list[str], synced_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(synced_once)
    result = CliRunner().invoke(app, ["query", *arguments])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words), line
