"""schemathesis asks every address of the OpenAPI document with right and wrong values, and finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.children.serving import Running

PHASES = "examples,coverage,fuzzing,stateful"
# What no document can say: that one of `q`, `like` and `question` is given, and what words and columns a project knows.
NOT_SAID_BY_A_DOCUMENT = "positive_data_acceptance"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("is_known", [True, False], ids=["of a project", "of any text"])
def test_the_document_and_the_server_agree(
    answering: Running, clips: list[dict[str, Any]], tmp_path: Path, is_known: bool
) -> None:
    named = f'[parameters]\nproject = "project"\nclip = "{clips[0]["clip"]}"\n' if is_known else ""
    (tmp_path / "schemathesis.toml").write_text(named, encoding="utf-8")
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "--config-file",
        "schemathesis.toml", "run", f"{answering.url}/api/v1/openapi.json", "--phases", PHASES, "--mode", "all",
        "--exclude-checks", NOT_SAID_BY_A_DOCUMENT, "--max-examples", "8", "--seed", "0",
        "--request-timeout", "600", "--continue-on-failure", "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "16 selected / 16 total" in found.stdout
