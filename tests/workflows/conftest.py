"""A project that was synced, and what was decoded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.projects import make_collection, run_sync, write_config


@pytest.fixture(scope="session")
def synced_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was synced. Tests take `synced`, a copy of it."""
    folder = tmp_path_factory.mktemp("synced") / "project"
    make_collection(folder)
    write_config(folder)
    report = run_sync(folder)
    assert report.exit_code == 0, list(report.lines())
    return folder


@pytest.fixture
def synced(synced_once: Path, tmp_path: Path) -> Path:
    """A copy of a synced project, at the same place inside its own folder."""
    return Path(shutil.copytree(synced_once, tmp_path / "project"))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were opened for extraction while the test ran."""
    import frameloom.extract as door

    opened: list[str] = []
    original: Callable[..., Any] = door.extract_files

    def counting(paths: list[Path], *args: Any, **kwargs: Any) -> Any:
        opened.extend(path.name for path in paths)
        return original(paths, *args, **kwargs)

    monkeypatch.setattr(door, "extract_files", counting)
    return opened
