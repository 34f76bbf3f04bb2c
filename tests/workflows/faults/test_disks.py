"""What a disk cannot do, refuses or fails at is one line with what to do, and never a reason to delete anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from frameloom._files import disk_problem, system_error
from frameloom._vocabulary import ConfigError, FrameloomError, IntegrityError, OutOfSpaceError
from frameloom.store.table.connection import Connection
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.health import doctor
from frameloom.workflows.health.report import compact, repair, verify
from frameloom.workflows.health.store_status import store_status
from frameloom.workflows.project.project import Project
from helpers.projects import run_sync
from typer.testing import CliRunner


def run(*command: str) -> Result:
    return CliRunner().invoke(app, list(command))


def one_line(result: Result) -> str:
    """The only line of standard error, of a command that ended with a code of ours."""
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("frameloom: ")]
    assert "Traceback" not in result.output
    return line


# What a disk must be able to do


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_a_disk_without_hard_links_is_refused_before_any_work(
    synced: Path, no_hard_links: None, decodes: list[str]
) -> None:
    (synced / "videos" / "grey & low.v1.mp4").rename(synced / "videos" / "new.mp4")
    for work in (lambda: run_sync(synced), lambda: repair(Project.open(synced), None), lambda: compact_all(synced)):
        with pytest.raises(ConfigError, match=r"store\.path.*no hard links.*another disk.*store\.features"):
            work()
    assert decodes == []


def compact_all(folder: Path) -> None:
    compact(Project.open(folder), Console(quiet=True))


def test_the_doctor_names_a_disk_without_hard_links(synced: Path, no_hard_links: None) -> None:
    found = {one.check: one for one in doctor.folders(synced)}
    assert found["folder for store"].verdict == "problem"
    assert "no hard links" in found["folder for store"].found
    assert "store.path" in found["folder for store"].advice


def test_a_disk_that_can_do_everything_has_no_problem_and_keeps_nothing(tmp_path: Path) -> None:
    assert disk_problem(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "step"), [("fsync", "fsync"), ("replace", "renames")])
def test_each_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, step: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, call, refuse)
    assert disk_problem(tmp_path) == f"no {step} (Invalid argument)"
    assert list(tmp_path.iterdir()) == []


# A disk that fails


def test_a_disk_that_fails_at_any_sync_to_disk_is_one_line(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, captions = str(synced / "frameloom.yaml"), synced / "captions.jsonl"
    original, calls, fails_at = os.fsync, [0], [0]

    def failing(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == fails_at[0]:
            raise OSError(errno.EIO, "Input/output error")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    text = captions.read_text(encoding="utf-8")
    captions.write_text(text.replace('"views": 1', '"views": 20'), encoding="utf-8")
    assert run("sync", "-c", config, "-q").exit_code == 0
    places = [1, *range(2, calls[0], 4), calls[0]]
    assert len(places) > 5
    for number in places:  # the disk's own test, commits of the table, their folders, copies and digests
        captions.write_text(text.replace('"views": 1', f'"views": {number + 20}'), encoding="utf-8")
        calls[0], fails_at[0] = 0, number
        result = run("sync", "-c", config, "-q")
        line = one_line(result)
        assert result.exit_code == 2
        assert "Input/output error" in line
        assert "delete nothing" in line or "intact" in line
    fails_at[0] = 0
    assert run("sync", "-c", config, "-q").exit_code == 0
    assert run("verify", "-c", config, "-q").exit_code == 0


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_lancedb_says_of_the_system_is_no_damage(number: int) -> None:
    message = f"lance error: LanceError(IO): Generic LocalFileSystem error: {os.strerror(number)} (os error {number})"
    with pytest.raises(FrameloomError) as caught, Connection("db", "clips", None).translated():
        raise RuntimeError(message)
    assert not isinstance(caught.value, IntegrityError)
    assert caught.value.exit_code == 2
    with pytest.raises(OutOfSpaceError), Connection("db", "clips", None).translated():
        raise RuntimeError(f"LanceError(IO): Disk quota exceeded (os error {errno.EDQUOT})")


# A store of others


NAMES = {
    "word vectors": "models/word_vectors-*.bin",
    "pointer to word vectors": "models/word_vectors.json",
    "checkpoint": "models/*/*/model.json",
    "weights": "models/*/*/*.safetensors",
    "versions of the table": "vectors/clips.lance/_versions",
    "captions": "../captions.jsonl",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(synced: Path, name: str) -> None:
    (path,) = (synced / ".frameloom").glob(NAMES[name])
    path = path.resolve()
    path.rename(path.with_name("kept"))
    path.symlink_to(path.name)  # ELOOP, also for root
    results = [run(*command, "-c", str(synced / "frameloom.yaml")) for command in (["query", "red"], ["status"])]
    failed = [result for result in results if result.exit_code]
    assert all(one_line(result) and result.exit_code in (2, 4) for result in failed)
    assert failed


@pytest.mark.parametrize("pattern", ["test_resnet/*.parquet", "test_resnet/*.h5", "ledger.sqlite"])
def test_a_store_that_cannot_be_read_is_not_made_again(synced: Path, decodes: list[str], pattern: str) -> None:
    path = min((synced / ".frameloom").glob(pattern))
    path.rename(path.with_name("kept"))
    path.symlink_to(path.name)
    result = run("sync", "-c", str(synced / "frameloom.yaml"))
    assert (result.exit_code, decodes) == (2, [])
    assert f"{path} cannot be used" in one_line(result)
    path.unlink()
    path.with_name("kept").rename(path)
    assert run_sync(synced).did_nothing


def test_everything_is_published_with_the_modes_that_the_umask_gives(synced_once: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    for path in (synced_once / ".frameloom").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


@pytest.mark.parametrize("patterns", [["*.h5"], ["*.parquet"], ["*.h5", "*.parquet"]], ids=["shard", "sidecar", "both"])
def test_a_repaired_store_holds_the_files_of_a_clean_run(synced: Path, patterns: list[str]) -> None:
    def files() -> set[Path]:
        kept = (one for one in (synced / ".frameloom").rglob("*") if one.is_file())
        return {one for one in kept if not {".quarantine", "vectors"} & {*one.parts} and "sqlite" not in one.name}

    clean = files()
    for pattern in patterns:
        path = min((synced / ".frameloom" / "test_resnet").glob(pattern))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert verify(Project.open(synced), Console(quiet=True)).exit_code == 4
    assert repair(Project.open(synced), Console(quiet=True)).repaired
    assert run_sync(synced).exit_code == 0
    assert files() == clean
    assert store_status(Project.open(synced))["quarantine_bytes"] > 0


def test_a_fault_of_ours_is_not_explained_away() -> None:
    assert system_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert system_error(OSError("no number")) is None


def test_a_path_spelled_with_dots_is_the_same_project(synced: Path) -> None:
    (synced / "sub").mkdir()
    plan = Project.open(synced / "sub" / ".." / "frameloom.yaml", read_only=True)
    assert plan.base == synced
