"""Commands in a locale that is not UTF-8: names are those of the manifest, whatever the terminal can show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.projects import make_clip, write_config

NAME = "videos/Rötlich 日本.mp4"
COMMANDS = [
    ["sync", "-q"],
    ["status"],
    ["query", "red"],
    ["evaluate", "--split", "train"],
    *(["export", f"out/{one}", "--format", one] for one in ("npy", "parquet", "webdataset")),
    ["import", "out/npy", "--layout", "frameloom", "--feature", "video", "--dry-run"],
    ["plot", "timeline", "red", "line.png", "--video", NAME],
    ["verify"],
    ["compact"],
]


def test_every_command_works_and_names_files_as_the_manifest_does(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    rows = []
    for name, colour in ((NAME, "red"), ("videos/plain.mp4", "green")):
        make_clip(tmp_path / name, colour=colour, pitch="low", seconds=1.0)
        rows.append({"video": name, "captions": [f"a {colour} picture"]})
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )
    write_config(tmp_path)
    code = (
        "import json, os, sys; from typer.testing import CliRunner; from frameloom.workflows.cli.app import app;"
        "assert sys.getfilesystemencoding() != 'utf-8';"
        "typed = [[os.fsdecode(part.encode()) for part in one] for one in json.loads(sys.argv[1])];"
        "done = [CliRunner().invoke(app, one) for one in typed];"
        "print(json.dumps([[one.exit_code, one.output, repr(one.exception)] for one in done]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps(COMMANDS)],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    for command, (code_, output, exception) in zip(COMMANDS, json.loads(found.stdout), strict=True):
        assert code_ == 0, (command, output, exception)
    out = tmp_path / "out" / "npy"
    exported = {path.relative_to(out).as_posix() for path in out.rglob("*.npy")}
    assert {f"{one}/{NAME}.npy" for one in ("video", "audio")} <= exported
