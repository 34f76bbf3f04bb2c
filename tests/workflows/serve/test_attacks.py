"""Attacks: each is refused with the right code, nothing of the machine leaks, and the server still answers."""

from __future__ import annotations

import io
import json
import socket
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from frameloom._vocabulary import ConfigError
from frameloom.workflows.serve.projects import compared
from frameloom.workflows.serve.security import ServeSettings, session_cookie
from helpers.children.serving import Running, served, status_of

BASE = "/api/v1/projects/project"
TOKEN = "correct horse battery staple"
SECRETS = (b"root:", b"/tmp/", b"Traceback", b"site-packages", b".frameloom", b'File "')


@pytest.fixture(autouse=True)
def _still_answers(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "answering" in request.fixturenames:
        with request.getfixturevalue("answering").client() as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get(f"{BASE}/search", params={"q": "red"}).status_code == 200


def leaks_nothing(answer: bytes) -> bool:
    return not [one for one in SECRETS if one in answer]


UP = (
    "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "..\\", "%2e%2e%5c", "..%c0%af",
    "%c0%ae%c0%ae/", "....//", "..;/", "..%00/", ".%2e/", "%2e./", "..%ef%bc%8f", "..%u2215", "%uff0e%uff0e/", "..//",
    "/..%2f..%2f",
)  # fmt: skip
TRAVERSALS = [
    *[f"/page/{up * 8}etc/passwd" for up in UP],
    *[f"{BASE}/clips/{up * 8}etc/passwd/media" for up in UP[:10]],
    "//etc/passwd", "/page//etc/passwd", "/page/%2fetc%2fpasswd", "/page/app.js%00.html", "/page/./../../etc/passwd",
    "/page/file:///etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/C:%5cWindows%5cwin.ini", "/page/\\\\host\\share",
    "/page/.git/config", f"{BASE}/../../../../etc/passwd", "/api/v1/projects/..%2f..%2fproject/search?q=red",
    f"{BASE}/clips/%2fetc%2fpasswd/media", f"{BASE}/clips/{'0' * 32}/media",
]  # fmt: skip


@pytest.mark.parametrize("target", TRAVERSALS)
def test_no_spelling_leaves_the_collection(answering: Running, target: str) -> None:
    answer = answering.get(target)
    assert status_of(answer) in (400, 404, 405, 422)
    assert leaks_nothing(answer)


def test_there_are_forty_spellings() -> None:
    assert len(set(TRAVERSALS)) >= 40


@pytest.mark.parametrize(
    "condition",
    [
        "split:eq:x' OR '1'='1",
        "split:eq:' OR true --",
        "split:eq:test'; DROP TABLE clips; --",
        "split:has:' || path || '",
        "views:eq:1 OR true",
        "views:eq:(SELECT 1)",
        "views:eq:1e999",
        "views:eq:99999999999999999999",
        "start_seconds:lt:nan",
        "start_seconds:lt:inf",
        "path:has:/",
        "id:eq:x",
        "vector:ne:0",
        "model:has:a",
        "fingerprint:has:a",
        "video:has:videos",
        "metadata:has:a",
        '"split":eq:test',
        'split" = "split" OR "split:eq:test',
        "split:is:null",
        "split:eq",
        "split",
        ":",
        "split:eq:" + "x" * 300,
        "__proto__:eq:1",
    ],
)
def test_filters_let_nothing_in(answering: Running, client: httpx.Client, condition: str) -> None:
    found = client.get(f"{BASE}/search", params={"q": "red", "where": condition})
    if found.status_code == 200:  # a text that is compared, and is nobody's
        assert found.json()["results"] == []
    else:
        assert found.status_code == 422
        assert found.headers["content-type"] == "application/problem+json"
    assert leaks_nothing(found.content)
    assert " path" not in found.text


def test_too_many_filters_are_refused(client: httpx.Client) -> None:
    assert client.get(f"{BASE}/search", params={"q": "red", "where": ["split:eq:a"] * 9}).status_code == 422


def test_a_quote_stays_inside_of_its_text() -> None:
    assert compared("split", "eq", "it's", "string") == "\"split\" = 'it''s'"


@pytest.mark.parametrize(
    "params",
    [
        {}, {"q": ""}, {"q": " \t"}, {"q": "x" * 2001}, {"q": "red", "top": 0}, {"q": "red", "top": 10**9},
        {"q": "red", "offset": -1}, {"q": "red", "offset": 10**9}, {"q": "red", "sense": "smell"},
        {"q": "red", "like": "0" * 32}, {"like": "' OR 1=1 --"}, {"like": "0" * 32}, {"question": "0" * 32},
        {"question": "../../etc/passwd"}, {"q": "red", "video": "/etc/passwd"}, {"q": "red", "distinct": "nan"},
        {"q": "red", "diversity": 2}, {"q": "red", "merge": "true", "hybrid": "true"}, {"q": "red", "top": "1;2"},
        {"q": "xylophone"}, {"q": "\x00"}, {"q": "red", "within": "f" * 32},
    ],
    ids=lambda params: json.dumps(params)[:60],
)  # fmt: skip
def test_wrong_questions_are_refused(client: httpx.Client, params: dict[str, Any]) -> None:
    found = client.get(f"{BASE}/search", params=params)
    assert found.status_code in (404, 422)
    assert found.headers["content-type"] == "application/problem+json"
    assert leaks_nothing(found.content)


# --- files that are bombs or lies -------------------------------------------------------------------------------------


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says it has this size, and has these compressed bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def clip_of(seconds: float = 1.0, side: int = 64, rate: int = 8) -> bytes:
    import numpy as np
    from helpers.media import steady, write_media

    picture = np.full((side, side, 3), 90, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_media(path, instants=steady(int(seconds * rate), rate), paint=lambda _: picture, frame_rate=rate)
        return path.read_bytes()


LIES: dict[str, tuple[str, Any]] = {
    "nothing": ("video", b""),
    "text": ("video", b"no video at all"),
    "a program": ("video", b"#!/bin/sh\nid\n"),
    "a picture as a clip": ("video", png(8, 8, zlib.compress(bytes(8 * 25)))),
    "a clip as a picture": ("image", clip_of),
    "a page as a picture": (
        "image",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    ),
    "a picture of 10 gigapixels": ("image", png(100_000, 100_000, zlib.compress(bytes(10**6)))),
    "a picture larger than allowed": ("image", png(2000, 2000, zlib.compress(bytes(2000 * 6001)))),
    "a picture that is cut": ("image", png(64, 64, zlib.compress(bytes(64 * 193)))[:60]),
    "rubbish after a head": ("video", b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isom" + bytes(range(256)) * 100),
    "half a clip": ("video", lambda: clip_of()[:300]),
    "a clip that is too long": ("video", lambda: clip_of(seconds=30, side=16)),
    "a clip of too many pixels": ("video", lambda: clip_of(side=1024)),
    "a clip without sound": ("audio", clip_of),
    "a playlist": ("video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
    "a list of files": ("video", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "an address": ("video", b"http://127.0.0.1:1/clip.mp4"),
    "zeros": ("video", bytes(10**6)),
}


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie_are_refused(client: httpx.Client, name: str) -> None:
    kind, made = LIES[name]
    data = made() if callable(made) else made
    found = client.post(f"{BASE}/questions", params={"kind": kind}, content=data)
    assert found.status_code == 415, found.text
    assert found.headers["content-type"] == "application/problem+json"
    assert leaks_nothing(found.content)


def test_nothing_of_an_upload_stays(client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert client.post(f"{BASE}/questions", params={"kind": "video"}, content=clip_of()).status_code == 201
    assert client.post(f"{BASE}/questions", params={"kind": "video"}, content=b"lie").status_code == 415
    assert not [one for one in tmp_path.iterdir() if "question" in one.name]


def test_uploaded_questions_are_bounded(answering: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frameloom.workflows.serve.projects.MOST_QUESTIONS", 2)
    with answering.client() as client:
        data = clip_of()
        names = [client.post(f"{BASE}/questions?kind=video", content=data).json()["question"] for _ in range(3)]
        codes = [client.get(f"{BASE}/search", params={"question": name}).status_code for name in names]
    assert codes == [404, 200, 200]


# --- bodies, heads and slow clients -----------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large(answering: Running) -> None:
    head = f"POST {BASE}/questions?kind=video HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999999999\r\n\r\n"
    assert status_of(answering.raw(head.encode())) == 413


def test_a_body_that_does_not_say_so(answering: Running) -> None:
    head = f"POST {BASE}/questions?kind=video HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"10000\r\n" + bytes(0x10000) + b"\r\n" for _ in range(33))  # 2.06 of 2 MB
    assert status_of(answering.raw(head.encode() + pieces)) == 413


@pytest.mark.parametrize("path", ["/healthz", f"{BASE}/search?q=red", "/api/v1/session"])
def test_other_addresses_take_no_large_bodies(client: httpx.Client, path: str) -> None:
    assert client.request("POST", path, content=bytes(100_000)).status_code == 413


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked, x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\x00" * 100_000,
    ],
)
def test_malformed_requests_are_refused(answering: Running, data: bytes) -> None:
    answer = answering.raw(data, shut=True)
    assert status_of(answer) in (400, 413, 431, 501)
    assert leaks_nothing(answer)


@pytest.fixture(scope="module")
def impatient(synced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([synced_once], patience_seconds=0.3) as running:
            yield running


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /healthz HTT",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        f"POST {BASE}/questions?kind=video HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc".encode(),
    ],
    ids=["silence", "half a line", "half a head", "half a body"],
)
def test_slow_clients_are_ended(impatient: Running, data: bytes) -> None:
    answer = impatient.raw(data)  # the server closes: this would wait for a minute otherwise, and be empty
    assert status_of(answer) == 408
    with impatient.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_body_that_drips_is_ended(impatient: Running) -> None:
    head = f"POST {BASE}/questions?kind=video HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.1)
        found = b""
        for _ in range(600):
            try:
                connection.sendall(b"x")
                found += connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if found:
                break
    assert status_of(found) == 408


# --- overload ---------------------------------------------------------------------------------------------------------


def test_overload_is_said_and_passes(synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([synced_once], queue=2) as running, running.client() as client:
        assert client.get(f"{BASE}/search", params={"q": "red"}).status_code == 200
        held, begun = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            assert held.wait(600)

        running.service.quick.begin(hold)
        assert begun.wait(600)
        waiting = [running.service.quick.begin(lambda: None) for _ in range(2)]
        refused = client.get(f"{BASE}/search", params={"q": "red"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        held.set()
        for one in waiting:
            one.result(60)
        assert client.get(f"{BASE}/search", params={"q": "red"}).status_code == 200


def test_more_requests_than_allowed_are_refused(
    synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([synced_once], requests=1) as running:
        running.app._in_flight = 5  # the request that found it running may be about to be counted down
        with running.client() as client:
            refused = client.get("/healthz")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            running.app._in_flight = 0
            assert client.get("/healthz").status_code == 200


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["Host: evil.example"], 421),
        (["Host: 127.0.0.1.evil.example"], 421),
        (["Host: localhost.evil.example:80"], 421),
        (["Host: 192.168.0.1"], 421),
        (["Host: 127.0.0.1@evil.example"], 400),
        (["Host: "], 400),
        (["Host: 127.0.0.1", "Host: evil.example"], 400),
        (["X-Forwarded-Host: 127.0.0.1", "Host: evil.example"], 421),
        (["Host: 127.0.0.1", "X-Forwarded-Host: evil.example"], 200),
        (["Host: [::1]:80"], 200),
        (["Host: LOCALHOST:1"], 200),
        (["Host: 127.0.0.1:99999999"], 400),
        (["Host: 127.0.0.1/evil"], 400),
    ],
)
def test_the_server_goes_by_its_own_names(answering: Running, headers: list[str], code: int) -> None:
    answer = answering.get("/healthz", *headers)
    assert status_of(answer) == code
    assert b"evil" not in answer


@pytest.mark.parametrize("target", ["http://evil.example/healthz", "evil", "*"])
def test_targets_that_are_no_paths_are_refused(answering: Running, target: str) -> None:
    assert status_of(answering.get(target)) == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_sites_may_not_ask(client: httpx.Client, headers: dict[str, str], method: str) -> None:
    path = f"{BASE}/search?q=red" if method == "GET" else f"{BASE}/questions?kind=video"
    found = client.request(method, path, headers=headers)
    assert found.status_code == 403
    assert "access-control-allow-origin" not in found.headers


def test_no_site_is_given_leave(client: httpx.Client) -> None:
    found = client.options(f"{BASE}/search", headers={"access-control-request-method": "GET"})
    assert found.status_code == 405
    own = client.get(f"{BASE}/search?q=red", headers={"origin": str(client.base_url).rstrip("/")})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def guarded(synced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([synced_once], token=TOKEN) as running:
            yield running


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer"}, {"authorization": "Bearer "}, {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"}, {"authorization": f"Bearer {TOKEN.upper()}"},
        {"cookie": f"frameloom={TOKEN}"}, {"cookie": "frameloom="}, {"cookie": "frameloom=\x01;;="},
        {"cookie": f"frameloom={session_cookie('another token')}"}, {"x-token": TOKEN},
        {"authorization": "Bearer " + "é" * 20},
    ],
    ids=lambda headers: str(headers)[:50],
)  # fmt: skip
@pytest.mark.parametrize("path", [f"{BASE}/search?q=red", f"{BASE}/clips/{'0' * 32}/media", "/api/v1/openapi.json"])
def test_without_the_token_nothing_is_answered(guarded: Running, headers: dict[str, str], path: str) -> None:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    answer = guarded.get(path, "Host: 127.0.0.1", *lines)
    assert status_of(answer) == (400 if "\x01" in str(headers.values()) or b"Invalid HTTP" in answer else 401)
    assert TOKEN.encode() not in answer


def test_the_token_opens_and_a_cookie_stands_for_it(guarded: Running) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with guarded.client() as client:
        assert client.get(f"{BASE}/search?q=red", headers=bearer).status_code == 200
        assert client.get("/", headers={}).status_code == 200  # the page itself holds nothing
        opened = client.post("/api/v1/session", headers=bearer)
        assert opened.status_code == 204
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get(f"{BASE}/search?q=red").status_code == 200  # by the cookie
        assert client.get(f"{BASE}/search?q=red&token={TOKEN}", headers={"cookie": ""}).status_code in (401, 422)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.org", "::"])
def test_every_other_address_demands_a_token(host: str) -> None:
    assert not ServeSettings(host=host).is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_this_machine(host: str) -> None:
    assert ServeSettings(host=host).is_local


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="token"):
        ServeSettings(token="short")


def test_answers_have_headers_that_hold_a_page_in(client: httpx.Client) -> None:
    for path in ("/", "/healthz", f"{BASE}/search?q=red", "/nothing", f"{BASE}/search"):
        found = client.get(path)
        policy = found.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "server" not in found.headers


def test_the_page_names_no_other_host(client: httpx.Client) -> None:
    from importlib.resources import files

    for file in files("frameloom.workflows.serve").joinpath("page").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert " style=" not in text, file  # the policy would refuse it
        assert " on" + "click=" not in text, file


def test_what_fails_inside_says_nothing_of_it(answering: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("/tmp/secret of the machine")

    monkeypatch.setattr(answering.service.projects["project"], "facts", broken)
    with answering.client() as client:
        found = client.get(BASE)
    assert found.status_code == 500
    assert found.headers["content-type"] == "application/problem+json"
    assert "secret" not in found.text


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "POST"])
def test_nothing_is_written(client: httpx.Client, method: str) -> None:
    found = client.request(method, f"{BASE}/search?q=red")
    assert found.status_code == 405
    assert io.BytesIO(found.content).read(1) == b"{"
