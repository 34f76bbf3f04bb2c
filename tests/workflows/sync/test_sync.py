"""The path from a folder of videos to a table, and what a second run does."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError, LockedError, Outcome, Status
from frameloom._vocabulary import InputError, IntegrityError, OutOfSpaceError
from frameloom.store import writer_lock
from frameloom.store.health import Compaction
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import merging
from frameloom.workflows.sync.sync import embed_only, extract_only, make_plan, status_of, sync, train_only
from helpers.projects import make_clip, make_collection, run_sync, write_config
from helpers.stores import tree
from typer.testing import CliRunner

QUIET = Console(quiet=True)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    table = Project.open(folder).table
    columns = ["id", "clip", "video", "modalities", "is_primary", "split", "captions", "views", "vector"]
    return {row["id"]: row for row in table.get(columns=columns)} if table.exists() else {}


def features_of(folder: Path) -> dict[str, bytes]:
    store = Project.open(folder).store
    store.refresh()
    return {entry.fingerprint: store.read(entry.fingerprint).values.tobytes() for entry in store.entries()}


def test_first_sync_accounts_for_everything(synced: Path) -> None:
    found = status_of(Project.open(synced))
    assert found["discovered"] == found["indexed"] == 8
    assert found["modalities"] == {"video": {"ok": 8}, "audio": {"ok": 6, "no_audio": 2}}
    rows = rows_of(synced)
    # video, audio and video+audio for six clips, video for the two without sound
    assert len(rows) == found["rows"] == 6 * 3 + 2
    assert sum(row["is_primary"] for row in rows.values()) == 8
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    assert {row["views"] for row in rows.values()} == {0, 1, 2, 3}
    vectors = np.array([row["vector"] for row in rows.values()])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_second_sync_does_nothing(synced: Path, decodes: list[str]) -> None:
    before = rows_of(synced)
    version = Project.open(synced).table.version()
    report = run_sync(synced)
    assert report.did_nothing
    assert decodes == []
    assert Project.open(synced).table.version() == version
    assert make_plan(Project.open(synced)).is_empty
    assert rows_of(synced) == before


def test_new_mtime_alone_costs_nothing(synced: Path, decodes: list[str]) -> None:
    os.utime(next((synced / "videos").iterdir()), (1, 1))
    assert run_sync(synced).did_nothing
    assert decodes == []


def test_changed_bytes_redo_that_video_alone(synced: Path, decodes: list[str]) -> None:
    before = rows_of(synced)
    path = synced / "videos" / "red & low.v1.mp4"
    make_clip(path, colour="red", pitch="high")
    report = run_sync(synced)
    assert decodes == [path.name]
    assert (report.done["extracted"], report.done["embedded"], report.done["trained"]) == (1, 1, 0)
    after = rows_of(synced)
    assert after.keys() == before.keys()
    changed = {row["video"] for key, row in after.items() if row["vector"] != before[key]["vector"]}
    assert changed == {"videos/red & low.v1.mp4"}


def test_deleted_video_loses_its_rows(synced: Path, decodes: list[str]) -> None:
    before = rows_of(synced)
    (synced / "videos" / "red & low.v1.mp4").unlink()
    report = run_sync(synced)
    assert decodes == []
    assert {name: count for name, count in report.done.items() if count} == {"deleted": 3}
    kept = {key for key, row in before.items() if row["video"] != "videos/red & low.v1.mp4"}
    assert rows_of(synced).keys() == kept
    assert run_sync(synced).did_nothing


def test_added_video_gets_its_rows_and_no_training(synced: Path, decodes: list[str]) -> None:
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.5)
    report = run_sync(synced)
    assert decodes == ["new.mp4"]
    assert (report.done["embedded"], report.done["trained"], report.done["deleted"]) == (1, 0, 0)
    assert {row["modalities"] for row in rows_of(synced).values() if row["video"] == "videos/new.mp4"} == {
        "video",
        "audio",
        "video+audio",
    }


def test_renamed_video_is_not_decoded_again(synced: Path, decodes: list[str]) -> None:
    (synced / "videos" / "red & low.v1.mp4").rename(synced / "videos" / "scarlet.mp4")
    report = run_sync(synced)
    assert decodes == []
    assert (report.done["embedded"], report.done["deleted"]) == (1, 3)


def test_same_content_twice_is_decoded_once(synced: Path, decodes: list[str]) -> None:
    make_clip(synced / "videos" / "one.mp4", colour="grey", pitch="high", seconds=1.5)
    shutil.copy(synced / "videos" / "one.mp4", synced / "videos" / "two.mp4")
    report = run_sync(synced)
    assert decodes == ["one.mp4"]
    assert report.done["embedded"] == 2


def test_changed_caption_rewrites_rows_without_decoding(synced: Path, decodes: list[str]) -> None:
    path = synced / "captions.jsonl"
    path.write_text(path.read_text().replace('"a red picture"', '"a blue picture"'))
    report = run_sync(synced)
    assert decodes == []
    assert report.done["embedded"] == 2
    captions = {row["captions"][0] for row in rows_of(synced).values() if "/red" in row["video"]}
    assert captions == {"a blue picture"}


def test_incremental_equals_rebuild(synced: Path, tmp_path: Path) -> None:
    """After changes, the features are those of a store that was made from nothing."""
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.5)
    make_clip(synced / "videos" / "red & low.v1.mp4", colour="blue", pitch="high", seconds=1.0)
    (synced / "videos" / "blue & low.v1.mp4").unlink()
    run_sync(synced)
    fresh = Path(shutil.copytree(synced, tmp_path / "fresh", ignore=shutil.ignore_patterns(".frameloom")))
    extract_only(Project.open(fresh), QUIET)
    incremental = features_of(synced)
    media = {key: value for key, value in features_of(fresh).items() if key in incremental}
    assert len(media) >= 2 * 8
    assert all(incremental[key] == value for key, value in media.items())


def test_failed_files_are_listed_with_exit_code_3(synced: Path) -> None:
    (synced / "videos" / "text.mp4").write_text("not a video")
    (synced / "videos" / "empty.mp4").touch()
    report = run_sync(synced)
    assert report.exit_code == 3
    assert {(file.path, file.status) for file in report.files} == {
        ("videos/text.mp4", "not_media"),
        ("videos/empty.mp4", "empty_file"),
    }
    assert all(file.message for file in report.files)
    assert report.outcomes == {Outcome.INDEXED: 8, Outcome.REJECTED: 2}
    assert report.discovered == 10
    again = run_sync(synced)
    assert again.exit_code == 3
    assert again.did_nothing
    write_config(synced, run={"max_failures": 2})
    assert run_sync(synced).exit_code == 0


def test_only_a_bad_file_ends_with_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "text.mp4").write_text("not a video")
    write_config(tmp_path, collection={"captions": None})
    report = run_sync(tmp_path)
    assert report.exit_code == 3
    assert [(file.path, file.status) for file in report.files] == [("videos/text.mp4", Status.NOT_MEDIA.value)]
    assert any("nothing to train on" in note for note in report.notes)


def test_collection_without_captions_trains_on_sight_and_sound(synced: Path) -> None:
    write_config(synced, collection={"captions": None})
    shutil.rmtree(synced / ".frameloom")
    report = run_sync(synced)
    assert report.done["trained"] == 1
    assert len(rows_of_plain(synced)) == 6 * 3 + 2


def rows_of_plain(folder: Path) -> list[str]:
    return [row["id"] for row in Project.open(folder).table.get(columns=["id"])]


def status_text(folder: Path) -> str:
    return CliRunner().invoke(app, ["status", "--config", str(folder)]).stdout


def test_captions_that_come_later_train_a_model_that_reads(synced: Path) -> None:
    write_config(synced, collection={"captions": None})
    shutil.rmtree(synced / ".frameloom")
    run_sync(synced)
    write_config(synced)
    assert make_plan(Project.open(synced)).make_word_vectors
    assert "word vectors to train" in status_text(synced)
    done = run_sync(synced).done
    assert (done["word_vectors"], done["trained"]) == (1, 1)
    assert Project.open(synced).ledger.rate("word_vectors") is not None
    assert run_sync(synced).did_nothing


def test_growing_collection_is_told_and_trained_on_demand(synced: Path) -> None:
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.5)
    with (synced / "captions.jsonl").open("a") as file:
        file.write(json.dumps({"video": "videos/new.mp4", "captions": ["a grey picture"], "split": "train"}) + "\n")
    report = run_sync(synced)
    assert report.done["trained"] == 0
    assert any("frameloom train" in note for note in report.notes)
    old = Project.open(synced).resolve().checkpoint
    new, is_new = train_only(Project.open(synced), QUIET)
    assert is_new
    assert old is not None
    assert new.digest != old.digest
    assert not train_only(Project.open(synced), QUIET)[1]
    report = embed_only(Project.open(synced), QUIET)
    assert report.done["embedded"] == 9
    assert len(rows_of(synced)) == 7 * 3 + 2
    assert run_sync(synced).did_nothing


def test_another_model_makes_other_vectors_and_no_decoding(synced: Path, decodes: list[str]) -> None:
    write_config(synced, model={"config": {"projection_dim": 24}})
    assert make_plan(Project.open(synced)).train is not None
    report = run_sync(synced)
    assert decodes == []
    assert (report.done["trained"], report.done["embedded"]) == (1, 8)
    assert {len(row["vector"]) for row in rows_of(synced).values()} == {24}
    write_config(synced)
    back = run_sync(synced)
    assert (back.done["trained"], back.done["embedded"]) == (0, 8)


def test_checkpoint_of_other_features_is_refused(synced: Path) -> None:
    checkpoint = Project.open(synced).resolve().checkpoint
    assert checkpoint is not None
    vectors = Project.open(synced).features().word_vectors
    text = {"backbone": "word2vec", "options": {"dim": 16}, "weights": str(vectors)}
    write_config(synced, model={"checkpoint": str(checkpoint.folder)}, features={"text": text})
    assert run_sync(synced).did_nothing
    write_config(
        synced,
        model={"checkpoint": str(checkpoint.folder)},
        features={"text": text, "video": {"backbone": "test_resnet", "seed": 1}},
    )
    with pytest.raises(ConfigError, match="was trained on video features of test_resnet"):
        run_sync(synced)
    write_config(synced, model={"checkpoint": str(checkpoint.folder)})
    with pytest.raises(ConfigError, match=r"give their file as features\.text\.weights"):
        run_sync(synced)


def test_dry_run_tells_the_truth_and_writes_nothing(synced: Path) -> None:
    side_files = ("*-shm", "*-wal")  # SQLite makes them when a database is read
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.5)
    (synced / "videos" / "red & low.v1.mp4").unlink()
    before = tree(synced / ".frameloom", without=side_files)
    plan = make_plan(Project.open(synced, read_only=True))
    assert plan.extract == ("videos/new.mp4",)
    assert (plan.train, plan.embed, plan.embed_later, plan.delete) == (None, 0, 1, 3)
    assert plan.estimated_seconds is not None
    assert tree(synced / ".frameloom", without=side_files) == before
    report = run_sync(synced)
    assert {name: count for name, count in report.done.items() if count} == {
        "extracted": 1,
        "embedded": 1,
        "written": 3,
        "deleted": 3,
    }


def test_batches_of_few_videos_are_merged_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frameloom.store.health import compact

    make_collection(tmp_path)
    write_config(tmp_path, run={"batch_videos": 1})
    monkeypatch.setattr(compact, "MERGED_FROM", 4)
    before = make_plan(Project.open(tmp_path, read_only=True))
    with monkeypatch.context() as patch:
        patch.setattr(compact, "MERGED_FROM", 100)
        assert run_sync(tmp_path).done["merged"] == 0
    plan = make_plan(Project.open(tmp_path, read_only=True))
    assert (before.merge, plan.merge, plan.estimated_seconds) == (0, 2 * 8, None)
    assert "16 small shards to merge" in status_text(tmp_path)
    progress = io.StringIO()
    report = sync(Project.open(tmp_path), Console(stream=progress))
    assert "merge: 16 of 16 samples in" in progress.getvalue()
    assert report.done["merged"] == 2 * 8
    assert Project.open(tmp_path).ledger.rate("merge") is not None
    store = Project.open(tmp_path).store
    assert len([shard for shard in store.shards() if shard.feature == "test_resnet"]) == 1
    assert len(features_of(tmp_path)) == len(list(store.entries()))
    assert run_sync(tmp_path).did_nothing
    assert make_plan(Project.open(tmp_path, read_only=True)).is_empty


@pytest.mark.parametrize(
    "error", [OutOfSpaceError("no space left"), InputError("too large"), IntegrityError("damaged")]
)
def test_a_merge_that_fails_is_a_note_of_the_report(synced: Path, monkeypatch: pytest.MonkeyPatch, error) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr(merging, "plan_merge", lambda *_given, **_named: Compaction(old_shards=("x",)))
    monkeypatch.setattr(merging, "merge_small_shards", fail)
    report = run_sync(synced)
    assert report.exit_code == 0
    assert f"note: small shards were not merged: {error}" in report.notes


def test_second_writer_is_refused(synced: Path) -> None:
    with writer_lock(synced / ".frameloom"), pytest.raises(LockedError):
        run_sync(synced)


@pytest.mark.parametrize(
    "sections",
    [
        {"features": {"video": {"backbone": "resnet15"}}},
        {"features": {"video": {"backbone": "logmel_avlnet"}}},
        {"features": {"video": {"backbone": "test_resnet", "options": {"rate": 2}}}},
        {"features": {"video": {"backbone": "test_resnet", "weights": "nowhere.pt"}}},
        {"collection": {"videos": "nowhere"}},
        {"collection": {"captions": "nowhere.jsonl"}},
        {"model": {"name": "everything_at_one"}},
        {"model": {"config": {"widht": 3}}},
        {"model": {"checkpoint": "nowhere"}},
        {"training": {"recipe": "tiny"}},
        {"training": {"overrides": {"epoch": 3}}},
    ],
)
def test_bad_configuration_writes_nothing(synced_once: Path, tmp_path: Path, sections: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(synced_once, tmp_path / "p", ignore=shutil.ignore_patterns(".frameloom")))
    write_config(folder, **sections)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        run_sync(folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before
