"""The API over a synced project: questions, filters, pages, uploads, media, pictures, reasons, the map."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from frameloom.workflows.index import Index
from frameloom.workflows.project import file_of, readable_path
from frameloom.workflows.serve.media import PictureCache
from helpers.children.serving import served
from helpers.media import steady, write_media
from PIL import Image

BASE = "/api/v1/projects/project"


def ask(client: httpx.Client, **params: Any) -> dict[str, Any]:
    found = client.get(f"{BASE}/search", params=params)
    assert found.status_code == 200, found.text
    return found.json()


def test_answers_are_those_of_the_python_face(client: httpx.Client, synced_once: Path) -> None:
    found = ask(client, q="a red picture", top=5)
    expected = Index(synced_once).search("a red picture", top=5)
    assert [one["clip"] for one in found["results"]] == [one.clip for one in expected]
    assert [one["score"] for one in found["results"]] == pytest.approx([one.score for one in expected], abs=1e-5)
    assert found["pool"] == 8
    assert [one["rank"] for one in found["results"]] == [1, 2, 3, 4, 5]
    first = found["results"][0]
    assert first["media"].endswith(f"/clips/{first['clip']}/media#t=0.000,{first['end_seconds']:.3f}")


def test_no_answer_names_a_path(client: httpx.Client, synced_once: Path, clips: list[dict[str, Any]]) -> None:
    for address in (
        f"{BASE}/search?q=red",
        BASE,
        f"{BASE}/status",
        f"{BASE}/clips/{clips[0]['clip']}",
        "/api/v1/projects",
    ):
        text = client.get(address).text
        assert str(synced_once) not in text
        assert "videos/" not in text
        assert ".mp4" not in text


def test_pages_follow_one_another(client: httpx.Client, clips: list[dict[str, Any]]) -> None:
    whole, found, offset = [one["clip"] for one in clips], [], 0
    while offset is not None:
        page = ask(client, q="a red picture", top=3, offset=offset)
        found += [one["clip"] for one in page["results"]]
        offset = page["next"]
    assert found == whole
    assert len(found) == 8


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["split:eq:test"], 2),
        (["split:ne:test"], 6),
        (["views:ge:2"], 4),
        (["views:lt:2", "split:eq:train"], 4),
        (["split:has:ES"], 2),
        (["start_seconds:gt:100"], 0),
    ],
)
def test_filters_are_built_from_columns(client: httpx.Client, filters: list[str], expected: int) -> None:
    assert len(ask(client, q="red", where=filters)["results"]) == expected


def test_columns_and_senses_are_offered(client: httpx.Client) -> None:
    found = client.get(BASE).json()
    columns = {one["name"]: one for one in found["columns"]}
    assert columns["split"]["values"] == ["test", "train"]
    assert (columns["views"]["least"], columns["views"]["largest"]) == (0, 3)
    assert found["senses"] == ["sight", "sound", "sight+sound"]
    assert found["files"] == ["video", "image", "audio"]
    assert "path" not in columns


def test_senses_choose_what_is_compared(client: httpx.Client) -> None:
    assert {one["name"] for hit in ask(client, q="red", sense="sound")["results"] for one in hit["scores"]} == {"sound"}
    assert client.get(f"{BASE}/search", params={"q": "red", "sense": "speech"}).status_code == 422


def test_a_clip_asks_for_its_like(client: httpx.Client, clips: list[dict[str, Any]]) -> None:
    found = ask(client, like=clips[0]["clip"])
    assert clips[0]["clip"] not in [one["clip"] for one in found["results"]]
    within = ask(client, q="red", within=clips[0]["clip"])
    assert [one["clip"] for one in within["results"]] == [clips[0]["clip"]]


@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_a_file_is_a_question(client: httpx.Client, synced_once: Path, kind: str) -> None:
    path = synced_once / "videos" / "green & low.v1.mp4"
    data, given = path.read_bytes(), {"video": path, "audio": path}
    if kind == "image":
        picture = io.BytesIO()
        Image.fromarray(np.full((64, 64, 3), (30, 200, 30), np.uint8)).save(picture, "PNG")
        data = picture.getvalue()
        (synced_once.parent / "green.png").write_bytes(data)
        given = {"image": synced_once.parent / "green.png"}
    elif kind == "audio":
        given = {"audio": path}
    question = client.post(f"{BASE}/questions", params={"kind": kind}, content=data)
    assert question.status_code == 201, question.text
    found = ask(client, **question.json(), top=4)
    expected = Index(synced_once).search(**given, top=4)
    assert [one["clip"] for one in found["results"]] == [one.clip for one in expected]
    name, clip = question.json()["question"], found["results"][0]["clip"]
    line = client.get(f"{BASE}/clips/{clip}/timeline", params={"question": name})
    assert line.status_code == 200, line.text
    assert client.get(f"{BASE}/clips/{clip}/why", params={"question": name}).json()["senses"]


def test_words_go_with_a_file(client: httpx.Client, synced_once: Path) -> None:
    path = synced_once / "videos" / "green & low.v1.mp4"
    question = client.post(f"{BASE}/questions", params={"kind": "video", "q": "red"}, content=path.read_bytes()).json()
    found = ask(client, **question, top=3)
    expected = Index(synced_once).search("red", video=path, audio=path, top=3)
    assert [one["clip"] for one in found["results"]] == [one.clip for one in expected]


def test_media_come_in_ranges(client: httpx.Client, synced_once: Path, clips: list[dict[str, Any]]) -> None:
    address = clips[0]["media"].partition("#")[0]
    whole = client.get(address)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.content in [path.read_bytes() for path in (synced_once / "videos").iterdir()]
    part = client.get(address, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    last = client.get(address, headers={"range": "bytes=-5"})
    assert last.content == whole.content[-5:]
    assert client.get(address, headers={"range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert client.get(address, headers={"range": "bytes=0-1,4-5"}).content == whole.content
    old = client.get(address, headers={"range": "bytes=0-1", "if-range": '"other"'})
    assert old.status_code == 200


def test_a_moment_has_a_picture_and_the_video_a_sheet(client: httpx.Client, clips: list[dict[str, Any]]) -> None:
    picture = client.get(clips[0]["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert min(Image.open(io.BytesIO(picture.content)).size) == 240
    assert client.get(clips[0]["thumbnail"]).content == picture.content  # the second time from the cache
    base = f"{BASE}/clips/{clips[0]['clip']}"
    sheet = Image.open(io.BytesIO(client.get(f"{base}/sprite").content))
    times = client.get(f"{base}/sprite.vtt")
    assert times.headers["content-type"].startswith("text/vtt")
    lines = times.text.splitlines()
    assert lines[0] == "WEBVTT"
    assert lines[2].startswith("00:00:00.000 --> 00:00:0")
    *_, part = [line for line in lines if "#xywh=" in line]
    left, top, width, height = map(int, part.partition("#xywh=")[2].split(","))
    assert (left + width, top + height) == sheet.size
    assert client.get(f"{base}/thumbnail", params={"side": 97}).status_code == 422
    assert client.get(f"{base}/thumbnail", params={"t": "nan"}).status_code == 422


def test_a_sheet_shows_each_second_in_its_place(tmp_path: Path) -> None:
    from frameloom.extract.decode import Limits
    from frameloom.workflows.serve.media import Pictures

    shades = [20, 80, 140, 200]

    def paint(number: int) -> Any:
        return np.full((96, 96, 3), shades[number // 8], np.uint8)

    write_media(tmp_path / "four.mp4", instants=steady(32, 8), paint=paint, frame_rate=8)
    pictures = Pictures(PictureCache(tmp_path / "cache", 10**6), Limits())
    try:
        for path in ("walked", "sought"):
            found = getattr(pictures, f"_{path}")(tmp_path / "four.mp4", [0.5, 1.5, 2.5, 3.5])
            assert [round(float(found[place].mean())) for place in range(4)] == pytest.approx(shades, abs=6)
    finally:
        pictures.close()


def test_a_video_in_any_codec_is_converted_with_its_instants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frameloom.extract.decode import Limits
    from frameloom.workflows.serve.media import Pictures
    from frameloom.workflows.serve.security import Refused

    shades = [20, 80, 140, 200]
    tone = (0.2 * np.sin(2 * np.pi * 440 * np.arange(4 * 16000) / 16000)).astype(np.float32)[None]

    def paint(number: int) -> Any:
        return np.full((97, 131, 3), shades[number // 8], np.uint8)  # no even sides

    path = tmp_path / "four.avi"
    write_media(path, instants=steady(32, 8), paint=paint, frame_rate=8, codec="ffv1", pixel_format="bgr0", sound=tone)
    cache = PictureCache(tmp_path / "cache", 10**6)
    pictures = Pictures(cache, Limits())
    try:
        made = pictures.make_playable(path)
        info = pictures._decoder.probe(made)
        assert (info.video.codec, info.video.width, info.video.height) == ("h264", 130, 96)
        assert info.audio.codec == "aac"
        assert info.duration_seconds == pytest.approx(4, abs=0.2)
        found = pictures._sought(made, [0.5, 1.5, 2.5, 3.5])
        assert [round(float(found[place].mean())) for place in range(4)] == pytest.approx(shades, abs=6)
        assert pictures.make_playable(path) == made
        assert cache.num_bytes == made.stat().st_size
        monkeypatch.setattr("frameloom.workflows.serve.playable.LONGEST_SECONDS", 3.0)
        assert pictures.make_playable(path) == made  # from the cache
        made.unlink()
        with pytest.raises(Refused, match="too long"):
            pictures.make_playable(path)
        one_pixel = tmp_path / "one.mkv"
        dot = np.full((1, 1, 3), 9, np.uint8)
        how: dict[str, Any] = {"frame_rate": 8, "codec": "ffv1", "pixel_format": "bgr0"}
        write_media(one_pixel, instants=steady(8, 8), paint=lambda _: dot, **how)
        with pytest.raises(Refused, match="one pixel"):
            pictures.make_playable(one_pixel)
        monkeypatch.undo()
        pictures.is_ending = True
        with pytest.raises(Refused, match="the server ends"):
            pictures.make_playable(path)
    finally:
        pictures.close()


def test_the_cache_is_bounded_and_forgets_the_least_used(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache", 1000)
    for name in "abc":
        cache.put(name, name.encode() * 400)
        cache.get("a")
    assert cache.get("a") == b"a" * 400
    assert cache.get("b") is None
    assert sum(one.stat().st_size for one in (tmp_path / "cache").iterdir()) <= 1000
    assert PictureCache(tmp_path / "cache", 500).num_bytes <= 500  # a smaller one, later


def test_the_score_over_the_video_and_its_reasons(client: httpx.Client, clips: list[dict[str, Any]]) -> None:
    base = f"{BASE}/clips/{clips[0]['clip']}"
    line = client.get(f"{base}/timeline", params={"q": "a red picture"}).json()
    assert [(one["start_seconds"], one["end_seconds"]) for one in line["windows"]] == [(0, 1), (1, 2)]
    why = client.get(f"{base}/why", params={"q": "a red picture"}).json()
    assert [one["word"] for one in why["words"]] == ["a", "red", "picture"]
    assert set(why["senses"]) <= {"sight", "sound", "sight+sound"}
    assert [one["score"] for one in why["seconds"]] == pytest.approx(
        [one["score"] for one in line["windows"]], abs=1e-3
    )


def test_status_says_what_is_indexed(client: httpx.Client) -> None:
    found = client.get(f"{BASE}/status").json()
    assert found["discovered"] == sum(found["outcomes"].values()) == 8
    assert found["commits"][0]["version"] == found["version"]
    assert found["due"] == []


def test_the_map_is_parquet_without_paths(client: httpx.Client, clips: list[dict[str, Any]]) -> None:
    found = client.get(f"{BASE}/map")
    table = pq.read_table(io.BytesIO(found.content))
    assert sorted(table["clip"].to_pylist()) == sorted(one["clip"] for one in clips)
    assert {"text", "title", "vector", "views"} <= set(table.column_names)
    assert "path" not in table.column_names
    assert np.allclose(np.linalg.norm(np.stack(table["vector"].to_numpy(zero_copy_only=False)), axis=1), 1, atol=1e-3)


def test_openapi_describes_what_is_there(client: httpx.Client) -> None:
    found = client.get("/api/v1/openapi.json").json()
    assert f"{BASE.replace('project', '{project}', 2).replace('{project}s', 'projects')}/search" in found["paths"]
    assert found["components"]["schemas"]["Problem"]["properties"]["detail"]


def test_several_projects_by_name(synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([synced_once, f"other={synced_once / 'frameloom.yaml'}"]) as running, running.client() as client:
        assert [one["name"] for one in client.get("/api/v1/projects").json()] == ["project", "other"]
        found = client.get("/api/v1/projects/other/search", params={"q": "red"}).json()
        assert found["project"] == "other"
        assert "/projects/other/" in found["results"][0]["media"]
        assert client.get("/api/v1/projects/third/search", params={"q": "red"}).status_code == 404


def test_what_is_not_indexed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.projects import make_collection, write_config

    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    make_collection(tmp_path / "new")
    write_config(tmp_path / "new")
    with served([tmp_path / "new"]) as running, running.client() as client:
        found = client.get("/api/v1/projects/new/search", params={"q": "red"})
        assert found.status_code == 409
        assert "frameloom sync" in found.json()["detail"]


def test_answers_follow_the_table_from_version_to_version(
    synced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    with served([synced]) as running, running.client() as client:
        before = ask(client, q="a red picture")
        table = Index(synced)._current().table
        gone = before["results"][0]["clip"]
        table.apply([], [row["id"] for row in table.get(where=f"clip = '{gone}'", columns=["id"])])
        after = ask(client, q="a red picture")
        assert after["version"] > before["version"]
        assert after["pool"] == before["pool"] - 1
        assert [one["clip"] for one in after["results"]] == [one["clip"] for one in before["results"]][1:]
        assert client.get(f"{BASE}/clips/{gone}/media").status_code == 404


@pytest.mark.parametrize("name", ["plain.mp4", "back\\slash.mp4", "\\xff.mp4", "b\udcff\\x41.mp4", "ü.mp4"])
def test_a_kept_path_is_found_again(name: str) -> None:
    assert file_of(readable_path(Path("videos") / name)) == Path("videos") / name
