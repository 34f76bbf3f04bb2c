"""A table of which no row can stay is made aside, and answers until the new one takes its place as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frameloom
import pytest
from frameloom._files import FailPointError
from frameloom._vocabulary import IntegrityError
from frameloom.workflows.console import Console
from frameloom.workflows.health.report import repair, verify
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import rows as rows_stage
from helpers.projects import run_sync, write_config

OTHER_MODEL = {"overrides": {"epochs": 3, "min_steps": 0, "batch_size": 4}}


def answers(folder: Path) -> list[tuple[str, float]]:
    return [(one.clip, round(one.score, 5)) for one in frameloom.open(folder).search("red", top=20)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return Project.open(folder).table.get()


def change_a_type(folder: Path) -> None:
    path = folder / "captions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"views": 1', '"views": "1a"'), encoding="utf-8")


def change_the_model(folder: Path) -> None:
    write_config(folder, training=OTHER_MODEL)


def test_the_table_before_answers_until_the_new_one_is_whole(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_stage, "ROWS_PER_COMMIT", 5)
    monkeypatch.setattr(rows_stage, "CLIPS_PER_TASK", 2)
    before, original, seen = answers(synced), rows_stage.embed_clips, list[Any]()

    def asking(job: Any) -> Any:
        seen.append(answers(synced))
        return original(job)

    monkeypatch.setattr(rows_stage, "embed_clips", asking)
    change_the_model(synced)
    assert answers(synced) == before
    report = run_sync(synced)
    assert (report.done["trained"], report.done["embedded"]) == (1, 8)
    assert seen == [before] * 4
    after = answers(synced)
    assert len(after) == len(before)
    assert after != before
    assert len({row["model"] for row in rows(synced)}) == 1
    assert not run_sync(synced).done["embedded"]


@pytest.mark.parametrize("change", [change_a_type, change_the_model])
@pytest.mark.parametrize("point", ["table.upserted:raise:3", "table.committed:raise:4", "table.replaced:raise"])
def test_a_run_that_is_killed_leaves_the_table_before_or_the_new_one(
    synced: Path, monkeypatch: pytest.MonkeyPatch, change: Any, point: str
) -> None:
    monkeypatch.setattr(rows_stage, "ROWS_PER_COMMIT", 4)
    monkeypatch.setattr(rows_stage, "CLIPS_PER_TASK", 2)
    num_rows, before = len(rows(synced)), answers(synced)
    change(synced)
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", point)
    monkeypatch.setattr("frameloom._files._passes", type(frameloom._files._passes)())
    with pytest.raises(FailPointError):
        run_sync(synced)
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert len(rows(synced)) == num_rows
    if "replaced" not in point:
        assert answers(synced) == before
    report = run_sync(synced)
    assert report.exit_code == 0
    assert len(rows(synced)) == num_rows
    assert not list((synced / ".frameloom" / "vectors" / ".next").glob("*.lance"))
    assert not verify(Project.open(synced), Console(quiet=True)).findings
    assert run_sync(synced).did_nothing


def test_a_column_of_another_type_is_in_the_new_table(synced: Path) -> None:
    change_a_type(synced)
    run_sync(synced)
    assert Project.open(synced).table.metadata_types()["views"] == "string"
    assert {row["views"] for row in rows(synced)} == {"0", "1a", "2", "3"}


def test_a_table_without_checksums_is_made_anew(synced: Path) -> None:
    project = Project.open(synced)
    project.table._lance.open().drop_columns(["row_checksum", "vector_checksum"])
    project.ledger.set_table_version(project.table.uri, project.table.version() or 0)
    before = answers(synced)
    assert run_sync(synced).done["embedded"] == 8
    assert {"row_checksum", "vector_checksum"} <= set(Project.open(synced).table.schema().names)
    assert [clip for clip, _ in answers(synced)] == [clip for clip, _ in before]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_manifest_is_named_and_the_table_made_again_from_the_shards(synced: Path, place: float) -> None:
    run_sync(synced)  # the copy's own ledger knows its version from now on
    before = rows(synced)
    path = min((synced / ".frameloom" / "vectors" / "clips.lance" / "_versions").glob("*.manifest"))
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 4
    path.write_bytes(data)
    for ask in (run_sync, answers):
        with pytest.raises(IntegrityError, match="frameloom repair"):
            ask(synced)
    assert verify(Project.open(synced), Console(quiet=True)).exit_code == 4
    assert repair(Project.open(synced), Console(quiet=True)).repaired
    assert run_sync(synced).exit_code == 0
    assert rows(synced) == before
    assert not verify(Project.open(synced), Console(quiet=True)).findings
