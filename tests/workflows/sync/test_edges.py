"""What a long life does to a project: spans at the edges, retraining, other combinations, files that go, odd names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError, InputError, Outcome, Status
from frameloom.workflows.console import Console
from frameloom.workflows.index import Index
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import stages as _stages
from frameloom.workflows.sync.sync import status_of, sync, train_only
from helpers.projects import make_clip, make_collection, run_sync, write_config

QUIET = Console(quiet=True)


def write_spans(folder: Path, spans: list[dict[str, Any]]) -> None:
    """A manifest with these rows, beside the videos, as the whole collection."""
    rows = [{"captions": ["a grey picture"], **span} for span in spans]
    (folder / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(folder, collection={"videos": "spans.jsonl", "captions": None})


def rows(folder: Path, *columns: str) -> list[dict[str, Any]]:
    return Project.open(folder).table.get(columns=["video", "start_seconds", "end_seconds", "modalities", *columns])


def test_windows_end_where_the_picture_ends(synced: Path) -> None:
    ends = {row["video"]: row["end_seconds"] for row in rows(synced) if row["modalities"] == "video"}
    assert ends["videos/red & None.v1.mp4"] == pytest.approx(2.0)


def test_spans_shorter_than_a_row_of_the_feature_have_their_pictures(synced: Path) -> None:
    name = "videos/red & None.v1.mp4"
    spans = [{"start_seconds": 0.0, "end_seconds": 0.4}, {"start_seconds": 1.7, "end_seconds": 2.0}]
    other = {"video": "videos/grey & low.v1.mp4", "start_seconds": 0.8, "end_seconds": 0.9}
    write_spans(synced, [{"video": name, **span} for span in spans] + [other])
    sync(Project.open(synced), QUIET, allow_delete=True)
    found = {(row["video"], row["start_seconds"], row["modalities"]) for row in rows(synced)}
    assert found == {
        (name, 0.0, "video"),
        (name, 1.7, "video"),
        *((other["video"], 0.8, one) for one in ("video", "audio", "video+audio")),
    }


def test_spans_beyond_the_end_are_told(synced: Path) -> None:
    low, high = "videos/grey & low.v1.mp4", "videos/grey & high.v1.mp4"
    beyond = {"start_seconds": 100.0, "end_seconds": 200.0}
    write_spans(synced, [{"video": low, **beyond}, {"video": low}, {"video": high, **beyond}])
    report = sync(Project.open(synced), QUIET, allow_delete=True)
    assert report.outcomes == {Outcome.INDEXED: 1, Outcome.REJECTED: 1}
    assert [(file.path, file.status) for file in report.files] == [(high, Status.TOO_SHORT.value)]
    assert any("beyond the end of 2 videos" in note for note in report.notes)
    assert report.exit_code == 3


def test_status_of_a_project_that_was_never_synced(tmp_path: Path) -> None:
    make_collection(tmp_path)
    write_config(tmp_path)
    found = status_of(Project.open(tmp_path, read_only=True))
    assert found["pending"] == found["discovered"] == 8
    assert not (tmp_path / ".frameloom").exists()


def test_status_with_one_new_video(synced: Path) -> None:
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    found = status_of(Project.open(synced, read_only=True))
    assert (found["indexed"], found["pending"]) == (8, 1)


def test_file_that_changes_while_it_is_read_is_pending(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import frameloom.extract as door
    from frameloom import FeatureArray

    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(
            door,
            "extract_files",
            lambda paths, backbones, **_options: [
                {one.spec.name: FeatureArray.empty(one.spec, Status.CHANGED, "changed") for one in backbones}
                for _ in paths
            ],
        )
        report = run_sync(synced)
    assert report.outcomes == {Outcome.INDEXED: 8, Outcome.PENDING: 1}
    assert report.exit_code == 3
    assert run_sync(synced).outcomes == {Outcome.INDEXED: 9}


def test_rows_go_when_all_files_are_gone(synced: Path) -> None:
    write_spans(synced, [{"video": f"videos/{path.name}"} for path in (synced / "videos").iterdir()])
    run_sync(synced)
    assert rows(synced)
    for path in (synced / "videos").iterdir():
        path.unlink()
    report = sync(Project.open(synced), QUIET, allow_delete=True)
    assert report.outcomes == {Outcome.REJECTED: 8}
    assert {file.status for file in report.files} == {"missing"}
    assert rows(synced) == []


def test_interrupted_retraining_leaves_the_index_as_it_was(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synced / "captions.jsonl"
    path.write_text(path.read_text().replace("a red picture", "a crimson picture"))
    run_sync(synced)
    before = Project.open(synced).resolve().checkpoint

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_stages, "train_model", stop)
        with pytest.raises(KeyboardInterrupt):
            train_only(Project.open(synced), QUIET)
    assert Project.open(synced).resolve().checkpoint == before
    assert Index(synced).search("a green picture")
    after, is_new = train_only(Project.open(synced), QUIET)
    assert is_new
    assert before is not None
    assert after.digest != before.digest
    assert Index(synced).search("a green picture")  # by the model before
    run_sync(synced)
    assert Index(synced).search("a crimson picture")


def test_with_a_changed_model_the_one_before_answers_until_a_sync(synced: Path) -> None:
    before = Index(synced).search("red")
    write_config(synced, training={"overrides": {"epochs": 1, "min_steps": 0, "batch_size": 4}})
    assert Index(synced).search("red") == before


def test_every_clip_is_found_whatever_the_combinations(synced: Path) -> None:
    for combinations in (["video", "audio"], ["audio", "video+audio", "video"], ["video"]):
        write_config(synced, store={"combinations": combinations})
        run_sync(synced)
        assert len({result.clip for result in Index(synced).search("red", top=100)}) == 8
        assert len(Index(synced).search("red", top=100)) == 8


def test_video_without_any_wanted_combination_is_not_called_indexed(synced: Path) -> None:
    write_config(synced, store={"combinations": ["audio"]})
    report = run_sync(synced)
    assert report.outcomes == {Outcome.INDEXED: 6, Outcome.REJECTED: 2}
    assert {file.status for file in report.files} == {"no_audio"}


def test_force_trains_anew(synced: Path) -> None:
    checkpoint = Project.open(synced).resolve().checkpoint
    assert checkpoint is not None
    before = (checkpoint.folder / "model.json").stat().st_mtime_ns
    _, is_new = train_only(Project.open(synced), QUIET, force=True)
    assert is_new
    assert (checkpoint.folder / "model.json").stat().st_mtime_ns > before


def test_lost_checkpoint_is_trained_again(synced: Path) -> None:
    shutil.rmtree(synced / ".frameloom" / "models")
    report = run_sync(synced)
    assert report.done["trained"] == 1
    assert run_sync(synced).did_nothing


@pytest.mark.parametrize("condition", ["split = 'test') OR (true", "true) --", "(split = 'test'"])
def test_condition_cannot_leave_its_brackets(synced: Path, condition: str) -> None:
    with pytest.raises(InputError):
        Index(synced).search("red", where=condition)


def test_condition_is_told_in_the_users_words(synced: Path) -> None:
    with pytest.raises(InputError) as caught:
        Index(synced).search("red", where="colour = 'red'")
    assert "colour = 'red'" in str(caught.value)
    assert "model = " not in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [{"text": 5}, {"like": 5}, {"text": "red", "top": "3"}, {"text": "red", "where": 1}]
)
def test_arguments_of_other_types_are_refused(synced: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Index(synced).search(**arguments)


def test_name_that_is_not_utf8_is_indexed_and_found(synced: Path) -> None:
    name = os.fsdecode(b"bad\xff.mp4")
    (synced / "videos" / "grey & low.v1.mp4").rename(synced / "videos" / "a\\b.mp4")
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    (synced / "videos" / "new.mp4").rename(synced / "videos" / name)
    assert run_sync(synced).outcomes == {Outcome.INDEXED: 9}
    found = {result.video: result.path for result in Index(synced).search("red", top=100)}
    assert "videos/bad\\xff.mp4" in found
    assert Path(found["videos/a\\\\b.mp4"]).is_file()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"store": {"path": "captions.jsonl"}}, "not a folder"),
        ({"run": {"device": "banana"}}, "allowed are cpu, cuda and cuda:N"),
        ({"run": {"device": "cuda:99"}}, "this machine has"),
    ],
)
def test_places_that_cannot_be_are_refused(synced: Path, sections: dict[str, Any], words: str) -> None:
    write_config(synced, **sections)
    with pytest.raises(ConfigError, match=words):
        run_sync(synced)


def test_metadata_that_cannot_be_a_column_is_refused_before_any_work(tmp_path: Path) -> None:
    make_collection(tmp_path)
    write_config(tmp_path)
    path = tmp_path / "captions.jsonl"
    path.write_text(path.read_text().replace('"views"', '"Views"', 1))
    with pytest.raises(ConfigError, match="differ only in case"):
        run_sync(tmp_path)
    assert not (tmp_path / ".frameloom").exists()


def test_metadata_with_a_name_of_ours_is_kept_under_another(tmp_path: Path) -> None:
    make_collection(tmp_path)
    write_config(tmp_path)
    path = tmp_path / "captions.jsonl"
    path.write_text(path.read_text().replace('"views"', '"path"'))
    report = run_sync(tmp_path)
    assert "note: the column 'path' is kept as 'path_': its own name cannot be a column's" in report.notes
    assert {row["path_"] for row in rows(tmp_path, "path_")} == {0, 1, 2, 3}


def test_metadata_of_another_type_makes_the_table_anew(synced: Path) -> None:
    path = synced / "captions.jsonl"
    path.write_text(path.read_text().replace('"views": 0', '"views": "none"'))
    report = run_sync(synced)
    assert report.done["extracted"] == 0
    assert {row["views"] for row in rows(synced, "views")} == {"none", "1", "2", "3"}


def test_evaluation_counts_captions_without_a_known_word_as_misses(synced: Path) -> None:
    path = synced / "captions.jsonl"
    lines = path.read_text().splitlines()
    changed = [line.replace("a grey picture", "xyzzy") if "grey & low" in line else line for line in lines]
    path.write_text("\n".join(changed))
    run_sync(synced)
    found = Index(synced).evaluate(split="test")
    assert found.num_queries == 2
    ranks = {name: values["r10"] for name, values in found.metrics.items()}
    assert ranks == dict.fromkeys(("video", "audio", "video+audio"), 50.0)  # the other caption is found among two


def test_a_backbone_s_file_is_looked_for_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    make_collection(project)
    (project / "words.txt").write_text("red\nlow\n", encoding="utf-8")
    text = {"backbone": "test_s3d_text", "options": {"vocabulary": "words.txt"}}
    write_config(project, features={"text": text})
    monkeypatch.chdir(tmp_path)
    want = Project.open(project).features().text
    assert want is not None
    assert len(want.request.build().encode("a low red thing").values) == 1
    assert want.weights_digest == "seeded:0"
