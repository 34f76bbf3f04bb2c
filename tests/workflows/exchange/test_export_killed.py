"""An export that is killed and run again is the export that was not killed, and holds what the store holds."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from frameloom._files import PUBLISH_STEPS
from frameloom.workflows.exchange.layouts import Choice, find_offers
from frameloom.workflows.exchange.records import MANIFEST, read_manifest
from frameloom.workflows.project.project import Project
from helpers.children import killed_exchanges
from helpers.children.killed_exchanges import write
from helpers.exchanging import configure, contents, files_below, fill, make_files

# While the first and the fifth file of rows is written; while the plan is, then the list of samples or the manifest.
ROWS = [f"rows.{step}:kill:{nth}" for step in PUBLISH_STEPS for nth in (1, 5)]
TEXTS = [f"text.{step}:kill:{nth}" for step in PUBLISH_STEPS for nth in (1, 2)]
FORMATS = {"npy": ROWS + TEXTS, "parquet": ROWS[::2] + TEXTS, "webdataset": ROWS[::2] + TEXTS}  # of one file of rows


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "project"
    folder.mkdir()
    make_files(folder)
    fill(Project.open(configure(folder)))
    return folder


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_killed_export_that_is_run_again_is_whole(format: str, project: Path, tmp_path: Path) -> None:
    program = [sys.executable, killed_exchanges.__file__, format, *map(str, (project, project, tmp_path))]
    done = subprocess.run([*program, *FORMATS[format]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {-signal.SIGKILL}
    write(project, tmp_path / "clean", format)
    clean = files_below(tmp_path / "clean")
    for point in FORMATS[format]:
        out = tmp_path / point
        assert files_below(out) != clean or point.startswith(("text.renamed", "text.durable")), point
        write(project, out, format)
        assert files_below(out) == clean, point
        shutil.rmtree(out)
    assert_holds_what_is_stored(tmp_path / "clean", Project.open(project, read_only=True), format)


def assert_holds_what_is_stored(out: Path, project: Project, format: str) -> None:
    """Numbers, times and keys, bit for bit, of every feature that has numbers."""
    header, records = read_manifest(out / MANIFEST)
    stored = contents(project)
    names = {name: identity["spec"]["name"] for name, identity in header.features.items()}  # type: ignore[index]
    offers = {
        (name, offer.name): offer.read()
        for name in names
        if format != "webdataset" or name != "text"  # whose captions are beside their videos there
        for offer in find_offers(out, "frameloom", Choice(array=name)).offers
    }
    held = {(one.feature, one.key) for one in records if one.num_rows}
    assert {(names[feature], key) for feature, key in held} == {one for one, told in stored.items() if told[5]}
    for feature, key in held & offers.keys():
        dtype, values, times = stored[names[feature], key][4:]
        found = offers[feature, key]
        assert found.values.astype(dtype).tobytes() == values
        assert np.array_equal(found.values, found.values.astype(dtype))
        if found.times is not None:
            assert found.times.tobytes() == times
    assert len(held & offers.keys()) >= 17
