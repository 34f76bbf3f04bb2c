"""Damage of checkpoints, word vectors and single columns of the table is found, set aside and made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frameloom._vocabulary import IntegrityError
from frameloom.workflows.console import Console
from frameloom.workflows.health import report as health
from frameloom.workflows.health.report import compact, repair, verify
from frameloom.workflows.project.project import Project
from helpers.projects import make_clip, run_sync

QUIET = Console(quiet=True)


def kinds(folder: Path) -> list[str]:
    return [str(one.kind) for one in verify(Project.open(folder, read_only=True), QUIET).findings]


def rows(folder: Path) -> list[dict[str, Any]]:
    return Project.open(folder).table.get()


def repair_and_sync(folder: Path) -> Any:
    """Mend, and check that nothing is left to be mended or made."""
    repaired = repair(Project.open(folder), QUIET)
    assert verify(Project.open(folder), QUIET).exit_code == 0
    report = run_sync(folder)
    assert report.exit_code == 0
    assert kinds(folder) == []
    assert run_sync(folder).did_nothing
    return repaired, report


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def flipped(text: str) -> str:
    return text[:-1] + chr(ord(text[-1]) ^ 1)


@pytest.mark.parametrize(
    ("pattern", "edit"),
    [
        ("*/current.json", lambda found: found.update(digest=flipped(found["digest"]))),
        ("*/current.json", lambda found: found.update(folder=flipped(found["folder"]))),
        ("*/*/model.json", lambda found: found["config"].update(dropout=0.25)),
        ("*/current.json", lambda found: found.pop("digest")),
    ],
    ids=["digest", "folder", "config", "key"],
)
def test_a_pointer_and_a_checkpoint_that_disagree_are_set_aside(synced: Path, pattern: str, edit: Any) -> None:
    wanted = rows(synced)
    (path,) = (synced / ".frameloom" / "models").glob(pattern)
    change(path, edit)
    found = verify(Project.open(synced), QUIET)
    assert [str(one.kind) for one in found.damage] == ["checkpoint"]
    repaired, report = repair_and_sync(synced)
    assert [str(one.kind) for one in repaired.repaired] == ["checkpoint"]
    assert report.done["trained"] == 1
    assert rows(synced) == wanted


def test_damaged_word_vectors_are_found_refused_and_trained_anew(synced: Path) -> None:
    wanted = rows(synced)
    (path,) = (synced / ".frameloom" / "models").glob("word_vectors-*.bin")
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    report = verify(Project.open(synced), QUIET)
    assert (report.exit_code, [str(one.kind) for one in report.findings]) == (4, ["word_vectors"])
    with pytest.raises(IntegrityError, match="frameloom repair"):
        run_sync(synced)
    repaired, _ = repair_and_sync(synced)
    assert repaired.orphaned_rows == 0
    assert path.read_bytes() == whole
    assert rows(synced) == wanted


def test_a_truncated_pointer_to_word_vectors_is_set_aside(synced: Path) -> None:
    pointer = synced / ".frameloom" / "models" / "word_vectors.json"
    pointer.write_bytes(pointer.read_bytes()[:5])
    assert kinds(synced) == ["word_vectors"]
    repair_and_sync(synced)


def test_a_pointer_of_an_older_version_names_no_hash(synced: Path) -> None:
    pointer = synced / ".frameloom" / "models" / "word_vectors.json"
    change(pointer, lambda found: found.pop("sha256"))
    assert kinds(synced) == []
    assert run_sync(synced).did_nothing


def flip_in_table(folder: Path, text: bytes, by: int) -> None:
    """Change one byte of the first place in the table's data where a text stands."""
    for path in sorted((folder / ".frameloom" / "vectors" / "clips.lance" / "data").iterdir()):
        data = bytearray(path.read_bytes())
        place = data.find(text)
        if place >= 0:
            data[place] ^= by
            path.write_bytes(data)
            return
    raise AssertionError(f"{text!r} is nowhere")


def test_a_caption_that_is_another_one_is_found_and_embedded_again(synced: Path) -> None:
    wanted = rows(synced)
    caption = next(row["captions"][0] for row in wanted if row["captions"])
    flip_in_table(synced, caption.encode(), 1)
    assert set(kinds(synced)) == {"bad_row"}
    repaired, report = repair_and_sync(synced)
    assert repaired.repaired
    assert report.done["trained"] == 0
    assert rows(synced) == wanted


def test_a_text_that_is_no_text_is_damage_of_the_table(synced: Path) -> None:
    caption = next(row["captions"][0] for row in rows(synced) if row["captions"])
    wanted = rows(synced)
    flip_in_table(synced, caption.encode(), 0x80)
    assert kinds(synced) == ["table"]
    repair_and_sync(synced)
    assert rows(synced) == wanted


def test_what_a_sync_adds_before_compaction_has_its_locks_stays(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.open(synced)
    assert len(project.collection.videos) == 8
    lock = health.writer_lock

    def after_a_sync(root: Path) -> Any:
        make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="low", seconds=1.5)
        run_sync(synced)
        return lock(root)

    monkeypatch.setattr(health, "writer_lock", after_a_sync)
    assert compact(project, QUIET, drop_deleted=True).plan.num_unwanted == 0
    assert run_sync(synced).did_nothing


def test_rows_that_cannot_be_read_are_damage(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(project: Project) -> Any:
        raise IntegrityError("no row can be read")

    monkeypatch.setattr(health, "verify_rows", unreadable)
    assert verify(Project.open(synced), QUIET).exit_code == 4
    shutil.rmtree(synced / ".frameloom" / "vectors")
    assert verify(Project.open(synced), QUIET).exit_code == 0
