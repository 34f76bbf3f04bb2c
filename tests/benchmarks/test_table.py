"""A million rows reach the clip table in commits that do not become slower. Run with `make bench`; see `table.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.table import measure


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_last_commits_of_a_million_rows_are_as_fast_as_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(tmp_path, 1_000_000, 3000, 256)
    with capsys.disabled():
        print(json.dumps(found, indent=1))
    assert found["last_to_first"] <= 2
    assert found["peak_memory_mb_of_commits"] < 1500
