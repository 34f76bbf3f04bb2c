"""What holds for one moment alone decides nothing for good: files that go, change or crash once, disks not mounted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import frameloom.extract as extract_door
import pytest
from frameloom._vocabulary import ConfigError, FeatureArray, Outcome, Status
from frameloom.workflows.console import Console
from frameloom.workflows.health.report import compact, repair
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.sync import extract_only, make_plan, sync
from helpers.projects import make_clip, run_sync, write_config

QUIET = Console(quiet=True)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project of pictures and sound alone, which nothing was extracted of."""
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        (tmp_path / "videos").mkdir(exist_ok=True)
        make_clip(tmp_path / "videos" / f"{name}.mp4", colour=colour, pitch="low", seconds=1)
    write_config(tmp_path, collection={"captions": None}, run={"batch_videos": 1})
    return tmp_path


def extract(folder: Path) -> Any:
    return extract_only(Project.open(folder), QUIET)


def before_batch(monkeypatch: pytest.MonkeyPatch, number: int, action: Any) -> None:
    """Do something before the batch of this number is decoded."""
    original, batches = extract_door.extract_files, []

    def acting(paths: Any, *args: Any, **options: Any) -> Any:
        batches.append(paths)
        if len(batches) == number:
            action()
        return original(paths, *args, **options)

    monkeypatch.setattr(extract_door, "extract_files", acting)


def verdict(monkeypatch: pytest.MonkeyPatch, name: str, status: Status) -> list[str]:
    """Every attempt at one file ends with this status. Returns the attempts."""
    original, attempts = extract_door.extract_files, list[str]()

    def failing(paths: Any, backbones: Any, **options: Any) -> Any:
        for path, found in zip(paths, original(paths, backbones, **options), strict=True):
            if path.name != name:
                yield found
                continue
            attempts.append(path.name)
            yield {one.spec.name: FeatureArray.empty(one.spec, status, "it ended") for one in backbones}

    monkeypatch.setattr(extract_door, "extract_files", failing)
    return attempts


def statuses(folder: Path) -> set[str]:
    return {entry.status.value for entry in Project.open(folder).store.entries()}


