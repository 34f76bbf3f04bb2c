"""`frameloom weights`: what is published, what is here, and fetching; and a project that names weights by tag."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from frameloom._vocabulary import ConfigError, FeatureSpec, WeightsSource
from frameloom.extract import backbone_spec, create_backbone, list_backbones
from frameloom.extract.registry import BACKBONES
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import weights as _weights
from frameloom.workflows.sync.sync import extract_only
from helpers.projects import make_clip, write_config
from typer.testing import CliRunner, Result


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives the files of a folder, and counts."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def asked(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The tiny backbone with two published files on a server of this machine; gives what the server was asked."""
    stream = io.BytesIO()
    torch.save(create_backbone("test_resnet", seed=5).network.state_dict(), stream)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "net.pth").write_bytes(stream.getvalue())
    found: list[str] = []
    own = type("Own", (Handler,), {"asked": found})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(own, directory=tmp_path / "server"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    digest, url = hashlib.sha256(stream.getvalue()).hexdigest(), f"http://127.0.0.1:{server.server_port}/net.pth"
    sources = tuple(
        WeightsSource(tag=tag, url=url, sha256=sha256, licence="MIT", size_bytes=size)
        for tag, sha256, size in (("one", digest, len(stream.getvalue())), ("two", None, None))
    )
    publish("test_resnet", sources, monkeypatch)
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def publish(name: str, sources: tuple[WeightsSource, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a backbone published weights."""
    usual = BACKBONES[name]

    @functools.wraps(usual.describe)
    def describe(**options: Any) -> FeatureSpec:
        return replace(usual.describe(**options), weights=sources)

    monkeypatch.setitem(BACKBONES._entries, name, replace(usual, describe=describe))


def one_line(result: Result) -> str:
    (line,) = result.stderr.strip().splitlines()
    return line


def test_every_published_file_is_listed(run: Any) -> None:
    result = run("weights", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    expected = [(name, source.tag) for name in list_backbones() for source in backbone_spec(name).weights]
    assert [(row["backbone"], row["tag"]) for row in found] == expected
    keys = {"backbone", "tag", "url", "licence", "sha256", "file_sha256", "size_bytes", "path"}
    assert all(row.keys() == keys and row["path"] is None for row in found)
    text = run("weights").stdout
    assert all(row["url"] in text and row["licence"] in text for row in found)
    assert text.count("not fetched") == len(found)


def test_a_pattern_narrows_the_list(run: Any) -> None:
    for arguments in (["weights", "resnet1*", "--json"], ["weights", "list", "resnet1*", "--json"]):
        assert {row["backbone"] for row in json.loads(run(*arguments).stdout)} == {"resnet152", "resnet18"}
    assert "none of these backbones" in run("weights", "word2vec").stdout
    assert run("weights", "word2vec", "--json").stdout.strip() == "[]"
    result = run("weights", "resnet_152")
    assert result.exit_code == 2
    assert "resnet152" in one_line(result)


def test_fetching_shows_where_it_lies_and_the_list_then_says_so(run: Any, asked: list[str], tmp_path: Path) -> None:
    result = run("weights", "fetch", "test_resnet")
    assert result.exit_code == 0, result.stderr
    assert "test_resnet one: " in result.stderr
    (path,) = (tmp_path / "cache" / "weights").glob("*-net.pth")
    assert str(path) in result.stdout
    assert "weights: one" in result.stdout
    rows = json.loads(run("weights", "test_resnet", "--json").stdout)
    assert [row["path"] for row in rows] == [str(path), None]
    assert rows[1]["file_sha256"] is None
    text = run("weights", "test_resnet").stdout
    assert f"here: {path}" in text
    assert "size not published" in text
    assert "sha256   not published" in text


def test_fetching_a_tag_as_json_and_again(run: Any, asked: list[str]) -> None:
    result = run("weights", "fetch", "test_resnet", "two", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    row = json.loads(result.stdout)
    assert row["file_sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
    assert json.loads(run("weights", "fetch", "test_resnet", "two", "--json").stdout) == row
    assert len(asked) == 1
    assert f"{row['file_sha256']} (of the file here; not published)" in run("weights", "test_resnet").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet_18"], "resnet18"),
        (["resnet18", "imagenet1k_v3"], "imagenet1k_v1"),
        (["word2vec"], "from https://code.google.com/archive/p/word2vec"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(run: Any, arguments: list[str], words: str) -> None:
    result = run("weights", "fetch", *arguments)
    assert result.exit_code == 2
    assert words in one_line(result)


def test_help_teaches(run: Any) -> None:
    for arguments in (["weights"], ["weights", "list"], ["weights", "fetch"]):
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert "frameloom weights" in result.stdout
        assert "xample" in result.stdout
    assert run("weights", "fetch").exit_code == 2


def test_a_terminal_gets_a_bar(run: Any, asked: list[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    _weights.fetch("test_resnet", "one", Console(stream=screen))
    assert "test_resnet one" in screen.getvalue()


def test_slow_progress_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0, 20.0])
    monkeypatch.setattr(_weights, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    log = io.StringIO()
    with _weights.show_transfer(Console(stream=log), "net") as on_progress:
        for done in (0, 30_000_000, 35_000_000, 100_000_000):
            on_progress(done, 100_000_000)
    lines = ["net: 30.0 MB of 100.0 MB, about 14 s left", "net: 100.0 MB in 20 s"]
    assert log.getvalue().splitlines() == lines


class TestProjects:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        folder = tmp_path / "project"
        (folder / "videos").mkdir(parents=True)
        make_clip(folder / "videos" / "a.mp4", colour="red", pitch="low", seconds=1.0)
        (folder / "captions.jsonl").write_text('{"video": "videos/a.mp4", "captions": ["red"], "split": "train"}\n')
        return folder

    def test_a_tag_passes_through_and_a_path_is_made_absolute(self, asked: list[str], project: Path) -> None:
        (project / "net.pth").write_bytes(b"abc")
        for weights, expected in (("one", "one"), ("net.pth", str(project / "net.pth"))):
            path = write_config(project, features={"video": {"backbone": "test_resnet", "weights": weights}})
            (want,) = (one for one in Project.open(path).media if one.modality == "video")
            assert want.request.weights == expected
            assert want.weights_digest.startswith("sha256:")
        assert asked == []

    def test_an_unknown_tag_names_the_known_ones(self, asked: list[str], project: Path) -> None:
        path = write_config(project, features={"video": {"backbone": "test_resnet", "weights": "onne"}})
        with pytest.raises(
            ConfigError, match=r"neither a file nor a tag: .*onne; its tags are one, two \(did you mean one"
        ):
            Project.open(path)

    def test_extraction_fetches_what_it_needs_before_it_works(self, asked: list[str], project: Path) -> None:
        features = {"video": {"backbone": "test_resnet", "weights": "one"}, "audio": None, "text": None}
        path = write_config(project, features=features)
        log = io.StringIO()
        for _ in range(2):
            report = extract_only(Project.open(path), Console(stream=log))
            assert report.exit_code == 0
        assert asked == ["/net.pth"]
        said = log.getvalue()
        assert said.index("fetching the weights one of test_resnet: http://127.0.0.1") < said.index("extract: ")

    def test_captions_are_read_once_the_text_weights_are_here(
        self, asked: list[str], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = tmp_path / "server" / "text.pth"
        torch.save(create_backbone("test_s3d_text", seed=5).network.state_dict(), served)
        sha256 = hashlib.sha256(served.read_bytes()).hexdigest()
        (project / "words.txt").write_text("red\n")
        url = backbone_spec("test_resnet").weights[0].url.replace("net.pth", "text.pth")
        publish("test_s3d_text", (WeightsSource(tag="one", url=url, sha256=sha256, licence="MIT"),), monkeypatch)
        text = {"backbone": "test_s3d_text", "weights": "one", "options": {"vocabulary": "words.txt"}}
        path = write_config(project, features={"audio": None, "text": text})
        log = io.StringIO()
        for _ in range(2):
            assert extract_only(Project.open(path), Console(stream=log)).exit_code == 0
        assert asked == ["/text.pth"]
        said = log.getvalue()
        assert said.index("fetching the weights one of test_s3d_text: http://127.0.0.1") < said.index("captions: ")
        assert len(list(Project.open(path).store.entries("test_s3d_text"))) == 1
