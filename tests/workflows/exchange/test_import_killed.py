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
from frameloom._files import PUBLISH_STEPS, FailPointError
from frameloom.store import FeatureStore
from frameloom.workflows.project.project import Project
from helpers.children import killed_exchanges
from helpers.children.killed_exchanges import prepare, take
from helpers.exchanging import configure, contents, files_below, make_files

IDS = ("a", "b.v1", "c d", "ü", "e")
# The first and the last shard (where all were absent it says what still is), its sidecar, the record of the import.
KILLS = [f"{kind}.{step}:kill:{nth}" for kind in ("shard", "sidecar") for step in PUBLISH_STEPS for nth in (1, 3)]
KILLS += [f"text.{step}:kill:1" for step in PUBLISH_STEPS]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of the store, but for the lock and for what is known of the collection's files on this machine."""
    found = files_below(folder / ".frameloom")
    return {name: data for name, data in found.items() if not name.startswith((".lock", "ledger"))}


@pytest.fixture(scope="module", autouse=True)
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch.setattr)
        yield


@pytest.fixture(scope="module", params=["plain", "absent"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folder of killed imports, the project of one that was not killed, and what they import."""
    base = tmp_path_factory.mktemp("killed")
    project, given, before = base / "project", base / "given", base / "before"
    for folder in (project, given, before):
        folder.mkdir()
    make_files(project, tuple(f"videos/{one}.mp4" for one in IDS))
    (project / "videos" / "gone.mp4").unlink()
    configure(project, video="imported:eao", audio="imported:eao")
    for number, one in enumerate(IDS):
        values = np.random.default_rng(number).standard_normal((number + 2, 96)).astype(np.float16)
        if request.param == "plain" or one != "e":
            np.save(given / f"{one}.npy", values)
        if number < 1:
            np.save(before / f"{one}.npy", values)
    if request.param == "absent":
        take(project, before)
    program = [sys.executable, killed_exchanges.__file__, "import", *map(str, (project, given, base / "in"))]
    done = subprocess.run([*program, *KILLS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {-signal.SIGKILL}
    take(Path(shutil.copytree(project, base / "clean", symlinks=True)), given)
    return base / "in", base / "clean", given


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_import_that_is_run_again_leaves_the_same_tree(point: str, killed: tuple[Path, Path, Path]) -> None:
    base, clean, given = killed
    assert tree(base / point) != tree(clean) or point.endswith(("text.renamed:kill:1", "text.durable:kill:1"))
    take(base / point, given)
    assert sorted(tree(base / point)) == sorted(tree(clean))
    assert tree(base / point) == tree(clean)
    assert contents(Project.open(base / point)) == contents(Project.open(clean))


@pytest.mark.parametrize("is_whole", [True, False], ids=["all answered", "one still absent"])
def test_what_was_absent_is_not_said_beside_what_came_since_whatever_shards_are_called(
    is_whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the record of absence is taken back. Which of both is read goes by the names, that is by chance."""
    found: set[bool] = set()
    for seed in range(40):
        folder, given, empty = (tmp_path / str(seed) / name for name in ("project", "given", "empty"))
        for one in (folder, given, empty):
            one.mkdir(parents=True)
        make_files(folder, ("videos/a.mp4", "videos/b.mp4", "videos/c.mp4"))
        configure(folder, video="imported:eao", audio="imported:eao")
        values = np.random.default_rng(seed).standard_normal((3, 96)).astype(np.float16)
        np.save(empty / "a.npy", values)
        take(folder, empty)
        for one in ("b", "c") if is_whole else ("b",):
            np.save(given / f"{one}.npy", values + 1)
        clean = Path(shutil.copytree(folder, folder.with_name("clean"), symlinks=True))
        take(clean, given)
        with monkeypatch.context() as patch:
            patch.setattr(FeatureStore, "discard", _killed)
            with pytest.raises(FailPointError):
                take(folder, given)
        entries = {entry.key: entry for entry in FeatureStore(folder / ".frameloom").entries("test_resnet")}
        found.add(bool(entries["videos/b.mp4"].num_rows))
        take(folder, given)
        assert tree(folder) == tree(clean)
        if found == {True, False}:
            return
    pytest.fail(f"no shard was called otherwise: {found}")


def _killed(*_: object) -> None:
    raise FailPointError("before a shard is discarded")
