"""HTTP itself, bent: ranges, HEAD, pipelines, upgrades, encodings, links, clients that do not read, late answers."""

from __future__ import annotations

import gzip
import hmac
import inspect
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from frameloom.workflows.serve.api import router
from frameloom.workflows.serve.lanes import Lane
from frameloom.workflows.serve.security import Refused
from helpers.children.serving import Running, served, status_of

BASE = "/api/v1/projects/project"


@pytest.fixture
def media(client: httpx.Client, clips: list[dict[str, Any]]) -> tuple[str, bytes]:
    """The address of a file, and its bytes."""
    address = str(clips[0]["media"]).partition("#")[0]
    return address, client.get(address).content


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("bytes=" + ",".join(["0-"] * 1000), 200),
        ("bytes=" + ",".join(f"{start}-{start}" for start in range(2000)), 200),
        ("bytes=0-9,5-14", 200),
        ("bytes=0-" + "9" * 200, 200),
        ("bytes=0-99999999999999999999", 206),
        ("bytes=-99999999999999999999", 206),
        ("bytes=99999999999999999999-", 416),
        ("bytes=9-1", 400),
        ("bytes=-", 400),
        ("bytes=", 400),
        ("bytes=0x0-0x9", 400),
        ("pages=1-2", 400),
    ],
    ids=lambda value: str(value)[:30],
)
def test_ranges_are_one_or_the_whole_file(
    client: httpx.Client, media: tuple[str, bytes], asked: str, code: int
) -> None:
    address, whole = media
    found = client.get(address, headers={"range": asked})
    assert found.status_code == code
    if code in (200, 206):
        assert found.content == whole
    else:
        assert len(found.content) < 300


@pytest.mark.parametrize(
    "name", ["page", "asset", "health", "search", "media", "playable", "thumbnail", "sprite", "map"]
)
def test_head_is_get_without_a_body(client: httpx.Client, clips: list[dict[str, Any]], name: str) -> None:
    clip = f"{BASE}/clips/{clips[0]['clip']}"
    path = {
        "page": "/", "asset": "/page/app.js", "health": "/healthz", "map": f"{BASE}/map",
        "search": f"{BASE}/search?q=red",
    }.get(name, f"{clip}/{name}")  # fmt: skip
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for header in ("content-type", "content-length", "accept-ranges", "etag", "content-security-policy"):
        if name != "search" or header != "content-length":  # an answer says how long it took
            assert head.headers.get(header) == whole.headers.get(header)
    part = client.head(path, headers={"range": "bytes=0-0"}) if name in ("media", "playable") else None
    assert part is None or (part.status_code, part.headers["content-length"]) == (206, "1")


@pytest.mark.parametrize(("path", "code"), [("/nothing", 404), (f"{BASE}/questions", 405), (f"{BASE}/search", 422)])
def test_head_is_refused_as_get_is(client: httpx.Client, path: str, code: int) -> None:
    assert (client.head(path).status_code, client.get(path).status_code) == (code, code)


