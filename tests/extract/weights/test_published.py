"""Weights by tag: fetched once, checked always, whatever a server, a kill or a damaged cache does."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import http.server
import io
import os
import re
import shutil
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
from frameloom import ConfigError, InputError, OutOfSpaceError
from frameloom._files import cache_folder
from frameloom._vocabulary import WeightsSource
from frameloom.extract import backbone_spec, create_backbone, list_backbones, weights_digest
from frameloom.extract.registry import BACKBONES, BackboneEntry
from frameloom.extract.weights import (
    cached_weights,
    download,
    fetch_weights,
    files,
    find_source,
    known_sha256,
)
from frameloom.extract.weights import (
    published as tags,
)
from helpers.models import save_model

CONTENT = bytes(range(256)) * 800
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Published:
    """What the server gives, how it misbehaves, and what it was asked."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    says_length: bool = True
    is_chunked: bool = False
    redirect: str | bytes = ""
    redirect_bytes: int = 0
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    may_end: threading.Event = field(default_factory=threading.Event)
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
        what.may_answer.wait(600)
        self.close_connection = True
        if what.redirect or what.status >= 400:
            self.send_response(302 if what.redirect else what.status)
            if what.redirect:
                target = what.redirect if isinstance(what.redirect, bytes) else what.redirect.encode()
                self.send_header("Location", target.decode("latin-1"))
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(what.redirect_bytes))
            self.end_headers()
            what.may_end.wait(600 if what.redirect_bytes else 0)  # of the body, nothing ever comes
            return
        self._give(what)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.published.content)))
        for name, value in self.published.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _give(self, what: Published) -> None:
        self.send_response(200)
        for name, value in what.headers.items():
            self.send_header(name, value)
        if what.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif what.says_length and "Content-Length" not in what.headers:
            self.send_header("Content-Length", str(len(what.content)))
        self.end_headers()
        if what.stalls:
            self.wfile.write(what.content[: what.stalls.pop(0)])
            what.may_end.wait(600)
            return
        body = what.content[: what.cuts.pop(0) if what.cuts else None]
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
    what.may_end.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FRAMELOOM_CACHE", str(folder))
    return folder / "weights"


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
        monkeypatch.setattr(tags, "file_lock", None)
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
        usage = download.shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(OutOfSpaceError, match=f"{len(CONTENT):,} bytes are needed and 1,000 are free"):
            fetch_weights(published.source())

    def test_a_chunked_body_is_taken(self, published: Published) -> None:
        published.is_chunked = True
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_a_cache_that_cannot_be_written_is_said(
        self, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(ConfigError, match=r"cannot write .*FRAMELOOM_CACHE"):
            fetch_weights(published.source())


class TestCutTransfers:
    def test_begin_anew(self, published: Published, cache: Path) -> None:
        published.cuts = [70_000, 150_000]
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        assert len(published.asked) == 3
        assert names(cache) == GOOD

    def test_without_a_stated_length_begin_anew(self, published: Published) -> None:
        published.cuts, published.says_length = [70_000, 0], False
        source = published.source(size_bytes=len(CONTENT), sha256=None)
        assert fetch_weights(source).read_bytes() == CONTENT
        assert len(published.asked) == 3

    def test_that_stall_begin_anew(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.5)
        published.stalls = [70_000]
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        assert len(published.asked) == 2

    def test_that_go_on_being_cut_are_an_error_and_leave_nothing(self, published: Published, cache: Path) -> None:
        published.cuts = [10_000, 20_000, 30_000]
        with pytest.raises(ConfigError, match=r"3 times before the file did.*by hand"):
            fetch_weights(published.source())
        assert names(cache) == set()
        assert cached_weights(published.source()) is None
        assert fetch_weights(published.source()).read_bytes() == CONTENT

    def test_of_which_something_lies_here_are_not_taken_for_whole(self, published: Published, cache: Path) -> None:
        cache.mkdir(parents=True)
        for left in (CONTENT[:1000], CONTENT + b"more"):
            (cache / f".{SHA256[:16]}-net.pth.part").write_bytes(left)
            assert cached_weights(published.source()) is None
            fetch_weights(published.source()).unlink()
        assert len(published.asked) == 2

    def test_survive_a_killed_process(self, published: Published, cache: Path) -> None:
        half = len(CONTENT) // 2
        published.cuts = [half]
        code = f"""
import sys
from frameloom._files import cache_folder
from frameloom._vocabulary import WeightsSource
from frameloom.extract.weights import fetch_weights
def on_progress(done, total):
    if done:
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
        assert names(cache) == GOOD


def test_two_at_once_fetch_once(published: Published, cache: Path) -> None:
    published.may_answer.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(fetch_weights, published.source())
        assert published.was_asked.wait(600)
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
        assert download.check_address(source, "http://localhost:1/x", from_loopback=True).port == 1
        with pytest.raises(ConfigError):
            download.check_address(source, "http://localhost:1/x", from_loopback=False)

    @pytest.mark.parametrize("address", [b"http://127.0.0.1:99999/x", b"\xff\xfe", b"http://127.0.0.1:x/", b"//\xe4."])
    def test_a_redirect_that_is_no_address_is_an_error(self, published: Published, address: bytes) -> None:
        published.redirect = address
        with pytest.raises(ConfigError, match=r"by hand"):
            fetch_weights(published.source())

    def test_the_body_of_a_redirect_is_not_read(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.5)
        published.redirect, published.redirect_bytes = "file:///etc/hostname", 10**12
        with pytest.raises(ConfigError, match=r"not an https:// address"):
            fetch_weights(published.source())
        published.redirect = f"{published.url}/again"
        with pytest.raises(ConfigError, match="redirects"):
            fetch_weights(published.source())

    @pytest.mark.parametrize("length", ["many", "-5", "", "9" * 5000, "\u00b2"])
    def test_a_length_that_is_no_number_counts_as_none(self, published: Published, length: str) -> None:
        published.headers["Content-Length"] = length
        assert fetch_weights(published.source()).read_bytes() == CONTENT
        with pytest.raises(ConfigError, match="how long the file is"):
            fetch_weights(published.source(sha256=None))

    @pytest.mark.parametrize("is_chunked", [False, True])
    def test_an_empty_file_is_refused(self, published: Published, cache: Path, is_chunked: bool) -> None:
        published.content, published.is_chunked = b"", is_chunked
        with pytest.raises(InputError, match="has 0 bytes, and 1 to 50,000,000,000 bytes were expected"):
            fetch_weights(published.source(sha256=None))
        assert names(cache) == set()

    def test_a_loop_of_redirects_ends(self, published: Published) -> None:
        published.redirect = f"{published.url}/again"
        with pytest.raises(ConfigError, match="redirects"):
            fetch_weights(published.source())
        assert len(published.asked) < 40

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
        found = tags.cached_path(WeightsSource(tag="a", url=url, sha256=SHA256, licence="", filename=filename))
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
        tags.record_path(source).unlink()
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
        tags.record_path(source).write_bytes(damage)
        assert known_sha256(source) is None
        assert cached_weights(source) is None
        assert fetch_weights(source).read_bytes() == CONTENT
        assert known_sha256(source) == SHA256

    def test_nothing_is_trusted_whose_end_cannot_be_seen(self, published: Published) -> None:
        published.says_length = False
        with pytest.raises(ConfigError, match="how long the file is"):
            fetch_weights(published.source(sha256=None))
        assert fetch_weights(published.source()).read_bytes() == CONTENT


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


MODEL = "hf://owner/name@v1.0"


class TestModelsOfTheHub:
    """A whole model by its name and revision: a folder, whose hash the first download decides."""

    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that stands in for the Hub's client: its files are listed and copied."""
        import huggingface_hub

        folder = tmp_path / "repository"
        for name in ("config.json", "model.safetensors", "vocab.txt", "pytorch_model.bin", "evil.py", "onnx/a.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"content of {name}")

        def listed(repo: str, *, revision: str) -> list[str]:
            assert (repo, revision) == ("owner/name", "v1.0")
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

        def copied(repo: str, name: str, *, revision: str, local_dir: Path, **_: Any) -> str:
            assert (repo, revision) == ("owner/name", "v1.0")
            local_dir.mkdir()
            return str(shutil.copy(folder / name, local_dir / name))

        monkeypatch.setattr(huggingface_hub, "list_repo_files", listed)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", copied)
        return folder

    def source(self) -> WeightsSource:
        found = find_source((), MODEL)
        assert found is not None
        return found

    def test_gives_a_folder_without_pickles_and_code(self, repository: Path, cache: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        folder = fetch_weights(self.source(), on_progress=lambda done, total: seen.append((done, total)))
        assert names(folder) == {"config.json", "model.safetensors", "vocab.txt"}
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert seen[-1] == (size, size)
        assert {path.suffix for path in cache.iterdir()} <= {"", ".0", ".sha256", ".lock"}
        assert cached_weights(self.source()) == folder
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tags, "download", None)  # it is not fetched again
            assert fetch_weights(self.source()) == folder

    def test_another_content_of_the_same_revision_is_refused(self, repository: Path) -> None:
        shutil.rmtree(fetch_weights(self.source()))
        (repository / "config.json").write_text("other")
        with pytest.raises(InputError, match=r"hf://owner/name@v1\.0 has changed"):
            fetch_weights(self.source())

    def test_a_damaged_copy_is_fetched_again(self, repository: Path) -> None:
        folder = fetch_weights(self.source())
        (folder / "config.json").write_text("other")
        assert (fetch_weights(self.source()) / "config.json").read_text() == "content of config.json"

    def test_a_model_of_pickles_alone_is_refused(self, repository: Path, cache: Path) -> None:
        (repository / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"it holds no \.safetensors, and no other weights are read"):
            fetch_weights(self.source())
        assert names(cache) == set()

    def test_a_model_of_ctranslate2_is_fetched_whole(self, repository: Path) -> None:
        """Its ``model.bin`` is no pickle, and is taken where it is the model: no safetensors, and its other files."""
        for path in [path for path in repository.rglob("*") if path.is_file()]:
            path.unlink()
        for name in ("model.bin", "config.json", "vocabulary.txt", "run.py", "pytorch_model.bin"):
            (repository / name).write_text("{}" if name.endswith(".json") else name)
        with pytest.raises(ConfigError, match=r"it holds no \.safetensors"):
            fetch_weights(self.source())
        (repository / "tokenizer.json").write_text("{}")
        folder = fetch_weights(self.source())
        assert names(folder) == {"model.bin", "config.json", "vocabulary.txt", "tokenizer.json"}
        assert weights_digest("whisper", MODEL) == weights_digest("whisper", folder)
        with pytest.raises(ConfigError, match="holds"):
            create_backbone("transformers_text", weights=MODEL)

    def test_no_connection_is_one_line(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(repo: str, *, revision: str) -> list[str]:
            raise OSError("the network is\nunreachable")

        monkeypatch.setattr("huggingface_hub.list_repo_files", offline)
        with pytest.raises(ConfigError, match="the Hugging Face Hub says: the network is unreachable"):
            fetch_weights(self.source())

    @pytest.mark.parametrize(
        "words", ["hf://owner/name", "hf://owner/name@", "hf://name@v1", "hf://owner/name@v1/file.pth", "hf://o/n@../x"]
    )
    def test_an_address_needs_a_revision_and_no_more(self, words: str) -> None:
        for look in (lambda: find_source((), words), lambda: create_backbone("transformers_text", weights=words)):
            with pytest.raises(ConfigError, match="hf://OWNER/NAME@REVISION"):
                look()

    def test_nothing_is_fetched_for_a_specification_or_a_digest(self, repository: Path) -> None:
        for look in (backbone_spec, weights_digest):
            with pytest.raises(ConfigError, match=f"run `frameloom weights fetch transformers_text {MODEL}` first"):
                look("transformers_text", weights=MODEL)

    def test_a_backbone_of_a_file_takes_no_model(self, repository: Path) -> None:
        for look in (weights_digest, lambda name, weights: create_backbone(name, weights=weights)):
            with pytest.raises(ConfigError, match="'resnet18' reads a file of weights, not a whole model"):
                look("resnet18", MODEL)

    def test_the_revision_is_part_of_the_identity(self, repository: Path) -> None:
        """Of a model that runs: the same files by name and as a folder."""
        for path in [path for path in repository.rglob("*") if path.is_file()]:
            path.unlink()
        folder = save_model("clip", repository)
        backbone = create_backbone("transformers_text", weights=MODEL)
        assert backbone.weights_digest == weights_digest("transformers_text", folder)
        specs = [backbone_spec("transformers_text", weights=weights) for weights in (MODEL, folder)]
        assert backbone.spec == specs[0]
        assert [spec.preprocessing["revision"] for spec in specs] == ["v1.0", None]
        assert specs[0].identity() != specs[1].identity()
        found = create_backbone("transformers_text", weights=folder).encode("a dog")
        assert (backbone.encode("a dog").values == found.values).all()


class TestRememberedHashes:
    @pytest.fixture
    def big(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file that counts as old enough to be remembered."""
        monkeypatch.setattr(files, "is_settled", lambda _: True)
        path = tmp_path / "big.pth"
        path.write_bytes(CONTENT)
        return path

    def test_a_file_is_read_once(self, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert weights_digest("resnet18", str(big)) == f"sha256:{SHA256}"
        monkeypatch.setattr(files, "file_sha256", None)
        assert weights_digest("resnet18", str(big)) == f"sha256:{SHA256}"

    def test_a_young_file_is_not_remembered(self, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "is_settled", lambda _: False)
        assert files.known_file_sha256(big) == SHA256
        monkeypatch.setattr(files, "file_sha256", None)
        with pytest.raises(TypeError):
            files.known_file_sha256(big)

    def test_a_change_that_keeps_size_and_time_is_seen(self, big: Path) -> None:
        assert files.known_file_sha256(big) == SHA256
        before = big.stat()
        big.write_bytes(CONTENT[::-1])
        os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert big.stat().st_mtime_ns == before.st_mtime_ns
        assert files.known_file_sha256(big) == hashlib.sha256(CONTENT[::-1]).hexdigest()

    def test_another_file_of_the_name_is_seen(self, big: Path, tmp_path: Path) -> None:
        assert files.known_file_sha256(big) == SHA256
        (tmp_path / "other").write_bytes(CONTENT[::-1])
        (tmp_path / "other").replace(big)
        assert files.known_file_sha256(big) == hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FRAMELOOM_CACHE": "/somewhere/else"}, "/somewhere/else/weights"),
        ({"FRAMELOOM_CACHE": "~/mine"}, "/home/me/mine/weights"),
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
    assert cache_folder("weights") == Path(folder)


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
            for backbone, place in {
                "word2vec": r"the path of GoogleNews-vectors-negative300.bin, from https://code.google.com",
                "clip_vit_b32_text": r"hf://openai/clip-vit-base-patch32@REVISION \(a commit's hash",
                "test_clip": "the path of weights on this machine",
            }.items():
                with pytest.raises(ConfigError, match=rf"no tag names published weights of it: give {place}"):
                    call(backbone, "GoogleNews")


@pytest.mark.parametrize("name", list_backbones())
def test_published_weights_can_be_named_and_fetched(name: str, cache: Path) -> None:
    sources = backbone_spec(name).weights
    assert len({source.tag for source in sources}) == len(sources)
    for source in sources:
        assert find_source(sources, source.tag) is source
        assert find_source(sources, Path(source.tag)) is None
        assert source.licence
        assert tags.cached_path(source).parent == cache
        is_hub = download.HUB_ADDRESS.fullmatch(source.url) is not None
        is_packaged = re.fullmatch(r"package://[a-z0-9-]+/[\w./-]+", source.url) and source.sha256
        assert is_hub or is_packaged or (urlsplit(source.url).scheme == "https" and urlsplit(source.url).hostname)


@pytest.mark.parametrize(
    "wrong", [{"tag": "a/b"}, {"tag": ".."}, {"tag": ""}, {"sha256": "abc"}, {"sha256": ""}, {"sha256": "G" * 64}]
)
def test_a_source_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    usual: dict[str, Any] = {"tag": "one", "url": "https://example.org/x", "sha256": SHA256, "licence": "MIT"}
    with pytest.raises(ValueError, match=r"needs|has letters"):
        WeightsSource(**usual | wrong)
