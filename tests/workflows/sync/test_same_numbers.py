"""The same collection gives the same fingerprints and the same numbers, whoever does the work and in what batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.sync import extract_only
from helpers.projects import make_collection, write_config

FLOAT32 = {"dtype": "float32"}
VIDEO = {"backbone": "test_s3d", "options": {"num_frames": 4, "stride_frames": 2, **FLOAT32}}


def extracted(folder: Path, **run: Any) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, bytes]]:
    """Features by fingerprint, and the shards' bytes, of one extraction into a store of its own."""
    folder.mkdir()
    make_collection(folder)
    write_config(folder, features={"video": VIDEO, "audio": {"backbone": "test_davenet", "options": FLOAT32}}, run=run)
    project = Project.open(folder)
    assert extract_only(project, Console(quiet=True)).exit_code == 0
    store = Project.open(folder).store
    features = {entry.fingerprint: store.read(entry.fingerprint) for entry in store.entries()}
    shards = {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*.h5")}
    return {name: (feature.values, feature.times) for name, feature in features.items()}, shards


def assert_same_features(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert any(len(values) for values, _ in found.values())
    for name, (values, times) in expected.items():
        np.testing.assert_allclose(found[name][0], values, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found[name][1], times)


def test_any_batch_size_gives_the_same_features(tmp_path: Path) -> None:
    first, shards = extracted(tmp_path / "first", workers=0, batch_videos=3)
    again, same_shards = extracted(tmp_path / "again", workers=0, batch_videos=3)
    assert same_shards == shards
    assert_same_features(again, first)
    for size in (1, 2, 8):
        assert_same_features(extracted(tmp_path / str(size), workers=0, batch_videos=size)[0], first)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    _, alone = extracted(tmp_path / "alone", workers=1, batch_videos=2)
    assert extracted(tmp_path / "four", workers=4, batch_videos=2)[1] == alone
    assert extracted(tmp_path / "inline", workers=0, batch_videos=2)[1] == alone


def test_threads_change_no_more_than_the_last_digits(tmp_path: Path) -> None:
    one, _ = extracted(tmp_path / "one", workers=0, batch_videos=2)
    assert_same_features(extracted(tmp_path / "two", workers=0, batch_videos=2, threads=2)[0], one)