def test_requests_that_come_together_are_answered_in_turn(answering: Running) -> None:
    one = "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n"
    lines = [("/healthz", "127.0.0.1"), ("/nothing", "127.0.0.1"), ("/healthz", "evil.example"), ("/", "127.0.0.1")]
    answer = answering.raw("".join(one.format(*line) for line in lines).encode(), seconds=60)
    codes = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == [200, 404, 421]  # and the connection is closed: nothing behind a wrong host is looked at
    assert b"evil" not in answer


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 505),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\x00b\r\nConnection: close\r\n\r\n", 400),
        (b"GET /\x00healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n folded\r\nConnection: close\r\n\r\n", 200),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: nonsense\r\nConnection: close\r\n\r\n", 200),
    ],
)
def test_versions_and_bytes_of_heads(answering: Running, data: bytes, code: int) -> None:
    answer = answering.raw(data)
    assert status_of(answer) == code


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.3"])
def test_no_connection_is_upgraded(answering: Running, protocol: str) -> None:
    headers = [f"Upgrade: {protocol}", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13", "HTTP2-Settings: AAAA"]
    lines = ["GET /healthz HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade, close", *headers]
    assert status_of(answering.raw("\r\n".join([*lines, "", ""]).encode())) == 200  # as if nothing else was asked for


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1\u3002", 400), ("ⓛocalhost", 400), ("xn--localhost-xyz", 421), ("127.1", 421), ("0x7f.1", 421),
        ("2130706433", 421), ("0.0.0.0", 421), ("[::ffff:127.0.0.1]", 421), ("[::1%25lo]", 400), ("a" * 5000, 421),
        ("localhost..", 421), ("localhost.", 200), ("127.0.0.1:80:80", 400), ("127.0.0.1 evil", 400),
        ("user@localhost", 400),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_names_that_look_like_the_server_s(answering: Running, host: str, code: int) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert status_of(answering.raw(request.encode())) == code


def multipart(parts: int, head: str = "") -> bytes:
    part = f'--x\r\nContent-Disposition: form-data; name="a"; filename="../../a"\r\n{head}\r\nb\r\n'
    return (part * parts + "--x--\r\n").encode()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", multipart(20_000)),
        ("multipart/form-data; boundary=x", multipart(1, "X: " + "a" * 1_000_000 + "\r\n")),
        ("multipart/form-data", b"--\r\n" * 100_000),
        ("application/json", b"[" * 500_000),
        ("application/json", b'{"a":' * 100_000),
        ("application/x-www-form-urlencoded", b"a=b&" * 400_000),
        ("application/xml", b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 1000 + b'">]><a>' + b"&b;" * 10_000 + b"</a>"),
    ],
    ids=["20,000 parts", "a huge head", "no boundary", "deep lists", "deep objects", "400,000 fields", "entities"],
)
def test_a_body_is_a_file_and_is_never_parsed(client: httpx.Client, kind: str, body: bytes) -> None:
    found = client.post(f"{BASE}/questions?kind=video", content=body, headers={"content-type": kind})
    assert found.status_code == 415
    small = client.post("/api/v1/session", content=body[:60_000], headers={"content-type": kind})
    assert small.status_code == 204  # which reads no body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_no_body_is_inflated(client: httpx.Client, encoding: str) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    found = client.post(f"{BASE}/questions?kind=video", content=bomb, headers={"content-encoding": encoding})
    assert found.status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        f"{BASE}/search?q=red%00", f"{BASE}/search?q=red&where=split:eq:%00", f"{BASE}%00/search?q=red",
        f"{BASE}/clips/%00", f"{BASE}/search?q=%ff%fe&q=%00", "/page/%00", f"{BASE}/search?q=red&like=%00",
    ],
)  # fmt: skip
def test_bytes_of_nothing_do_no_harm(client: httpx.Client, path: str) -> None:
    found = client.get(path)
    assert found.status_code in (200, 404, 422)
    assert found.status_code != 200 or json.loads(found.text)["results"] is not None


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_preflight_of_another_site_is_refused(client: httpx.Client, method: str) -> None:
    headers = {
        "origin": "http://evil.example",
        "access-control-request-method": method,
        "access-control-request-headers": "authorization",
        "access-control-request-private-network": "true",
    }
    for path in ("/", "/healthz", f"{BASE}/search", f"{BASE}/questions"):
        found = client.options(path, headers=headers)
        assert found.status_code == 403
        assert not [name for name in found.headers if name.startswith("access-control")]


def test_tokens_are_compared_in_constant_time(
    synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    compared, whole = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or whole(a, b))
    with served([synced_once], token="correct horse battery staple") as running, running.client() as client:
        for token in ("c", "correct horse battery stapl", "wrong" * 10):
            assert client.get("/api/v1/projects", headers={"authorization": f"Bearer {token}"}).status_code == 401
            assert compared[-1] == token.encode()
            assert client.get("/api/v1/projects", headers={"cookie": f"frameloom={token[:1]}"}).status_code == 401
            assert compared[-1] == token[:1].encode()


