"""Answers in a notebook: pictures of the moments found, and nothing of a file's or manifest's text as markup."""

from __future__ import annotations

import base64
import io
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import ProcessStartError
from frameloom.extract import Decoder
from frameloom.workflows.index import Index
from frameloom.workflows.search import Result, Results, thumbnails
from frameloom.workflows.search.results import Explanation, Score, Stretch
from helpers.media import barcode, read_barcode, steady, write_media
from helpers.projects import COLOURS
from PIL import Image


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    thumbnails._kept.clear()


def answer(path: Path, start: float, end: float, **more: Any) -> Result:
    return Result(
        video=path.name, path=str(path), start_seconds=start, end_seconds=end, score=0.5, clip="c", modalities="video",
        **more,
    )  # fmt: skip


def pictures(html: str) -> list[np.ndarray[Any, Any]]:
    found = re.findall(r'src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds whose picture number k is on display from k / 25 s on."""
    path = tmp_path_factory.mktemp("numbered") / "numbered.mp4"
    return write_media(path, instants=steady(250, 25), codec_options={"g": "25"}, frame_rate=25)


def test_each_answer_shows_its_moment(numbered: Path) -> None:
    """The middle of the clip; where the answer is explained, of its best stretch."""
    stretches = tuple(
        Stretch(start_seconds=start, end_seconds=start + 1, value=value)
        for start, value in ((4.0, 0.1), (5.0, 0.9), (6.0, 0.3))
    )
    explained = answer(numbered, 4, 7, explanation=Explanation(senses={}, words=(), seconds=stretches))
    spans = [(0.0, 1.0), (2.0, 3.0), (8.0, 9.0)]
    html = Results([*(answer(numbered, *span) for span in spans), explained])._repr_html_()
    shown = [read_barcode(one) for one in pictures(html)]
    assert shown == [12, 62, 212, 137]
    assert "2.0 to 3.0 s" in html


def test_answers_of_a_project(synced: Path) -> None:
    found = Index(synced).search("a red picture", top=3)
    seen = pictures(found._repr_html_())
    assert len(seen) == 3
    for one, picture in zip(found, seen, strict=True):
        colour = COLOURS[Path(one.video).name.split()[0]]
        assert np.abs(picture.mean(axis=(0, 1)) - colour).max() < 12


def test_text_is_never_markup(tmp_path: Path) -> None:
    wicked = '<script>alert("1")</script>\' onload=x & <img src=x>'
    one = answer(
        tmp_path / "a.mp4", 0, 1, captions=(wicked, "<b>bold</b>"), scores=(Score(name=wicked, value=1.0),)
    ).replaced(video=wicked, path=wicked)
    html = Results([one])._repr_html_()
    tags: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, [name for name, _ in attrs]))

    reader = Reader()
    reader.feed(html)
    assert {tag for tag, _ in tags} == {"table", "thead", "tbody", "tr", "th", "td", "span", "small", "br"}
    assert {name for _, names in tags for name in names} == {"title"}
    assert "&lt;script&gt;" in html


def test_what_has_no_picture_says_why_and_nothing_fails(
    numbered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no media" * 100)
    html = Results(
        [answer(tmp_path / "gone.mp4", 0, 1), answer(tmp_path / "bad.mp4", 0, 1), answer(numbered, 20, 30)]
    )._repr_html_()
    assert pictures(html) == []
    for status in ("missing", "not_media", "too_short"):
        assert f"<small>{status}</small>" in html
    assert Results()._repr_html_() == "<p>no answers</p>"

    def refuse(self: Decoder) -> None:
        raise ProcessStartError("the decoder <does> not start")

    monkeypatch.setattr(Decoder, "_running_child", refuse)
    assert "the decoder &lt;does&gt; not start" in Results([answer(numbered, 0, 1)])._repr_html_()
    monkeypatch.undo()
    assert len(pictures(Results([answer(numbered, 0, 1)])._repr_html_())) == 1  # and that was not kept


def test_pictures_are_kept_and_bounded(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    original = Decoder.frame_at

    def counting(self: Decoder, path: Path, seconds: float, **how: Any) -> Any:
        asked.append(seconds)
        return original(self, path, seconds, **how)

    monkeypatch.setattr(Decoder, "frame_at", counting)
    monkeypatch.setattr(thumbnails, "MOST_KEPT", 4)
    found = Results([answer(numbered, second, second + 1) for second in range(3)])
    first = found._repr_html_()
    assert found._repr_html_() == first
    assert asked == [0.5, 1.5, 2.5]
    for second in range(3, 9):
        Results([answer(numbered, second, second + 1)])._repr_html_()
        assert len(thumbnails._kept) <= 4
    many = Results([answer(numbered, 0, 1)] * 100)
    assert len(pictures(many._repr_html_())) == thumbnails.MOST_SHOWN
    assert "and 80 more" in many._repr_html_()
    threads = [threading.Thread(target=many._repr_html_) for _ in range(4)]
    [one.start() for one in threads]
    [one.join() for one in threads]


def test_a_file_that_changes_is_shown_anew(tmp_path: Path) -> None:
    shown = []
    for first in (0, 100):
        path = write_media(tmp_path / "a.mp4", instants=steady(25, 25), paint=lambda k, first=first: barcode(first + k))
        shown.append(read_barcode(pictures(Results([answer(path, 0, 1)])._repr_html_())[0]))
    assert shown == [12, 112]
