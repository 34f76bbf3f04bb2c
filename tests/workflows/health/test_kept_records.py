"""Tables and models that a store keeps next to each other: verified, repaired and compacted with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from frameloom import IntegrityError
from frameloom.workflows.console import Console
from frameloom.workflows.health.report import compact, repair, verify
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from helpers.projects import run_sync, write_config

QUIET = Console(quiet=True)
OTHER = {"model": {"name": "test_avlnet"}}


@pytest.fixture
def two(synced: Path) -> Path:
    """A project with the tables of two models, the second being the current one."""
    write_config(synced, **OTHER)
    report = run_sync(synced)
    assert report.exit_code == 0, list(report.lines())
    return synced


def test_each_model_keeps_its_table_and_is_asked_by_its_name(two: Path) -> None:
    index = Index(two)
    names = [(one.name, one.count()) for one in (Project.open(two).table, *Project.open(two).other_tables())]
    assert [name for name, _ in names] == ["clips_test_avlnet", "clips"]
    assert len({count for _, count in names}) == 1
    first = index.search("a red picture", top=8, model="test_everything_at_once")
    assert len(first) == len(index.search("a red picture", top=8)) == 8
    write_config(two)
    assert run_sync(two).did_nothing  # nothing was lost by the other model
    assert index.search("a red picture", top=8) == first


def test_damage_in_the_other_table_is_found_and_mended(two: Path) -> None:
    data = sorted((two / ".frameloom" / "vectors" / "clips.lance" / "data").glob("*.lance"))
    content = bytearray(data[0].read_bytes())
    content[len(content) // 3] ^= 0xFF
    data[0].write_bytes(bytes(content))
    assert verify(Project.open(two), QUIET).damaged
    repair(Project.open(two), QUIET)
    assert not verify(Project.open(two), QUIET).damaged
    write_config(two)
    assert run_sync(two).done["embedded"] == 8
    assert not verify(Project.open(two), QUIET).damaged


@pytest.mark.parametrize("record", ["models/tables.json", "models/test_avlnet-*/project.json"])
def test_a_damaged_record_is_set_aside_and_written_again(two: Path, record: str) -> None:
    (path,) = (two / ".frameloom").glob(record)
    path.write_text('{"clips": ')
    if path.name == "tables.json":
        with pytest.raises(IntegrityError, match="frameloom repair"):
            run_sync(two)
    repair(Project.open(two), QUIET)
    assert not path.exists()
    assert run_sync(two).exit_code == 0
    assert path.exists()
    assert not verify(Project.open(two), QUIET).damaged


def test_all_tables_are_compacted(two: Path) -> None:
    said = list(compact(Project.open(two), QUIET).lines())
    kept = Project.open(two).table.num_versions()
    assert (f"  {kept} versions are kept: the newest" in "\n".join(said)) == (kept > 1)
    assert kept > 1
    assert not verify(Project.open(two), QUIET).damaged
    write_config(two)
    assert run_sync(two).did_nothing


def test_checkpoints_that_nothing_uses_are_dropped_when_that_is_asked_for(two: Path) -> None:
    write_config(two, **OTHER, training={"overrides": {"epochs": 3, "min_steps": 0, "batch_size": 4}})
    assert run_sync(two).done["trained"] == 1
    models = two / ".frameloom" / "models"
    before = {path.name for path in models.iterdir()}
    assert compact(Project.open(two), QUIET).models == ()
    (planned,) = compact(Project.open(two), QUIET, drop_models=True, dry_run=True).models
    assert {path.name for path in models.iterdir()} == before
    assert compact(Project.open(two), QUIET, drop_models=True).models == (planned,)
    assert {path.name for path in models.iterdir()} == before - {Path(planned).name}
    assert not verify(Project.open(two), QUIET).damaged
    assert len(Index(two).search("a red picture", top=8, model="test_everything_at_once")) == 8
    assert run_sync(two).did_nothing