@pytest.fixture(scope="module")
def hasty(synced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([synced_once], patience_seconds=0.3) as running:
            yield running


def test_a_client_that_does_not_read_is_ended(hasty: Running) -> None:
    request = b"GET /page/app.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", hasty.port))
        connection.setblocking(False)
        with suppress(BlockingIOError):  # the server reads no more requests while its answers are not read
            while True:
                connection.send(request * 1000)
        waiting = select.poll()
        waiting.register(connection, select.POLLHUP | select.POLLERR)
        assert waiting.poll(120_000)  # it hung up
    with hasty.client() as client:
        assert client.get("/healthz").status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(
    synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([synced_once], answer_seconds=0.5) as running, running.client() as client:
        held, begun = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            assert held.wait(300)

        running.service.quick.begin(hold)
        assert begun.wait(300)
        late = client.get(f"{BASE}/search", params={"q": "red"})
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert late.headers["content-type"] == "application/problem+json"
        assert "content-security-policy" in late.headers
        given_up = running.service.quick._queue.queue[-1]
        assert given_up.answer.cancelled()  # and costs nothing when its turn comes
        held.set()


def test_a_lane_ends_with_jobs_that_nobody_waits_for() -> None:
    held, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert held.wait(300)

    lane = Lane("of a test", capacity=4)
    lane.begin(hold)
    assert begun.wait(300)
    given_up, waiting = lane.begin(print), lane.begin(print)
    given_up.cancel()
    threading.Timer(0.01, held.set).start()
    lane.close()
    assert isinstance(waiting.exception(300), Refused)


def test_no_request_waits_for_a_thread_of_a_pool(answering: Running) -> None:
    """Sixteen seconds were seen before a question reached its function, on a busy machine with 96 clients."""

    def calls(dependant: Any) -> Iterator[Any]:
        yield dependant.call
        for each in dependant.dependencies:
            yield from calls(each)

    routes = [route for route in (*router.routes, *answering.app._app.routes) if hasattr(route, "dependant")]
    found = {call for route in routes for call in calls(route.dependant)}
    assert len(found) >= 16
    assert not [call for call in found if not inspect.iscoroutinefunction(call)]


def test_a_panic_is_said_and_the_lane_goes_on(answering: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As Rust's in Python: no Exception."""

    def panic(*_: Any) -> None:
        raise PanicException("in Rust")

    with monkeypatch.context() as broken, answering.client() as client:
        broken.setattr(answering.service.projects["project"], "search", panic)
        assert client.get(f"{BASE}/search", params={"q": "red"}).status_code == 500
    with answering.client() as client:
        assert client.get(f"{BASE}/search", params={"q": "red"}).status_code == 200


def test_a_link_gives_media_alone(synced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    secret = tmp_path / "passwords"
    secret.write_text("a secret of this machine\n" * 100)
    with served([synced]) as running, running.client() as client:
        first, second, third, *_ = client.get(f"{BASE}/search", params={"q": "red"}).json()["results"]
        paths = {path.stem: path for path in (synced / "videos").iterdir()}
        paths[first["title"]].unlink()
        paths[first["title"]].symlink_to(secret)
        paths[second["title"]].rename(tmp_path / "elsewhere.mp4")
        paths[second["title"]].symlink_to(tmp_path / "elsewhere.mp4")
        for name in ("media", "playable", "thumbnail", "sprite"):
            found = client.get(f"{BASE}/clips/{first['clip']}/{name}")
            assert found.status_code == 404
            assert "secret" not in found.text
            assert client.get(f"{BASE}/clips/{second['clip']}/{name}").status_code == 200
        paths[third["title"]].unlink()
        paths[third["title"]].write_bytes(secret.read_bytes())
        (synced / "videos").rename(tmp_path / "moved")
        (synced / "videos").symlink_to(tmp_path / "moved")
        assert client.get(f"{BASE}/clips/{third['clip']}/media").status_code == 404
        asked: list[Path] = []
        check = running.service.pictures.check_media
        monkeypatch.setattr(running.service.pictures, "check_media", lambda path: asked.append(path) or check(path))
        *_, other = client.get(f"{BASE}/search", params={"q": "red"}).json()["results"]
        for _ in range(2):
            assert client.get(f"{BASE}/clips/{other['clip']}/media", headers={"range": "bytes=0-9"}).status_code == 206
        assert len(asked) == 1


def test_a_kind_of_file_that_the_project_does_not_know_is_refused(
    synced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path))
    with served([synced_once]) as running, running.client() as client:
        monkeypatch.setattr(running.service.projects["project"], "_files", lambda _: ["video", "image"])
        found = client.post(f"{BASE}/questions?kind=audio", content=b"RIFF")
    assert found.status_code == 422
    assert "video, image" in found.json()["detail"]
