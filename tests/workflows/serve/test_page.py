"""The page in a real browser: asked, filtered, paged, played at the moment, by mouse and by keys alone.

`--clips-dir FOLDER` asks real videos through the preset `ready` as well (needs its weights).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from frameloom.workflows.project.config import write_template
from helpers.children.serving import Running, served
from helpers.media import steady, write_media
from helpers.projects import COLOURS, run_sync, write_config

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos of six seconds: three colours each, two seconds long and captioned."""
    folder = tmp_path_factory.mktemp("page") / "colours"
    (folder / "videos").mkdir(parents=True)
    names, rows = list(COLOURS), []
    for number in range(10):
        colours = [names[(number + place) % len(names)] for place in range(3)]
        pictures = [np.full((72, 128, 3), COLOURS[one], np.uint8) for one in colours]
        path = folder / "videos" / f"film {number}.mp4"
        tone = (0.2 * np.sin(2 * np.pi * 440 * np.arange(6 * 16000) / 16000)).astype(np.float32)[None]
        paint = lambda frame, pictures=pictures: pictures[min(2, frame // 16)]  # noqa: E731
        codec = "mpeg4" if number == 9 else "libx264"  # which browsers lack
        write_media(path, instants=steady(48, 8), paint=paint, frame_rate=8, sound=tone, codec=codec)
        rows += [
            {
                "video": f"videos/{path.name}",
                "captions": [f"a {one} picture"],
                "start_seconds": 2.0 * place,
                "end_seconds": 2.0 * place + 2,
                "split": "test" if number == 9 else "train",
            }
            for place, one in enumerate(colours)
        ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_config(folder)
    assert run_sync(folder).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def page_server(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([coloured]) as running:
            yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:  # CI has none, and downloads none
        pytest.skip("chromium is not installed: the page is tested where it is")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


class Watched:
    """A page, what it said on its console, and which addresses it asked."""

    def __init__(
        self, browser: Any, url: str, *, size: str = "desktop", scheme: str = "light", is_asked: bool = False
    ) -> None:
        width, height = SIZES[size]
        viewport = {"width": width, "height": height}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda one: self.said.append(one.text) if one.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.goto(url)
        if is_asked:
            self.answers()
        else:
            self.page.get_by_text("can be found").wait_for()

    def ask(self, words: str) -> list[str]:
        """Type a question, and give the clips of the answers."""
        self.page.get_by_role("searchbox").fill(words)
        self.page.keyboard.press("Enter")
        return self.answers()

    def answers(self) -> list[str]:
        self.page.locator("#message", has_text=re.compile(r"\d+ to \d+ of|No clip")).wait_for()
        return [one.get_attribute("data-clip") for one in self.page.locator(".hit").all()]

    def seconds(self) -> float:
        return float(self.page.locator("video").evaluate("one => one.currentTime"))

    def plays_past(self, seconds: float) -> float:
        """The instant of the video, once it has played past this one, with pictures."""
        playing = (
            "() => (one => one && one.videoWidth > 0 && one.currentTime > SECONDS)(document.querySelector('video'))"
        )
        self.page.wait_for_function(playing.replace("SECONDS", str(seconds)))
        return self.seconds()

    def finish(self) -> None:
        assert self.said == []
        assert {urlsplit(one).hostname for one in self.asked} == {"127.0.0.1"}
        self.context.close()


def is_accessible(page: Any) -> list[str]:
    """Serious faults that axe-core finds."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def test_words_find_and_the_moment_plays(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    page = watched.page
    assert len(watched.ask("a green picture")) == 24
    late = page.locator(".hit", has_text="0:04–0:06").first
    late.click()
    assert 4.0 <= watched.plays_past(4.1) <= 6.2
    assert page.locator("#curve .area").count() == 1
    page.get_by_role("button", name="Why this?").click()
    page.get_by_text("What each word adds").wait_for()
    assert "green" in page.locator("#reasons").inner_text()
    assert "clip=" in page.url
    page.go_back()
    page.locator("#player").wait_for(state="hidden")
    assert len(watched.answers()) == 24
    watched.finish()


def test_an_address_gives_the_same_moment_again(browser: Any, page_server: Running) -> None:
    first = Watched(browser, page_server.url)
    first.ask("a red picture")
    first.page.locator(".hit").nth(2).click()
    first.page.locator("video").wait_for()
    address, title = first.page.url, first.page.locator("#title").inner_text()
    first.finish()
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.locator("video").wait_for()
    assert page.locator("#title").inner_text() == title
    context.close()


def test_pages_filters_and_senses(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    page = watched.page
    first = watched.ask("a green picture")
    page.get_by_role("button", name="Next page").click()
    page.get_by_text("25 to 30 of 30").wait_for()
    second = [one.get_attribute("data-clip") for one in page.locator(".hit").all()]
    assert len({*first, *second}) == 30
    page.get_by_text("Filters").click()
    page.get_by_label("split").select_option("test")
    page.get_by_text("1 to 3 of 30").wait_for()
    page.get_by_label("start_seconds at least").fill("3")
    page.keyboard.press("Enter")
    page.get_by_text("1 to 1 of 30").wait_for()
    page.get_by_role("button", name="Leave out: split eq test").click()
    page.get_by_text("1 to 10 of 30").wait_for()
    page.get_by_label("Compare").select_option("sound")
    page.get_by_text(re.compile("sound -?0")).first.wait_for()
    page.get_by_label("start_seconds at least").fill("99")
    page.keyboard.press("Enter")
    page.get_by_text("No clip passes the filters").wait_for()
    watched.finish()


def test_similar_clips_and_one_video(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    page = watched.page
    clips = watched.ask("a blue picture")
    page.locator(".hit").first.click()
    page.get_by_role("button", name="Similar clips").click()
    page.get_by_role("button", name="Leave out: like a clip").wait_for()
    similar = watched.answers()
    assert len(similar) == 24
    assert clips[0] not in similar
    page.locator(".hit").first.click()
    page.get_by_role("button", name="Only this video").click()
    page.get_by_role("button", name="Leave out: only one video").wait_for()
    page.get_by_text(re.compile("1 to [23] of")).wait_for()
    watched.finish()


def test_a_dropped_file_asks(browser: Any, page_server: Running, coloured: Path) -> None:
    watched = Watched(browser, page_server.url)
    page = watched.page
    data = list((coloured / "videos" / "film 2.mp4").read_bytes())
    dropped = page.evaluate_handle(
        "data => { const given = new DataTransfer(); given.items.add(new File([new Uint8Array(data)], 'own.mp4', "
        "{type: 'video/mp4'})); return given; }",
        data,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    page.get_by_role("button", name="Leave out: own.mp4").wait_for()
    assert len(watched.answers()) == 24
    page.locator(".hit").first.click()
    page.locator("#curve .area").wait_for(state="attached")
    lie = page.evaluate_handle(
        "() => { const given = new DataTransfer(); given.items.add(new File(['no film'], 'lie.mp4', "
        "{type: 'video/mp4'})); return given; }"
    )
    page.dispatch_event("body", "drop", {"dataTransfer": lie})
    page.get_by_text("lie.mp4: the file cannot be a question: not_media").wait_for()
    assert all("415" in one for one in watched.said)  # the browser's own line about the refusal
    watched.said.clear()
    watched.finish()


def test_keys_alone_do_it_all(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    page, keys = watched.page, watched.page.keyboard
    keys.press("/")
    keys.type("a green picture")
    keys.press("Enter")
    clips = watched.answers()
    keys.press("Escape")  # out of the box
    keys.press("2")
    page.locator("video").wait_for()
    assert page.locator(".hit[aria-current]").get_attribute("data-clip") == clips[1]
    keys.press("ArrowDown")
    page.locator(f'.hit[aria-current][data-clip="{clips[2]}"]').wait_for()
    keys.press("ArrowUp")
    page.locator(f'.hit[aria-current][data-clip="{clips[1]}"]').wait_for()
    video = page.locator("video")
    video.evaluate("one => one.readyState >= 1 || new Promise(done => one.addEventListener('loadedmetadata', done))")
    video.evaluate("one => { one.pause(); one.currentTime = 3; }")
    keys.press("ArrowRight")
    assert watched.seconds() == pytest.approx(4.0, abs=0.05)
    keys.press("ArrowLeft")
    keys.press("ArrowLeft")
    assert watched.seconds() == pytest.approx(2.0, abs=0.05)
    keys.press("Escape")
    page.locator("#player").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.clip") == clips[1]  # where one was
    keys.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    keys.press("Escape")
    keys.press("Tab")
    keys.press("Enter")  # the next answer, by its button
    page.locator(f'.hit[aria-current][data-clip="{clips[2]}"]').wait_for()
    watched.finish()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible(browser: Any, page_server: Running, size: str, scheme: str) -> None:
    watched = Watched(browser, page_server.url, size=size, scheme=scheme)
    page = watched.page
    assert is_accessible(page) == []
    watched.ask("a green picture")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to push sideways
    assert is_accessible(page) == []
    page.locator(".hit").first.click()
    page.locator("#curve .area").wait_for(state="attached")
    page.get_by_role("button", name="Why this?").click()
    page.get_by_text("What each word adds").wait_for()
    assert is_accessible(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Project", exact=True).click()
    page.get_by_text("Nothing failed").wait_for()
    assert is_accessible(page) == []
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_text("Filters").click()
    assert is_accessible(page) == []
    watched.finish()


def test_the_token_in_the_address_opens_the_page(
    browser: Any, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([coloured], token="a token of a test") as running:
        closed = browser.new_context().new_page()
        closed.goto(running.url)
        closed.get_by_text("This server wants its token").wait_for()
        watched = Watched(browser, f"{running.url}/#token=a%20token%20of%20a%20test")
        assert "token" not in watched.page.url
        watched.ask("a red picture")
        watched.page.locator(".hit img").first.evaluate(
            "one => one.complete || new Promise(done => one.addEventListener('load', done))"
        )
        assert watched.page.locator(".hit img").first.evaluate("one => one.naturalWidth") > 0
        watched.finish()


def test_the_microphone_asks(browser: Any, page_server: Running) -> None:
    """Chromium's own device beeps; what it hears is a question."""
    device = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    hearing = browser.browser_type.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *device])
    watched = Watched(hearing, page_server.url)
    page = watched.page
    page.get_by_role("button", name="Microphone").click()
    stop = page.get_by_role("button", name="Stop and search")
    stop.wait_for()
    assert stop.get_attribute("aria-pressed") == "true"
    page.evaluate("new Promise(done => setTimeout(done, 1500))")  # what is recorded
    stop.click()
    page.get_by_role("button", name="Leave out: a sound from the microphone").wait_for()
    assert len(watched.answers()) == 24
    page.get_by_role("button", name="Microphone", exact=True).wait_for()  # it can be asked again
    page.locator(".hit").first.click()
    page.locator("#curve .area").wait_for(state="attached")
    watched.finish()
    hearing.close()


def test_a_microphone_that_is_refused_is_said(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    watched.page.get_by_role("button", name="Microphone").click()
    watched.page.get_by_text("The microphone cannot be used").wait_for()
    watched.finish()


def test_a_file_in_a_codec_that_the_browser_lacks_is_converted(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url)
    page = watched.page
    watched.ask("a green picture")
    page.get_by_text("Filters").click()
    page.get_by_label("split").select_option("test")  # the film in MPEG-4 part 2
    page.get_by_text("1 to 3 of 30").wait_for()
    page.get_by_text("Filters").click()
    page.locator(".hit", has_text="0:02–0:04").click()
    assert 2.0 <= watched.plays_past(2.1) <= 4.5
    assert page.locator("video").evaluate("one => one.videoWidth") == 128
    assert page.locator("#fallback").is_hidden()
    watched.finish()


# --- real videos ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server over real videos by the preset `ready`."""
    clips = request.config.getoption("--clips-dir")
    if clips is None:
        pytest.skip("needs --clips-dir FOLDER of real videos")
    folder = tmp_path_factory.mktemp("real")
    write_template(folder / "frameloom.yaml", videos=[str(clips)], captions=None, preset="ready")
    run_sync(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([folder]) as running:
            yield running


@pytest.mark.real
@pytest.mark.timeout(1800)  # with the sync of `real_server`
@pytest.mark.parametrize(
    ("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
)
def test_real_videos_are_found_and_play(
    browser: Any, real_server: Running, request: pytest.FixtureRequest, size: str, scheme: str
) -> None:
    """A question, its moment, pages, filters, a dropped file, by mouse and by keys, in every shape of the page."""
    watched = Watched(browser, real_server.url, size=size, scheme=scheme)
    page, keys = watched.page, watched.page.keyboard
    first = watched.ask("a kitten plays on a sofa")
    assert "kitten" in page.locator(".hit").first.inner_text()
    assert is_accessible(page) == []
    page.locator(".hit").first.click()
    start = float(re.search(r"#t=([\d.]+)", page.locator("video").get_attribute("src")).group(1))
    assert start <= watched.plays_past(start + 0.1) <= start + 4.5
    page.locator("#curve .area").wait_for(state="attached")
    page.get_by_role("button", name="Why this?").click()
    page.get_by_text("What each word adds").wait_for()
    assert is_accessible(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Close the player").click()

    page.get_by_role("button", name="Next page").click()
    page.get_by_text(re.compile("^25 to 48 of")).wait_for()
    assert not {*first} & {one.get_attribute("data-clip") for one in page.locator(".hit").all()}
    page.get_by_text("Filters").click()
    page.get_by_label("start_seconds at least").fill("12")
    keys.press("Enter")
    page.get_by_role("button", name="Leave out: start_seconds ge 12").wait_for()
    page.get_by_text(re.compile("^1 to [0-9]+ of")).wait_for()
    assert all(re.search(r"0:(1[2-9]|[2-4]\d)–", one) for one in page.locator(".hit .span").all_inner_texts())
    page.get_by_text("Filters").click()

    data = list((Path(request.config.getoption("--clips-dir")) / "makeup.avi").read_bytes())
    page.goto(real_server.url)
    page.get_by_text("can be found").wait_for()
    dropped = page.evaluate_handle(
        "data => { const given = new DataTransfer(); given.items.add(new File([new Uint8Array(data)], 'own.avi', "
        "{type: 'video/x-msvideo'})); return given; }",
        data,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    page.get_by_role("button", name="Leave out: own.avi").wait_for()
    watched.answers()
    assert "makeup" in page.locator(".hit").first.inner_text()

    page.goto(real_server.url)  # from here on by keys alone
    page.get_by_text("can be found").wait_for()
    keys.press("/")
    keys.type("bears")
    keys.press("Enter")
    clips = watched.answers()
    keys.press("Escape")
    keys.press("2")
    page.locator(f'.hit[aria-current][data-clip="{clips[1]}"]').wait_for()
    keys.press("ArrowUp")
    page.locator(f'.hit[aria-current][data-clip="{clips[0]}"]').wait_for()
    keys.press("Escape")
    page.locator("#player").wait_for(state="hidden")
    watched.finish()


@pytest.mark.real
@pytest.mark.timeout(1800)  # with the sync of `real_server`
@pytest.mark.parametrize("title", ["dog_trick", "goat_fence", "makeup", "flipping_pancake"])
def test_real_videos_of_other_codecs_and_containers_play(browser: Any, real_server: Running, title: str) -> None:
    with real_server.client() as client:
        name = client.get("/api/v1/projects").json()[0]["name"]
        found = client.get(f"/api/v1/projects/{name}/search", params={"q": "a video", "top": 100}).json()["results"]
    clip = max((one for one in found if one["title"] == title), key=lambda one: float(one["start_seconds"]))
    watched = Watched(browser, f"{real_server.url}/?q=a+video&clip={clip['clip']}", is_asked=True)
    start = clip["start_seconds"]
    assert start - 0.1 <= watched.plays_past(start + 0.1) <= clip["end_seconds"] + 0.5
    assert watched.page.locator("video").evaluate("one => one.videoWidth") > 0
    watched.finish()
