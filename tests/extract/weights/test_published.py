"""Weights by tag: fetched once, checked always, whatever a server, a kill or a damaged cache does."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from frameloom._vocabulary import ConfigError, InputError, OutOfSpaceError, WeightsSource
from frameloom.extract import (
    backbone_spec,
    cached_weights,
    create_backbone,
    fetch_weights,
    find_source,
    known_sha256,
    list_backbones,
    weights_digest,
)
from frameloom.extract.registry import BACKBONES, BackboneEntry
from frameloom.extract.weights import cache as _cache
from frameloom.extract.weights import published as _published
from frameloom.extract.weights import transfer as _transfer

CONTENT = bytes(range(256)) * 800
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Published:
    """What the server gives, how it misbehaves, and what it was asked."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    knows_ranges: bool = True
    says_length: bool = True
    is_chunked: bool = False
    redirect: str = ""
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    was_asked: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def source(self, **changes: Any) -> WeightsSource:
        usual: dict[str, Any] = {"tag": "one", "url": f"{self.url}/net.pth", "sha256": SHA256, "licence": "MIT"}
        return WeightsSource(**usual | changes)


class Handler(http.server.BaseHTTPRequestHandler):
    published: Published
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        what = self.published
        what.asked.append(dict(self.headers))
        what.was_asked.set()
        what.may_answer.wait(30)
        self.close_connection = True
        if what.redirect or what.status >= 400:
            self.send_response(302 if what.redirect else what.status)
            if what.redirect:
                self.send_header("Location", what.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._give(what, self._start(what))

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.published.content)))
        for name, value in self.published.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _start(self, what: Published) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range") in what.headers.values()
        return int(match.group(1)) if match and what.knows_ranges and is_same else 0

    def _give(self, what: Published, start: int) -> None:
        size = len(what.content)
        if start >= size:
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in what.headers.items():
            self.send_header(name, value)
        if what.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif what.says_length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        body = what.content[start : what.cuts.pop(0) if what.cuts else size]
        if what.is_chunked:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def published() -> Iterator[Published]:
    """A server on this machine that gives one file at every address."""
    what = Published()
    what.may_answer.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"published": what}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that hangs up is no fault
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    what.url = f"http://127.0.0.1:{server.server_port}"
    yield what
    what.may_answer.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(_cache.CACHE_VARIABLE, str(folder))
    return folder


