"""A search session: questions share a project, a model, a table and a decoder, and see what changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError, FrameloomError, InputError
from frameloom._vocabulary import MediaError
from frameloom.extract import Decoder
from frameloom.workflows.console import Console
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from frameloom.workflows.search import Query, Result, SearchSession
from frameloom.workflows.sync import train_only
from helpers import skip_or_fail
from helpers.projects import COLOURS, make_clip, run_sync, write_config


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often projects are opened and resolved, and decoders started."""
    counted: dict[str, int] = {}

    def count(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] = counted.get(name, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Project, "__init__")
    count(Project, "resolve")
    count(Decoder, "__init__")
    return counted


def test_a_hundred_searches_open_the_project_once(synced: Path, calls: dict[str, int]) -> None:
    index = Index(synced)
    before = calls["__init__"]
    answers = [index.search(text, top=3) for text in ["a red picture", "blue with a low tone"] * 50]
    assert (calls["__init__"] - before, calls["resolve"]) == (1, 1)
    assert answers[0] == answers[98]
    assert answers[1] == answers[99] != answers[0]


def test_files_of_questions_share_a_decoder(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Decoder] = []
    original = Decoder.__init__

    def watched(self: Decoder, *args: Any, **kwargs: Any) -> None:
        started.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Decoder, "__init__", watched)
    index = Index(synced)
    clips = sorted((synced / "videos").glob("*low*"))
    best = [index.search(video=path, modalities="video", top=1)[0] for path in clips[:3]]
    assert [one.score for one in best] == pytest.approx([1, 1, 1], abs=1e-4)
    index.search("a red picture")
    assert len(started) == 1
    index.close()
    assert index.search(video=clips[0], top=1)
    assert len(started) == 2
    index.close()


def test_a_picture_is_a_question(synced: Path) -> None:
    """A still of a clip finds it; given with words, both count."""
    from PIL import Image

    index = Index(synced)
    Image.new("RGB", (64, 64), COLOURS["green"]).save(synced / "still.png")
    (best, *_) = index.search(image=synced / "still.png", modalities="video", top=3)
    assert best.video.startswith("videos/green")
    assert best.score > 0.99
    mixed = index.search("blue with a low tone", image=synced / "still.png", top=3)
    assert [one.score for one in mixed] != [one.score for one in index.search("blue with a low tone", top=3)]
    for question, words in (
        ({"image": synced / "captions.jsonl"}, "not a picture that is read here: PNG, JPEG, WebP or BMP"),
        ({"image": synced / "none.png"}, "missing: no such file"),
        ({"image": best.path}, "not a picture that is read here"),
        ({"video": synced / "still.png"}, "this is a PNG picture"),
        ({"image": synced / "still.png", "video": best.path}, "--image and --video are both pictures"),
        ({"image": synced / "still.png", "like": best.clip}, "give it without words and files"),
    ):
        with pytest.raises((InputError, MediaError), match=words):
            index.search(**question)
    index.close()


def test_a_changed_table_is_seen(synced: Path, calls: dict[str, int]) -> None:
    index = Index(synced)
    assert len(index.search("a red picture", top=100)) == 8
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    run_sync(synced)
    assert len(index.search("a red picture", top=100)) == 9


def test_a_changed_configuration_and_checkpoint_are_seen(synced: Path) -> None:
    index = Index(synced)
    first = index.search("a red picture")
    write_config(synced, training={"overrides": {"epochs": 1, "min_steps": 0, "batch_size": 4}})
    os.utime(synced / "frameloom.yaml", ns=(1, 1))
    assert index.search("a red picture") == first  # by the model before, until a sync has made the table anew
    train_only(Project.open(synced), Console(quiet=True))
    assert index.search("a red picture") == first
    run_sync(synced)
    assert [one.score for one in index.search("a red picture")] != [one.score for one in first]
    write_config(synced)
    run_sync(synced)
    assert index.search("a red picture") == first


def test_a_change_while_a_session_opens_is_seen(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, pointers = Index(synced), sorted((synced / ".frameloom" / "models").glob("*/current.json"))
    changes: list[Callable[[], Any]] = [
        lambda: os.utime(synced / ".frameloom" / "models" / "word_vectors.json", ns=(1, 1)),
        lambda: [os.utime(path, ns=(1, 1)) for path in pointers],
        lambda: write_config(synced),
    ]
    opened: list[Any] = []
    original = Project.resolve

    def resolve(self: Project, **how: Any) -> Any:
        found = original(self, **how)
        opened.append(changes.pop(0)() if changes else None)
        return found

    monkeypatch.setattr(Project, "resolve", resolve)
    for _ in range(5):
        index.search("a red picture")
    assert len(opened) == 4  # one for each change, and one that stays


def test_a_session_of_a_project_without_an_index_says_so(synced: Path) -> None:
    write_config(synced, store={"path": "elsewhere"})
    with pytest.raises(FrameloomError, match="nothing is indexed yet"):
        Index(synced).search("red")


def test_a_condition_is_counted_once(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.open(synced)
    asked: list[str | None] = []
    original = project.table.count
    monkeypatch.setattr(project.table, "count", lambda where=None: asked.append(where) or original(where))
    session = SearchSession(project)
    asked.clear()  # it has asked whose model the rows are of
    query = Query.ask(text="a red picture", where="split = 'test'", top=3)
    assert session.search(query) == session.search(query)
    assert asked == ["split = 'test'"]
    with pytest.raises(InputError, match="colour"):
        session.search(Query.ask(text="a red picture", where="colour = 'red'"))


def test_a_result_is_read_by_attribute_and_by_name(synced: Path) -> None:
    result = Index(synced).search("a red picture", top=1)[0]
    assert isinstance(result, Result)
    assert result["video"] == result.video
    assert dict(result) == {**result}
    assert set(dict(result)) == set(result.model_dump(mode="json"))
    with pytest.raises(KeyError):
        result["colour"]


def test_results_become_a_table(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Index(synced).search("a red picture", top=3)
    table = found.to_arrow()
    assert table.column("video").to_pylist() == [one.video for one in found]
    assert table.column("scores").to_pylist()[0][0]["value"] == found[0].score
    assert table.column("metadata").to_pylist() == [dict(one.metadata) for one in found]
    nothing = Index(synced).search("red", where="split = 'none'").to_arrow()
    assert (nothing.num_rows, nothing.column_names) == (0, table.column_names)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        found.to_pandas()


def test_results_become_a_data_frame(synced: Path) -> None:
    try:
        import pandas
    except ModuleNotFoundError:
        skip_or_fail("pandas is not installed")
    found = Index(synced).search("a red picture", top=3, explain=True)
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["video"].tolist() == [one.video for one in found]
    assert frame["score"].tolist() == [one.score for one in found]
    assert frame["score"].dtype == frame["start_seconds"].dtype == np.float64
    assert frame.loc[0, "explanation"]["words"][1]["word"] == "red"
    nothing = Index(synced).search("red", where="split = 'none'").to_pandas()
    assert (len(nothing), list(nothing.columns)) == (0, list(frame.columns))
    assert nothing["score"].dtype == np.float64
