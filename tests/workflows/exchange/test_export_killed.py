"""An export that is killed and run again is the export that was not killed, and holds what the store holds."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from frameloom._files import PUBLISH_STEPS
from frameloom._vocabulary import digest_of
from frameloom.workflows.exchange.records import MANIFEST, Record, read_manifest
from frameloom.workflows.project.project import Project
from helpers.children import killed_exchanges
from helpers.children.killed_exchanges import write
from helpers.exchanging import configure, contents, files_below, fill, make_files

# While the first and the fifth file of rows is written; while the plan is, then the list of samples or the manifest.
ROWS = [f"rows.{step}:kill:{nth}" for step in PUBLISH_STEPS for nth in (1, 5)]
TEXTS = [f"text.{step}:kill:{nth}" for step in PUBLISH_STEPS for nth in (1, 2)]
FEW = ["rows.half:kill:1", "rows.renamed:kill:1", "text.half:kill:1", "text.renamed:kill:2"]
FORMATS = {"npy": ROWS + TEXTS, "parquet": ROWS[::2] + TEXTS, "webdataset": ROWS[::2] + TEXTS}  # of one file of rows


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "project"
    folder.mkdir()
    make_files(folder)
    fill(Project.open(configure(folder)))
    return folder


@pytest.mark.parametrize("points", [FEW, pytest.param(None, marks=pytest.mark.slow)], ids=["few points", "all points"])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_killed_export_that_is_run_again_is_whole(
    format: str, points: list[str] | None, project: Path, tmp_path: Path
) -> None:
    points = points or FORMATS[format]
    program = [sys.executable, killed_exchanges.__file__, format, *map(str, (project, project, tmp_path))]
    done = subprocess.run([*program, *points], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {-signal.SIGKILL}
    write(project, tmp_path / "clean", format)
    clean = files_below(tmp_path / "clean")
    for point in points:
        out = tmp_path / point
        assert files_below(out) != clean or point.startswith(("text.renamed", "text.durable")), point
        write(project, out, format)
        assert files_below(out) == clean, point
        shutil.rmtree(out)
    assert_holds_what_is_stored(tmp_path / "clean", Project.open(project, read_only=True), format)


def held_in(out: Path, format: str, records: list[Record]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Values and times (None for captions) as another program reads them."""
    found: dict[tuple[str, str], tuple[Any, Any]] = {}
    for one in records:
        if one.file is None:
            continue
        path = out / one.file
        if format == "npy":
            times = None if one.video is None else np.load(str(path).removesuffix(".npy") + ".times.npy")
            found[one.feature, one.key] = np.load(path), times
        elif format == "parquet":
            mine = [row for row in pq.read_table(path).to_pylist() if (row["feature"], row["video"]) == key_of(one)]
            mine = [row for row in mine if row["caption"] == one.caption]
            times = np.array([[row["start_seconds"], row["end_seconds"]] for row in mine], np.float64)
            found[one.feature, one.key] = np.array([row["values"] for row in mine], np.float32), times
        elif one.video is not None:
            stem = f"{digest_of(['video', one.video])}.{one.feature}"
            with tarfile.open(path) as tar:
                pair = [tar.extractfile(f"{stem}{ending}") for ending in (".npy", ".times.npy")]
                values, times = (np.load(io.BytesIO(file.read())) for file in pair if file is not None)
            found[one.feature, one.key] = values, times
    return found


def key_of(record: Record) -> tuple[str, str | None]:
    return record.feature, record.video


def assert_holds_what_is_stored(out: Path, project: Project, format: str) -> None:
    """Numbers, times and keys, bit for bit, of every feature that has numbers."""
    header, records = read_manifest(out / MANIFEST)
    stored = contents(project)
    names = {name: identity["spec"]["name"] for name, identity in header.features.items()}
    with_rows = {(one.feature, one.key) for one in records if one.num_rows}
    assert {(names[feature], key) for feature, key in with_rows} == {one for one, kept in stored.items() if kept[5]}
    held = held_in(out, format, records)
    for (feature, key), (values, times) in held.items():
        dtype, kept_values, kept_times = stored[names[feature], key][4:]
        assert values.astype(dtype).tobytes() == kept_values
        assert np.array_equal(values, values.astype(dtype))
        if times is not None and feature != "text":
            assert times.tobytes() == kept_times
    texts = (
        {one for one in with_rows if one[0] == "text"} if format == "webdataset" else set()
    )  # with their videos there
    assert held.keys() == with_rows - texts
    assert len(held) >= 17
