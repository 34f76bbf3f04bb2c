"""verify, repair, compact and `status --store` on a project that was synced."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from frameloom import LockedError
from frameloom.store import FeatureStore, exclusive_lock, reader_lock, writer_lock
from frameloom.train.data import ClipFeatures, FeatureDataset
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.health import store_status as _store_status
from frameloom.workflows.health.report import compact, repair, verify
from frameloom.workflows.health.store_status import store_status
from frameloom.workflows.project.project import Project
from helpers.projects import make_clip, run_sync, write_config
from helpers.stores import tree
from typer.testing import CliRunner, Result

QUIET = Console(quiet=True)
VIDEO = "videos/red & low.v1.mp4"
# SQLite touches its files when they are read; the lock holds nothing.
NOT_COMPARED = ("ledger.*", ".readers*")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, synced: Path) -> Any:
    monkeypatch.chdir(synced)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def project(folder: Path, **options: Any) -> Project:
    return Project.open(folder, **options)


def entry_of(folder: Path, video: str, feature: str = "test_resnet") -> Any:
    return next(entry for entry in project(folder).store.entries(feature) if entry.key == video)


def damage(folder: Path, video: str = VIDEO, feature: str = "test_resnet") -> Path:
    """Flip one bit of one feature of one video."""
    entry = entry_of(folder, video, feature)
    values = FeatureStore(folder / ".frameloom").read(entry.fingerprint).values.tobytes()
    data = bytearray(entry.shard.path.read_bytes())
    data[data.rindex(values[:64]) + 6] ^= 4  # another video of the same colour has the same rows
    entry.shard.path.write_bytes(data)
    return entry.shard.path  # type: ignore[no-any-return]


def contents(folder: Path) -> dict[str, bytes]:
    store = project(folder).store
    return {entry.fingerprint: store.read(entry.fingerprint).values.tobytes() for entry in store.entries()}


def vectors(folder: Path) -> dict[str, list[float]]:
    return {row["id"]: row["vector"] for row in project(folder).table.get(columns=["id", "vector"])}


def one_document(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


def test_a_whole_project_verifies_and_has_nothing_to_repair(synced: Path) -> None:
    before = tree(synced / ".frameloom", without=NOT_COMPARED)
    report = verify(project(synced, read_only=True), QUIET)
    assert report.findings == ()
    assert (report.exit_code, report.skipped, report.rows) == (0, (), 20)
    assert repair(project(synced, read_only=True), QUIET, dry_run=True).repaired == ()
    assert tree(synced / ".frameloom", without=NOT_COMPARED) == before


def test_damage_is_exit_code_4_and_names_the_video(run: Any, synced: Path) -> None:
    path = damage(synced)
    found = one_document(run("verify", "--json", "-q"))
    assert found["exit_code"] == run("verify", "-q").exit_code == 4
    assert [(one["kind"], one["key"]) for one in found["findings"]] == [("shard", ""), ("sample", VIDEO)]
    assert {one["path"] for one in found["findings"]} == {str(path)}
    assert "frameloom repair" in run("verify", "-q").stdout


def test_repair_and_sync_restore_everything_and_decode_only_what_was_lost(synced: Path, decodes: list[str]) -> None:
    features, rows = contents(synced), vectors(synced)
    damage(synced)
    report = repair(project(synced), QUIET)
    assert [key for one in report.repaired for key, _ in one.lost] == [VIDEO]
    assert [finding.kind for finding in verify(project(synced), QUIET).findings if finding.is_damage] == []
    again = run_sync(synced)
    assert decodes == [Path(VIDEO).name]
    assert (again.done["extracted"], again.done["embedded"], again.done["trained"], again.exit_code) == (1, 0, 0, 0)
    assert contents(synced) == features
    assert vectors(synced) == rows
    assert verify(project(synced), QUIET).findings == ()


def test_a_damaged_sidecar_is_written_again_from_its_shard(synced: Path, decodes: list[str]) -> None:
    import pyarrow.parquet as pq

    sidecar = entry_of(synced, VIDEO).shard.path.with_suffix(".parquet")
    whole = sidecar.read_bytes()
    chunk = pq.read_metadata(sidecar).row_group(0).column(1)  # the digests of the videos
    data = bytearray(whole)
    data[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 2] ^= 8
    sidecar.write_bytes(data)
    assert verify(project(synced), QUIET).exit_code == 4
    (repaired,) = repair(project(synced), QUIET).repaired
    assert repaired.lost == ()
    assert sidecar.read_bytes() == whole
    assert run_sync(synced).did_nothing
    assert decodes == []


def test_rows_of_clips_that_are_no_more_are_a_note_and_repair_deletes_them(synced: Path) -> None:
    (synced / VIDEO).unlink()
    report = verify(project(synced), QUIET)
    assert (report.exit_code, {str(one.kind) for one in report.findings}) == (0, {"orphaned_row"})
    assert len(report.findings) == 3
    assert any("--json" in line for line in report.lines()) is False
    assert repair(project(synced), QUIET).orphaned_rows == 3
    assert verify(project(synced), QUIET).findings == ()
    assert run_sync(synced).did_nothing


def test_rows_not_there_yet_are_a_note(synced: Path) -> None:
    table = project(synced).table
    ids = table.rows()["id"].to_pylist()
    table.apply([], ids[:1])
    (finding,) = verify(project(synced), QUIET).findings
    assert (str(finding.kind), finding.key, finding.is_damage) == ("missing_row", ids[0], False)


def test_a_torn_manifest_is_found_and_set_aside_and_sync_embeds_again(synced: Path) -> None:
    rows = vectors(synced)
    manifest = min((synced / ".frameloom" / "vectors" / "clips.lance" / "_versions").glob("*.manifest"))
    manifest.write_bytes(b"")
    report = verify(project(synced), QUIET)
    assert (report.exit_code, [str(one.kind) for one in report.findings]) == (4, ["table"])
    (repaired,) = repair(project(synced), QUIET).repaired
    assert str(repaired.kind) == "table"
    assert verify(project(synced), QUIET).exit_code == 0
    run_sync(synced)
    again = vectors(synced)
    assert again.keys() == rows.keys()
    assert all(again[name] == pytest.approx(rows[name], abs=1e-6) for name in rows)
    assert verify(project(synced), QUIET).findings == ()


def test_a_damaged_checkpoint_is_found_set_aside_and_trained_anew(synced: Path) -> None:
    (weights,) = (synced / ".frameloom" / "models").glob("*/*/model-*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    (finding,) = verify(project(synced), QUIET).findings
    assert (str(finding.kind), finding.path) == ("checkpoint", weights.parent)
    (repaired,) = repair(project(synced), QUIET).repaired
    assert (repaired.kept / weights.name).read_bytes() == bytes(data)  # type: ignore[operator]
    assert verify(project(synced), QUIET).exit_code == 0
    assert run_sync(synced).done["trained"] == 1
    assert verify(project(synced), QUIET).findings == ()


def test_compact_merges_and_a_second_time_does_nothing(run: Any, synced: Path, decodes: list[str]) -> None:
    features, rows = contents(synced), vectors(synced)
    planned = one_document(run("compact", "--dry-run", "--json"))
    assert contents(synced) == features
    done = one_document(run("compact", "--json", "-q"))
    assert (planned["shards_before"], planned["shards_after"]) == (done["shards_before"], done["shards_after"])
    assert done["shards_after"] == 3 < done["shards_before"]
    assert contents(synced) == features
    assert vectors(synced) == rows
    assert one_document(run("compact", "--json", "-q"))["nothing_to_do"] is True
    assert run_sync(synced).did_nothing
    assert decodes == []
    assert verify(project(synced), QUIET).findings == ()


def test_features_of_deleted_videos_stay_unless_asked_for(synced: Path, decodes: list[str]) -> None:
    (synced / VIDEO).unlink()
    run_sync(synced)
    assert compact(project(synced), QUIET).plan.num_unwanted == 0
    assert entry_of(synced, VIDEO)
    assert compact(project(synced), QUIET, drop_deleted=True).plan.num_unwanted == 3  # its caption too
    assert VIDEO not in {entry.key for entry in project(synced).store.entries()}
    assert len({entry.key for entry in project(synced).store.entries("test_resnet")}) == 7
    assert run_sync(synced).did_nothing
    assert decodes == []


def test_nothing_is_dropped_while_a_video_cannot_be_read(synced: Path, run: Any) -> None:
    (synced / VIDEO).unlink()
    (synced / VIDEO).symlink_to("nowhere.mp4")
    result = run("compact", "--drop-deleted")
    assert result.exit_code == 2, result.stdout
    assert "cannot be read just now" in result.stderr


def test_compact_waits_for_nobody(run: Any, synced: Path) -> None:
    with reader_lock(synced / ".frameloom"):
        assert run("verify", "-q").exit_code == 0
        result = run("compact", "-q")
    assert result.exit_code == 6
    assert "is reading" in result.stderr
    with writer_lock(synced / ".frameloom"):
        assert run("compact", "-q").exit_code == 6
        assert run("repair", "-q").exit_code == 6
        assert run("repair", "--dry-run", "-q").exit_code == 0


@pytest.mark.parametrize("is_apart", [False, True])
def test_compact_moves_nothing_under_a_training(run: Any, synced: Path, tmp_path: Path, is_apart: bool) -> None:
    if is_apart:
        write_config(synced, store={"features": str(tmp_path / "features")})
        run_sync(synced)
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch=None, seconds=1.5)
    run_sync(synced)  # adds shards that can be merged
    store = FeatureStore(project(synced).store.root)
    assert (Path(store.root) != synced / ".frameloom") == is_apart
    clips = [ClipFeatures(clip=one.key, features={"f": (one.fingerprint,)}) for one in store.entries("test_resnet")]
    dataset = FeatureDataset(store, clips, features=["f"])
    result = run("compact", "-q")
    assert result.exit_code == 6
    assert f"process {os.getpid()} " in result.stderr
    assert "is reading" in result.stderr
    copy = pickle.loads(pickle.dumps(dataset))
    del dataset
    assert run("compact", "-q").exit_code == 6
    assert len(copy.read(range(len(clips)))) == len(clips)
    del copy
    assert run("compact", "-q").exit_code == 0
    with exclusive_lock(Path(store.root)), pytest.raises(LockedError, match="is compacting"):
        FeatureDataset(store, clips, features=["f"])


def test_status_of_the_store_says_what_is_covered_failed_and_superseded(run: Any, synced: Path) -> None:
    (synced / "videos" / "text.mp4").write_text("no video")
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch=None, seconds=1.5)
    run_sync(synced)
    found = store_status(project(synced, read_only=True))
    assert found == one_document(run("status", "--store", "--json"))
    by_name = {one["feature"]: one for one in found["features"]}
    numbers = {name: [one[key] for key in ("covered", "absent", "of")] for name, one in by_name.items()}
    assert numbers == {"test_resnet": [9, 0, 10], "logmel_avlnet": [6, 3, 10], "word2vec": [12, 0, 12]}
    assert "logmel_avlnet: 6 of 10 covered, 3 have nothing for it;" in run("status", "--store").stdout
    assert by_name["test_resnet"]["failures"] == {"not_media": 1}
    assert found["superseded"] == {"samples": 0, "bytes": 0}
    store = project(synced).store
    old = entry_of(synced, VIDEO)
    from frameloom.store.health.samples import sample_of, spec_of

    store.write_shard("test_resnet", [sample_of(old, store.read(old.fingerprint))], spec=spec_of(old.shard))
    assert store_status(project(synced))["superseded"]["samples"] == 1
    assert "superseded: 1 sample" in run("status", "--store").stdout


def test_status_of_a_store_of_many_small_shards_says_what_helps(run: Any, synced: Path, monkeypatch) -> None:
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch=None, seconds=1.5)
    run_sync(synced)
    found = one_document(run("status", "--store", "--json"))
    assert found["small_shards"] >= 4  # two of each feature of the videos
    assert "small" not in run("status", "--store").stdout
    monkeypatch.setattr(_store_status, "MANY_SHARDS", 4)
    assert f"{found['small_shards']} small shards: `frameloom compact`" in run("status", "--store").stdout
    assert run("compact", "-q").exit_code == 0
    assert one_document(run("status", "--store", "--json"))["small_shards"] == 0
    assert "small" not in run("status", "--store").stdout


@pytest.mark.parametrize("command", ["verify", "repair", "compact"])
def test_a_store_that_is_not_there_yet_is_well(run: Any, synced: Path, command: str) -> None:
    import shutil

    shutil.rmtree(synced / ".frameloom")
    assert run(command, "-q").exit_code == 0
    assert "Example" in run(command, "--help").stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_flips_in_shards_and_sidecars_are_mended_by_repair_and_sync(synced: Path) -> None:
    features, rows = contents(synced), vectors(synced)
    chance = random.Random(11)
    found = 0
    for _ in range(25):
        files = [shard.path for shard in project(synced).store.shards()]
        path = chance.choice([*files, *(one.with_suffix(".parquet") for one in files)])
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        damaged = verify(project(synced), QUIET).exit_code == 4
        found += damaged
        repaired = repair(project(synced), QUIET).repaired
        assert bool(repaired) == damaged
        lost = {key for one in repaired for key, _ in one.lost if key.startswith("videos/")}
        report = run_sync(synced)
        assert (report.exit_code, report.done["extracted"], report.done["trained"]) == (0, len(lost), 0)
        assert contents(synced) == features
        assert verify(project(synced), QUIET).findings == ()
    assert found > 12
    assert vectors(synced) == rows