def test_files_that_were_away_for_a_moment_are_extracted_by_the_next_run(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, away = small / "videos", small / "away"
    before_batch(monkeypatch, 2, lambda: videos.rename(away))
    report = extract(small)
    assert (report.outcomes[Outcome.INDEXED], report.outcomes[Outcome.PENDING], report.exit_code) == (1, 2, 3)
    assert statuses(small) == {"ok"}
    away.rename(videos)
    monkeypatch.undo()
    report = extract(small)
    assert (report.outcomes[Outcome.INDEXED], report.done["extracted"], report.exit_code) == (3, 2, 0)


def test_a_copy_does_not_get_the_features_of_what_replaced_the_other_copy(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = small / "videos"
    shutil.copy2(videos / "b.mp4", videos / "b2.mp4")
    before_batch(monkeypatch, 2, lambda: make_clip(videos / "b.mp4", colour="grey", pitch="high", seconds=3))
    report = extract(small)
    assert {file.path for file in report.files} == {"videos/b.mp4", "videos/b2.mp4"}
    monkeypatch.undo()
    assert extract(small).exit_code == 0
    project = Project.open(small)
    rows = {entry.key: entry.num_rows for entry in project.store.entries("logmel_avlnet")}
    assert rows["videos/b2.mp4"] == rows["videos/a.mp4"] < rows["videos/b.mp4"]


@pytest.mark.parametrize("is_settled", [True, False], ids=["known by its stamp", "hashed again"])
def test_a_file_that_changes_before_it_is_read_is_not_stored(
    small: Path, monkeypatch: pytest.MonkeyPatch, is_settled: bool
) -> None:
    path = small / "videos" / "b.mp4"
    if is_settled:
        monkeypatch.setattr("frameloom.store.ledger.is_settled", lambda _status: True)

    def replace_in_place() -> None:
        status, data = path.stat(), bytearray(path.read_bytes())
        data[-1] ^= 1  # same size, same inode, and its time of change set back
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    before_batch(monkeypatch, 2, replace_in_place)
    report = extract(small)
    assert [(file.path, file.status) for file in report.files] == [("videos/b.mp4", "pending")]


@pytest.mark.parametrize("status", [Status.DECODER_CRASH, Status.DEADLINE, Status.OUT_OF_MEMORY])
def test_a_verdict_of_limits_or_a_crash_is_tried_once_more(
    small: Path, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    attempts = verdict(monkeypatch, "b.mp4", status)
    report = extract(small)
    assert (report.outcomes[Outcome.QUARANTINED], report.outcomes[Outcome.INDEXED], report.exit_code) == (1, 2, 3)
    monkeypatch.undo()
    assert make_plan(Project.open(small, read_only=True)).extract == ("videos/b.mp4",)
    report = extract(small)
    assert (report.outcomes[Outcome.INDEXED], report.done["extracted"], report.exit_code) == (3, 1, 0)
    assert (len(attempts), extract(small).done["extracted"]) == (1, 0)


def test_a_verdict_is_kept_after_two_runs_until_the_limits_change(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = verdict(monkeypatch, "b.mp4", Status.DEADLINE)
    for _ in range(4):
        assert extract(small).outcomes[Outcome.QUARANTINED] == 1
    assert len(attempts) == 2
    monkeypatch.undo()
    write_config(small, collection={"captions": None}, run={"batch_videos": 1, "decode_seconds": 900.0})
    report = extract(small)
    assert (report.outcomes[Outcome.INDEXED], report.done["extracted"]) == (3, 1)


def failing_on(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    original = extract_door.extract_files

    def failing(paths: Any, *args: Any, **options: Any) -> Any:
        if any(path.name in names for path in paths):
            raise TypeError("a fault of a library")
        return original(paths, *args, **options)

    monkeypatch.setattr(extract_door, "extract_files", failing)


def test_an_exception_from_one_file_is_that_files_status(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_on(monkeypatch, "b.mp4")
    write_config(small, collection={"captions": None}, run={"batch_videos": 3})
    report = extract(small)
    assert (report.outcomes[Outcome.INDEXED], report.outcomes[Outcome.QUARANTINED], report.exit_code) == (2, 1, 3)
    assert report.files[0].message == "the worker failed on it: TypeError: a fault of a library"


def test_an_exception_from_every_file_is_nobodys_status(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_on(monkeypatch, "a.mp4", "b.mp4", "c.mp4")
    with pytest.raises(TypeError, match="a fault of a library"):
        extract(small)


# What is deleted


def empty_source(folder: Path) -> None:
    """Another folder of videos, which is then as empty as a mount point."""
    (folder / "more").mkdir()
    make_clip(folder / "more" / "d.mp4", colour="red", pitch="high")
    write_config(folder, collection={"videos": ["videos", "more"]})
    run_sync(folder)
    (folder / "more" / "d.mp4").unlink()


def most_files_gone(folder: Path) -> None:
    for path in sorted((folder / "videos").iterdir())[:-1]:
        path.unlink()


def manifest_unmounted(folder: Path) -> None:
    write_config(folder, collection={"videos": "captions.jsonl", "captions": None})
    run_sync(folder)
    (folder / "videos").rename(folder / "elsewhere")


@pytest.mark.parametrize("make_absent", [empty_source, most_files_gone, manifest_unmounted])
def test_rows_of_what_may_only_be_away_are_kept_until_deletion_is_allowed(synced: Path, make_absent: Any) -> None:
    make_absent(synced)
    project = Project.open(synced)
    before = project.table.count()
    for work in (sync, compact_unwanted):
        with pytest.raises(ConfigError, match=r"--allow-delete") as caught:
            work(Project.open(synced), QUIET)
    assert caught.value.exit_code == 2
    assert any("--allow-delete" in note for note in make_plan(Project.open(synced, read_only=True)).notes)
    assert repair(Project.open(synced), QUIET).orphaned_rows == 0
    assert project.table.count() == before
    report = sync(Project.open(synced), QUIET, allow_delete=True)
    assert f"deleted: {before - project.table.count()} rows of clips that are no more" in report.lines()
    assert report.done["deleted"] == before - project.table.count() > 0
    assert sync(Project.open(synced), QUIET).done["deleted"] == 0


def compact_unwanted(project: Project, console: Console) -> None:
    compact(project, console, drop_deleted=True)


def test_a_collection_that_has_moved_is_no_deletion(synced: Path) -> None:
    (synced / "videos").rename(synced / "films")
    rows = (synced / "captions.jsonl").read_text(encoding="utf-8").replace("videos/", "films/")
    (synced / "captions.jsonl").write_text(rows, encoding="utf-8")
    write_config(synced, collection={"videos": "films"})
    before = Project.open(synced).table.count()
    assert run_sync(synced).done["deleted"] == before == Project.open(synced).table.count()


def test_a_share_that_the_configuration_allows_is_deleted(synced: Path) -> None:
    most_files_gone(synced)
    write_config(synced, run={"max_deleted_share": 0.95})
    assert run_sync(synced).done["deleted"] > 10
