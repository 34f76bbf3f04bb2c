"""The plug is pulled: whatever is killed, the next run ends as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.sync import extract_only
from helpers.projects import make_collection, run_sync, write_config

MEDIA = ("test_resnet", "logmel_avlnet")


def shards_of(folder: Path) -> dict[str, bytes]:
    """Every published file of the media features, by name."""
    root = folder / ".frameloom"
    return {str(path.relative_to(root)): path.read_bytes() for name in MEDIA for path in (root / name).glob("*.*")}


def sidecars(folder: Path) -> int:
    return sum(1 for name in MEDIA for _ in (folder / ".frameloom" / name).glob("*.parquet"))


def kill_when(folder: Path, command: str, ready: Callable[[], bool]) -> bool:
    """Start a command, kill its whole process tree once `ready`, and say whether it was still running then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "frameloom.workflows.cli", command, "-q"],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(process, ready)
    if process.poll() is not None:
        return False
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        if one.is_running():
            one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(tree[1:], timeout=600)
    return True


def wait_until(process: subprocess.Popen[str] | subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Return once `ready`, or once the process has ended."""
    while not ready():
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            return


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection that was extracted by one uninterrupted run of this process, and is configured for two workers."""
    folder = tmp_path_factory.mktemp("clean") / "project"
    make_collection(folder)
    write_config(folder, run={"workers": 0, "batch_videos": 1})
    report = extract_only(Project.open(folder), Console(quiet=True))
    assert report.exit_code == 0
    write_config(folder, run={"workers": 2, "batch_videos": 1})
    return folder


def copy_without_store(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "project", ignore=shutil.ignore_patterns(".frameloom")))


def test_killed_extraction_ends_with_the_same_bytes(clean: Path, tmp_path: Path) -> None:
    folder = copy_without_store(clean, tmp_path)
    assert kill_when(folder, "extract", lambda: sidecars(folder) >= 3), "the run ended before it could be killed"
    assert 3 <= sidecars(folder) < 16
    write_config(folder, run={"workers": 0, "batch_videos": 1})
    report = extract_only(Project.open(folder), Console(quiet=True))
    assert report.exit_code == 0
    assert shards_of(folder) == shards_of(clean)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_extraction_killed_five_times_ends_with_the_same_bytes(clean: Path, tmp_path: Path) -> None:
    """Five kills within one extraction, each after more has been committed than before."""
    folder = copy_without_store(clean, tmp_path)
    for wanted in (1, 4, 7, 10, 13):
        assert kill_when(folder, "extract", lambda wanted=wanted: sidecars(folder) >= wanted), f"ended before {wanted}"
        assert sidecars(folder) < 16
    report = extract_only(Project.open(folder), Console(quiet=True))
    assert report.exit_code == 0
    assert shards_of(folder) == shards_of(clean)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_five_times_then_synced(clean: Path, tmp_path: Path) -> None:
    """Five kills at five moments of one project, then a sync: same bytes, no row twice, everything accounted for."""
    folder = copy_without_store(clean, tmp_path)
    root = folder / ".frameloom"
    moments: list[Callable[[], bool]] = [
        root.exists,
        lambda: sidecars(folder) >= 2,
        lambda: sidecars(folder) >= 9,
        lambda: any(root.glob("models/*/*/progress*")) or any(root.glob("models/*/*/examples.parquet")),
        lambda: any(root.glob("vectors/*.lance")),
    ]
    for ready in moments:
        kill_when(folder, "sync", ready)
    report = run_sync(folder)
    assert report.exit_code == 0
    assert report.discovered == 8
    assert shards_of(folder) == shards_of(clean)
    table = Project.open(folder).table
    ids = Counter(row["id"] for row in table.get(columns=["id"]))
    assert len(ids) == 6 * 3 + 2
    assert set(ids.values()) == {1}
    assert run_sync(folder).did_nothing


@pytest.mark.slow
def test_a_scheduler_that_is_killed_is_told_and_the_command_goes_on(clean: Path, tmp_path: Path) -> None:
    """A real scheduler and worker in processes of their own, as on another machine."""
    folder = copy_without_store(clean, tmp_path)

    @contextmanager
    def cluster(name: str) -> Iterator[subprocess.Popen[bytes]]:
        file, python = tmp_path / name, [sys.executable, "-m"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = ["--scheduler-file", str(file), "--no-dashboard"]
        scheduler = subprocess.Popen([*python, "distributed.cli.dask_scheduler", "--port=0", *options], **quiet)
        worker = subprocess.Popen([*python, "distributed.cli.dask_worker", "--no-nanny", *options], **quiet)
        try:
            wait_until(scheduler, file.exists)
            write_config(folder, run={"scheduler": json.loads(file.read_text())["address"], "batch_videos": 1})
            yield scheduler
        finally:
            for one in (worker, scheduler):
                one.kill()
                one.wait()

    command = [sys.executable, "-m", "frameloom.workflows.cli", "extract", "-q"]
    with cluster("first.json") as scheduler:
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        wait_until(process, lambda: sidecars(folder) >= 2)
        scheduler.kill()
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 3, errors
    assert errors.count("\n") == 1, errors
    assert "the Dask scheduler" in errors
    assert 2 <= sidecars(folder) < 16
    kept = shards_of(folder)
    with cluster("second.json"):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert sidecars(folder) == 16
    assert kept.items() <= shards_of(folder).items()


def test_interrupt_is_told_and_goes_on(clean: Path, tmp_path: Path) -> None:
    folder = copy_without_store(clean, tmp_path)
    write_config(folder, run={"workers": 1, "batch_videos": 1})
    # With a heartbeat every few milliseconds, one is always under way when connections end.
    code = (
        "import sys; import distributed.scheduler; distributed.scheduler.heartbeat_interval = lambda _: 0.003;"
        "from frameloom.workflows.cli.app import main; sys.argv = ['frameloom', 'extract', '-q']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    wait_until(process, lambda: sidecars(folder) >= 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143, errors
    assert errors == "frameloom: terminated; the same command goes on from here\n"
    write_config(folder, run={"workers": 0, "batch_videos": 1})
    extract_only(Project.open(folder), Console(quiet=True))
    assert shards_of(folder) == shards_of(clean)
