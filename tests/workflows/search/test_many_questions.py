"""Several questions at once: the answers of one by one, from one batch and one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frameloom import InputError
from frameloom.store import ClipTable
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from frameloom.workflows.search import Query, Results, SearchSession

TEXTS = ["a red picture", "blue with a low tone", "a low tone", "green picture with a high tone", "a red picture"]


def same(found: Results, expected: Results) -> None:
    assert [one.clip for one in found] == [one.clip for one in expected]
    for mine, other in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(other.score, abs=2e-6)
        assert [one.name for one in mine.scores] == [one.name for one in other.scores]
        assert mine.replaced(score=0.0, scores=()) == other.replaced(score=0.0, scores=())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top": 3, "offset": 2, "where": "split = 'train'"},
        {"modalities": "video", "merge": True, "top": 4},
        {"hybrid": True, "top": 5},
        {"distinct": 0.99, "diversity": 0.3, "top": 4},
        {"where": "split = 'none'"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_answers_are_those_of_one_by_one(synced: Path, options: dict[str, Any]) -> None:
    index = Index(synced)
    together = index.search_many(TEXTS, **options)
    assert all(isinstance(one, Results) for one in together)
    for text, found in zip(TEXTS, together, strict=True):
        same(found, index.search(text, **options))


def test_one_batch_and_one_pass(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(synced)
    index.search("red")
    counted: dict[str, int] = {}

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] = counted.get(name, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    for owner, name in ((SearchSession, "embed_many"), (SearchSession, "words"), (ClipTable, "search_many")):
        count(owner, name)
    count(ClipTable, "search")
    index.search_many(TEXTS, top=2)
    assert counted == {"embed_many": 1, "words": 4, "search_many": 1}


def test_questions_of_other_kinds_are_grouped(synced: Path) -> None:
    session = SearchSession(Project.open(synced))
    clip = Index(synced).search("a red picture", top=1)[0].clip
    queries = [
        Query(text="a red picture", top=2),
        Query(like=clip, top=3),
        Query(text="blue", where="split = 'train'", top=2),
        Query(text="green", top=2),
        Query(text="high tone", unlike=clip),
    ]
    for query, found in zip(queries, session.search_many(queries), strict=True):
        same(Results(found), Results(session.search(query)))


def test_wrong_ones_are_refused(synced: Path) -> None:
    index = Index(synced)
    assert index.search_many([]) == []
    for texts, options, words in (
        (["red", " "], {}, "empty question"),
        (["red", "xyzzy"], {}, "no word of 'xyzzy'"),
        (["red"], {"where": "colour = 1"}, "colour"),
        (["red", "blue"], {"top": 0}, "top = 0"),
        (["red", "blue"], {"topp": 3}, "topp"),
    ):
        with pytest.raises(InputError, match=words):
            index.search_many(texts, **options)
