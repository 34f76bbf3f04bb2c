"""Every command and every Python block of the READMEs runs, in their order, in a project as small as those of tests.

`init` writes the configuration that a user would get; stages then run with tiny backbones and a tiny model. Folders'
names, and published weights, which need a connection, are replaced; nothing else is.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from frameloom.workflows.cli.app import app
from helpers.projects import make_collection, write_config
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
READMES = sorted(path for path in ROOT.rglob("README.md") if not {".venv", "tests", "build"} & {*path.parts})
REPLACED = {"VIDEOS": "videos", 'weights="imagenet1k_v1"': "seed=0"}
# Made by `make`, or by pip before anything can be imported.
NOT_OURS = ("make", "pip")


def blocks(path: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def commands() -> list[str]:
    lines = [
        line.partition("  #")[0].strip() for path in READMES for body in blocks(path, "") for line in body.splitlines()
    ]
    words = (*NOT_OURS, "frameloom")
    parts = [part for line in lines if line.split(" ")[0] in words for part in line.split(" && ")]
    return [part for part in parts if part.split(" ")[0] not in NOT_OURS]


def replaced(text: str) -> str:
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    return text


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the READMEs name, before `init`."""
    make_collection(tmp_path)
    path = tmp_path / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[0]["captions"] = ["a dog does a trick", *rows[0]["captions"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copy(next((tmp_path / "videos").iterdir()), tmp_path / "holiday.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_runs(project: Path) -> None:
    assert len(commands()) >= 10
    for command in commands():
        words = shlex.split(replaced(command))[1:]
        if words[0] == "init":
            (project / "frameloom.yaml").unlink(missing_ok=True)
        done = CliRunner().invoke(app, words)
        if "ready" in words and done.exit_code == 2:
            assert "frameloom[ready]" in done.stderr  # without the extra, one line that names it
        else:
            assert done.exit_code == 0, f"{command}: {done.output}"
        if words[0] == "init":
            write_config(project)
        if words[0] == "sync" and not (project / "OTHER").exists():
            shutil.copytree(project, project / "OTHER", ignore=shutil.ignore_patterns("OTHER"))
    for path in READMES:
        for body in blocks(path, "python"):
            exec(compile(replaced(body), str(path.relative_to(ROOT)), "exec"), {})