def names(folder: Path) -> set[str]:
    """What lies in the cache, but for the locks."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} if folder.exists() else set()


GOOD = {f"{SHA256[:16]}-net.pth", f"{SHA256[:16]}-net.pth.sha256"}


class TestFetching:
    def test_gives_the_file_and_reports_bytes(self, published: Published, cache: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        source = published.source(size_bytes=len(CONTENT))
        assert cached_weights(source) is None
        path = fetch_weights(source, on_progress=lambda done, total: seen.append((done, total)))
        assert path == cached_weights(source) == cache / f"{SHA256[:16]}-net.pth"
        assert path.read_bytes() == CONTENT
        assert names(cache) == GOOD
        assert seen[0] == (0, len(CONTENT))
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        record = cache / f"{path.name}.sha256"
        checked = subprocess.run(["sha256sum", "-c", record.name], cwd=cache, capture_output=True, check=False)
        assert checked.returncode == 0

    def test_happens_once(self, published: Published) -> None:
        first = fetch_weights(published.source())
        assert fetch_weights(published.source()) == first
        assert len(published.asked) == 1

    def test_wrong_bytes_are_refused_and_removed(self, published: Published, cache: Path) -> None:
        published.content = CONTENT[::-1]
        with pytest.raises(InputError, match=rf"{hashlib.sha256(published.content).hexdigest()}.*{SHA256}"):
            fetch_weights(published.source())
        assert names(cache) == set()
        published.content = CONTENT
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_a_damaged_file_in_the_cache_is_replaced(self, published: Published) -> None:
        path = fetch_weights(published.source())
        path.write_bytes(CONTENT[:-1] + b"x")
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        assert len(published.asked) == 2

    def test_a_full_read_only_cache_needs_no_lock(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        path = fetch_weights(published.source())
        monkeypatch.setattr(_published, "held_alone", None)
        assert fetch_weights(published.source()) == path

    @pytest.mark.parametrize("size_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
    def test_another_size_is_refused_before_the_body(self, published: Published, cache: Path, size_bytes: int) -> None:
        seen: list[int] = []
        with pytest.raises(InputError, match=f"{len(CONTENT):,} bytes"):
            fetch_weights(published.source(size_bytes=size_bytes), on_progress=lambda done, _: seen.append(done))
        assert seen == []
        assert names(cache) == set()

    def test_a_body_without_end_is_stopped(self, published: Published, cache: Path) -> None:
        published.says_length = False
        with pytest.raises(InputError, match="more than 1,000"):
            fetch_weights(published.source(size_bytes=1000))
        assert names(cache) == set()

    def test_no_room_is_said_before_the_body(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = _transfer.shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(_transfer.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(OutOfSpaceError, match=f"{len(CONTENT):,} bytes are needed and 1,000 are free"):
            fetch_weights(published.source())

    def test_a_chunked_body_is_taken(self, published: Published) -> None:
        published.is_chunked = True
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_a_cache_that_cannot_be_written_is_said(
        self, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv(_cache.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.raises(ConfigError, match=r"cannot write .*FRAMELOOM_CACHE"):
            fetch_weights(published.source())


class TestCutTransfers:
    def test_go_on_where_they_stopped(self, published: Published) -> None:
        published.cuts = [70_000, 150_000]
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        ranges = [asked.get("Range") for asked in published.asked]
        assert ranges == [None, "bytes=70000-", "bytes=150000-"]

    def test_go_on_in_the_next_call(self, published: Published, cache: Path) -> None:
        published.cuts = [10_000, 20_000, 30_000]
        with pytest.raises(ConfigError, match=r"3 times.*30,000 of 204,800 bytes came.*goes on from there"):
            fetch_weights(published.source())
        assert cached_weights(published.source()) is None
        seen: list[int] = []
        fetch_weights(published.source(), on_progress=lambda done, _: seen.append(done))
        assert seen[0] == 30_000
        assert published.asked[-1]["Range"] == "bytes=30000-"
        assert names(cache) == GOOD

    def test_begin_anew_with_a_server_that_knows_no_ranges(self, published: Published) -> None:
        published.cuts, published.knows_ranges = [70_000], False
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_begin_anew_when_the_file_has_changed(self, published: Published) -> None:
        published.cuts = [10_000, 20_000, 30_000]
        published.content = CONTENT[::-1]
        with pytest.raises(ConfigError):
            fetch_weights(published.source())
        published.content, published.headers = CONTENT, {"ETag": '"two"'}
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_begin_anew_when_no_version_was_said(self, published: Published) -> None:
        published.cuts, published.headers = [70_000], {"ETag": 'W/"weak"'}
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        assert "Range" not in published.asked[-1]

    def test_survive_more_bytes_than_the_file_has(self, published: Published, cache: Path) -> None:
        published.cuts = [10_000, 20_000, 30_000]
        with pytest.raises(ConfigError):
            fetch_weights(published.source())
        (part,) = (path for path in cache.iterdir() if path.name.endswith(".part"))
        part.write_bytes(CONTENT + b"more")
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_survive_a_killed_process(self, published: Published, cache: Path) -> None:
        half = len(CONTENT) // 2
        published.cuts = [half]
        code = f"""
import sys
from frameloom._vocabulary import WeightsSource
from frameloom.extract import fetch_weights
def on_progress(done, total):
    if done == {half}:
        print("half", flush=True)
        sys.stdin.read()
