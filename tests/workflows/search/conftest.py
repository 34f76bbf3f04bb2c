"""A project whose store has the models of several systems."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.projects import make_collection, run_sync, write_pixel_config


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the tables of four models, the configuration being that of one without a joint head. Not to be changed."""
    folder = tmp_path_factory.mktemp("judges") / "project"
    make_collection(folder)
    for name in ("test_t2v2t", "test_clover", "test_all_in_one", "test_miles"):
        write_pixel_config(folder, name)
        report = run_sync(folder)
        assert report.exit_code == 0, list(report.lines())
    return folder
