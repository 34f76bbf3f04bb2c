"""An import that is killed and run again leaves the store that one leaves which was not killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from frameloom._files import PUBLISH_STEPS
from frameloom.workflows.project.project import Project
from helpers.children import killed_exchanges
from helpers.children.killed_exchanges import prepare, take
from helpers.exchanging import configure, contents, files_below, make_files

IDS = ("a", "b.v1", "c d", "ü", "e", "f", "g")
# The first and the last shard, its sidecar, the record of the import (where some were absent, that of them first).
KILLS = [f"{kind}.{step}:kill:{nth}" for kind in ("shard", "sidecar") for step in PUBLISH_STEPS for nth in (1, 3)]
KILLS += [f"text.{step}:kill:1" for step in PUBLISH_STEPS]
FEW = ["shard.half:kill:1", "shard.renamed:kill:3", "sidecar.synced:kill:1", "sidecar.renamed:kill:3"]
FEW += ["text.half:kill:1"]
REST = [point for point in KILLS if point not in FEW]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of the store, but for the lock and for what is known of the collection's files on this machine."""
    found = files_below(folder / ".frameloom")
    return {name: data for name, data in found.items() if not name.startswith((".lock", "ledger"))}


@pytest.fixture(scope="module", autouse=True)
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch.setattr)
        yield


@pytest.fixture(scope="module")
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folder of killed imports, the project of one that was not killed, and what they import."""
    kind, points = request.param
    base = tmp_path_factory.mktemp("killed")
    project, given, before = base / "project", base / "given", base / "before"
    for folder in (project, given, before):
        folder.mkdir()
    make_files(project, tuple(f"videos/{one}.mp4" for one in IDS))
    (project / "videos" / "gone.mp4").unlink()
    configure(project, video="imported:eao", audio="imported:eao")
    for number, one in enumerate(IDS):
        values = np.random.default_rng(number).standard_normal((number + 2, 96)).astype(np.float16)
        if kind == "plain" or one != "e":
            np.save(given / f"{one}.npy", values)
        if number < 1:
            np.save(before / f"{one}.npy", values)
    if kind == "absent":
        take(project, before)
    program = [sys.executable, killed_exchanges.__file__, "import", *map(str, (project, given, base / "in"))]
    done = subprocess.run([*program, *points], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {-signal.SIGKILL}
    take(Path(shutil.copytree(project, base / "clean", symlinks=True)), given)
    return base / "in", base / "clean", given


def at(points: list[str]) -> pytest.MarkDecorator:
    """The points, of imports that are killed at each of them."""
    return pytest.mark.parametrize(
        "killed", [("plain", points), ("absent", points)], ids=lambda each: each[0], indirect=True
    )


@at(FEW)
@pytest.mark.parametrize("point", FEW)
def test_a_killed_import_that_is_run_again_leaves_the_same_tree(point: str, killed: tuple[Path, Path, Path]) -> None:
    base, clean, given = killed
    assert tree(base / point) != tree(clean) or point.endswith(("text.renamed:kill:1", "text.durable:kill:1"))
    take(base / point, given)
    assert sorted(tree(base / point)) == sorted(tree(clean))
    assert tree(base / point) == tree(clean)
    assert contents(Project.open(base / point)) == contents(Project.open(clean))


@pytest.mark.slow
@at(REST)
@pytest.mark.parametrize("point", REST)
def test_an_import_that_is_killed_at_any_point_leaves_it(point: str, killed: tuple[Path, Path, Path]) -> None:
    test_a_killed_import_that_is_run_again_leaves_the_same_tree(point, killed)