source = WeightsSource(tag="one", url={published.url + "/net.pth"!r}, sha256={SHA256!r}, licence="")
fetch_weights(source, on_progress=on_progress)
"""
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "half\n"
            child.kill()
        assert cached_weights(published.source()) is None
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        assert published.asked[-1]["Range"].startswith("bytes=")
        assert names(cache) == GOOD


def test_two_at_once_fetch_once(published: Published, cache: Path) -> None:
    published.may_answer.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(fetch_weights, published.source())
        assert published.was_asked.wait(30)
        with (cache / f".{SHA256[:16]}-net.pth.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        others = [pool.submit(fetch_weights, published.source()) for _ in range(3)]
        published.may_answer.set()
        assert {one.result() for one in (first, *others)} == {cache / f"{SHA256[:16]}-net.pth"}
    assert len(published.asked) == 1
    assert names(cache) == GOOD


class TestServersThatMisbehave:
    @pytest.mark.parametrize(
        "address",
        [
            "file:///etc/hostname",
            "http://192.0.2.1/net.pth",
            "ftp://127.0.0.1/x",
            "data:,abc",
            "http://[/",
            "gopher://x",
        ],
    )
    def test_a_redirect_to_elsewhere_is_refused(self, published: Published, cache: Path, address: str) -> None:
        published.redirect = address
        with pytest.raises(ConfigError, match=r"not an https:// address|not allowed|Invalid IPv6"):
            fetch_weights(published.source())
        assert names(cache) == set()

    def test_a_redirect_within_this_machine_is_followed_from_this_machine_alone(self, published: Published) -> None:
        source = published.source()
        assert _transfer._checked(source, "http://localhost:1/x", from_loopback=True).port == 1
        with pytest.raises(ConfigError):
            _transfer._checked(source, "http://localhost:1/x", from_loopback=False)

    def test_a_loop_of_redirects_ends(self, published: Published) -> None:
        published.redirect = f"{published.url}/again"
        with pytest.raises(ConfigError, match="302"):
            fetch_weights(published.source())
        assert len(published.asked) < 20

    @pytest.mark.parametrize(
        "url",
        [
            "http://192.0.2.1/net.pth",
            "http://127.0.0.1.example.org/net.pth",
            "file:///etc/hostname",
            "ftp://example.org/net.pth",
            "https:///net.pth",
            "net.pth",
            "hf://owner",
            "hf://owner/repository/../../x.pth",
        ],
    )
    def test_only_https_is_asked_outside_this_machine(self, url: str) -> None:
        source = WeightsSource(tag="one", url=url, sha256=SHA256, licence="")
        with pytest.raises(ConfigError, match=r"not an https:// address|is not hf://"):
            fetch_weights(source)

    def test_no_server_says_how_to_do_without(self, published: Published) -> None:
        closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        port = closed.server_port
        closed.server_close()
        url = f"http://127.0.0.1:{port}/net.pth"
        with pytest.raises(ConfigError, match=rf"no connection to 127.0.0.1.*fetch {url} by hand.*`weights`"):
            fetch_weights(published.source(url=url))

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_a_refusal_is_told(self, published: Published, status: int) -> None:
        published.status = status
        with pytest.raises(ConfigError, match=rf"answers {status}.*by hand"):
            fetch_weights(published.source())

    def test_a_compressed_answer_is_refused(self, published: Published) -> None:
        published.headers["Content-Encoding"] = "gzip"
        with pytest.raises(InputError, match="compresses"):
            fetch_weights(published.source())

    @pytest.mark.parametrize(
        ("path", "filename"),
        [
            ("/..%2F..%2Fetc%2Fpasswd.pth", None),
            ("/a/../../b.pth", None),
            ("/.hidden.pth", None),
            ("/..%5C..%5Cnet.pth", None),
            ("/a%00b%0Ac.pth", None),
            ("/a b;rm%20-rf%20~.pth", None),
            ("/" + "x" * 400 + ".pth", None),
            ("/%F0%9F%90%8D.pth", None),
            ("/", None),
            ("/net", "../../../net.pth"),
            ("/download?file=/etc/passwd", "/etc/net.pth"),
        ],
    )
    def test_no_name_leads_out_of_the_cache(self, cache: Path, path: str, filename: str | None) -> None:
        url = f"https://example.org{path}"
        found = _published._path_of(WeightsSource(tag="a", url=url, sha256=SHA256, licence="", filename=filename))
        assert found.parent == cache
        assert re.fullmatch(rf"{SHA256[:16]}-[A-Za-z0-9_][\w.-]{{0,119}}", found.name, re.ASCII)
        assert found.suffix == (".pth" if path != "/" else "")


class TestHashesThatAreNotPublished:
    def test_the_first_digits_are_compared(self, published: Published) -> None:
        source = published.source(sha256=SHA256[:8])
        assert known_sha256(source) is None
        assert fetch_weights(source).name == f"{SHA256[:8]}-net.pth"
        assert known_sha256(source) == SHA256
        with pytest.raises(InputError, match="expected 00000000"):
            fetch_weights(published.source(sha256="00000000"))

    def test_the_first_download_is_trusted_and_every_later_one_compared(self, published: Published) -> None:
        source = published.source(sha256=None)
        path = fetch_weights(source)
        assert known_sha256(source) == SHA256
        path.unlink()
        published.content = CONTENT[::-1]
        with pytest.raises(InputError, match=rf"has changed.*{SHA256}.*delete .*\.sha256"):
            fetch_weights(source)
        _published._record_of(source).unlink()
        fetch_weights(source)
        assert known_sha256(source) == hashlib.sha256(published.content).hexdigest()

    def test_a_damaged_file_is_never_used(self, published: Published) -> None:
        source = published.source(sha256=None)
        path = fetch_weights(source)
        path.write_bytes(CONTENT[:-1] + b"x")
        assert fetch_weights(source).read_bytes() == CONTENT

    @pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"0" * 63, b"0" * 64 + b"  net.pth"])
    def test_a_damaged_record_counts_for_nothing(self, published: Published, damage: bytes) -> None:
        source = published.source(sha256=SHA256[:8])
        fetch_weights(source)
        _published._record_of(source).write_bytes(damage)
        assert known_sha256(source) is None
        assert cached_weights(source) is None
        assert fetch_weights(source).read_bytes() == CONTENT
        assert known_sha256(source) == SHA256

    def test_nothing_is_trusted_whose_end_cannot_be_seen(self, published: Published) -> None:
        published.says_length = False
        with pytest.raises(ConfigError, match="how long the file is"):
            fetch_weights(published.source(sha256=None))
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_nothing_of_an_earlier_process_is_trusted(self, published: Published) -> None:
        published.cuts = [10_000, 20_000, 30_000]
        source = published.source(sha256=None)
        with pytest.raises(ConfigError):
            fetch_weights(source)
        fetch_weights(source)
        assert "Range" not in published.asked[-1]


def hub_file(published: Published, monkeypatch: pytest.MonkeyPatch) -> WeightsSource:
    """The server as the Hugging Face Hub, as far as its client asks."""
    import huggingface_hub

    published.headers = {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
    original = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", functools.partial(original, endpoint=published.url, token=False)
    )
    return published.source(url="hf://owner/repository@v1.0/folder/net.pth")


class TestHub:
    def test_gives_the_file(
        self, published: Published, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = hub_file(published, monkeypatch)
        seen: list[int] = []
        assert fetch_weights(source, on_progress=lambda done, _: seen.append(done)).read_bytes() == CONTENT
        assert seen[-1] == len(CONTENT)
        assert names(cache) == GOOD
        assert capfd.readouterr() == ("", "")

    def test_wrong_bytes_are_refused_and_removed(
        self, published: Published, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = replace(hub_file(published, monkeypatch), sha256="1" * 64)
        with pytest.raises(InputError, match=SHA256):
            fetch_weights(source)
        assert names(cache) == set()

    def test_another_size_is_refused(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        source = replace(hub_file(published, monkeypatch), size_bytes=1000)
        with pytest.raises(InputError, match="204,800 bytes"):
            fetch_weights(source)

    def test_no_connection_says_how_to_do_without(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        source = hub_file(published, monkeypatch)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConfigError, match=r"Hugging Face Hub says.*by hand"):
            fetch_weights(source)


class TestRememberedHashes:
    @pytest.fixture(autouse=True)
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """Which files were read; files of every size and age are remembered."""
        found: list[Path] = []
        original = _cache.read_sha256

        def counting(path: Path) -> str:
            found.append(path)
            return original(path)

        monkeypatch.setattr(_cache, "read_sha256", counting)
        monkeypatch.setattr(_cache, "REMEMBERED_FROM_BYTES", 0)
        monkeypatch.setattr(_cache, "SETTLED_NS", -(10**12))
        return found

    @pytest.fixture
    def big(self, tmp_path: Path) -> Path:
        path = tmp_path / "big.pth"
        path.write_bytes(CONTENT)
        return path

    def test_a_file_is_read_once(self, big: Path, reads: list[Path]) -> None:
        expected = f"sha256:{SHA256}"
        assert [weights_digest("resnet18", str(big)) for _ in range(3)] == [expected] * 3
        assert reads == [big]

    def test_a_change_that_keeps_size_and_time_is_seen(self, big: Path) -> None:
        before = big.stat()
        _cache.file_sha256(big)
        big.write_bytes(CONTENT[::-1])
        os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert big.stat().st_mtime_ns == before.st_mtime_ns
        assert _cache.file_sha256(big) == hashlib.sha256(CONTENT[::-1]).hexdigest()

    def test_another_file_of_the_name_is_seen(self, big: Path, tmp_path: Path) -> None:
        _cache.file_sha256(big)
        (tmp_path / "other").write_bytes(CONTENT[::-1])
        (tmp_path / "other").replace(big)
        assert _cache.file_sha256(big) == hashlib.sha256(CONTENT[::-1]).hexdigest()

    def test_a_young_file_is_not_remembered(
        self, big: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
    ) -> None:
        monkeypatch.setattr(_cache, "SETTLED_NS", 10**15)
        assert [_cache.file_sha256(big) for _ in range(2)] == [SHA256] * 2
        assert reads == [big, big]
        assert names(cache) == set()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: "",
            lambda text: text[: len(text) // 2],
            lambda text: "[1, 2]",
            lambda text: '{"check": 1}',
            lambda text: "\x00" * len(text),
            lambda text: text.replace(SHA256, "0" * 64),
            lambda text: json.dumps({"check": "", "files": {"a": 3}}),
            lambda text: text + " " * (1 << 21),
        ],
    )
    def test_a_damaged_memory_is_forgotten(self, big: Path, cache: Path, damage: Any, reads: list[Path]) -> None:
        _cache.file_sha256(big)
        memo = cache / "hashes.json"
        memo.write_text(damage(memo.read_text()))
        assert [_cache.file_sha256(big) for _ in range(2)] == [SHA256] * 2
        assert reads == [big, big]

    def test_a_cache_that_cannot_be_written_costs_only_time(
        self, big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv(_cache.CACHE_VARIABLE, str(tmp_path / "file"))
        assert _cache.file_sha256(big) == SHA256

    def test_the_memory_does_not_grow_for_ever(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_cache, "_MEMO_ENTRIES", 3)
        for number in range(5):
            path = tmp_path / f"{number}.pth"
            path.write_bytes(b"x")
            _cache.file_sha256(path)
        kept = json.loads((cache / "hashes.json").read_text())["files"]
        assert [Path(name).name for name in kept] == ["2.pth", "3.pth", "4.pth"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FRAMELOOM_CACHE": "/somewhere/else"}, "/somewhere/else"),
        ({"FRAMELOOM_CACHE": "~/mine"}, "/home/me/mine"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/frameloom/weights"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/frameloom/weights"),
        ({}, "/home/me/.cache/frameloom/weights"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("FRAMELOOM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert _cache.cache_folder() == Path(folder)


class TestBackbonesByTag:
    @pytest.fixture
    def tagged(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> str:
        """The tiny backbone with a published file: weights of another seed than the usual one's."""
        import torch

        stream = io.BytesIO()
        torch.save(create_backbone("test_resnet", seed=5).network.state_dict(), stream)
        published.content = stream.getvalue()
        digest = hashlib.sha256(published.content).hexdigest()
        sources = (published.source(sha256=digest), published.source(tag="two", sha256=digest[:8]))
        usual = BACKBONES["test_resnet"]

        @functools.wraps(usual.describe)
        def describe(**options: Any) -> Any:
            return replace(usual.describe(**options), weights=sources)

        monkeypatch.setitem(BACKBONES._entries, "test_resnet", BackboneEntry(describe, usual.build))
        return digest

    def test_a_tag_builds_what_its_file_holds(self, published: Published, tagged: str) -> None:
        import torch

        made = create_backbone("test_resnet", weights="one")
        assert made.weights_digest == f"sha256:{tagged}" == weights_digest("test_resnet", "one")
        wanted = create_backbone("test_resnet", seed=5).network.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in made.network.state_dict().items())
        create_backbone("test_resnet", weights="one")
        assert len(published.asked) == 1

    def test_naming_weights_fetches_nothing(self, published: Published, tagged: str) -> None:
        assert weights_digest("test_resnet", "one") == f"sha256:{tagged}"
        with pytest.raises(ConfigError, match=r"run `frameloom weights fetch test_resnet two`"):
            weights_digest("test_resnet", "two")
        assert published.asked == []
        assert create_backbone("test_resnet", weights="two").weights_digest == f"sha256:{tagged}"
        assert weights_digest("test_resnet", "two") == f"sha256:{tagged}"

    def test_a_path_is_no_tag(
        self, published: Published, tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("one").write_bytes(b"abc")
        abc = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
        assert weights_digest("test_resnet", "./one") == weights_digest("test_resnet", Path("one")) == abc
        assert weights_digest("test_resnet", "one") == f"sha256:{tagged}"
        assert published.asked == []

    def test_neither_is_told_with_the_tags(self, tagged: str) -> None:
        for call in (weights_digest, lambda name, weights: create_backbone(name, weights=weights)):
            with pytest.raises(
                ConfigError, match=r"neither a file nor a tag: onne; its tags are one, two \(did you mean"
            ):
                call("test_resnet", "onne")
            with pytest.raises(ConfigError, match="no published weights"):
                call("word2vec", "GoogleNews")


@pytest.mark.parametrize("name", list_backbones())
def test_published_weights_can_be_named_and_fetched(name: str, cache: Path) -> None:
    sources = backbone_spec(name).weights
    assert len({source.tag for source in sources}) == len(sources)
    for source in sources:
        assert find_source(sources, source.tag) is source
        assert find_source(sources, Path(source.tag)) is None
        assert source.licence
        assert _published._path_of(source).parent == cache
        is_hub = _transfer._HUB.fullmatch(source.url) is not None
        assert is_hub or (urlsplit(source.url).scheme == "https" and urlsplit(source.url).hostname)


@pytest.mark.parametrize(
    "wrong", [{"tag": "a/b"}, {"tag": ".."}, {"tag": ""}, {"sha256": "abc"}, {"sha256": ""}, {"sha256": "G" * 64}]
)
def test_a_source_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    usual: dict[str, Any] = {"tag": "one", "url": "https://example.org/x", "sha256": SHA256, "licence": "MIT"}
    with pytest.raises(ValueError, match=r"needs|has letters"):
        WeightsSource(**usual | wrong)
