"""Several video backbones in one project: joined in time for the model, each with shards and a status of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frameloom.extract as door
import numpy as np
import pyarrow.parquet as pq
import pytest
from frameloom import ConfigError, FeatureArray, MediaError, Modality, Outcome, Status
from frameloom._vocabulary import digest_of
from frameloom.extract import backbone_spec
from frameloom.store import FeatureStore, Sample
from frameloom.train import read_checkpoint
from frameloom.train.data import ClipDataset, ClipFeatures, TrainingSet, stored_clips
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.index import Index
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import take_state
from frameloom.workflows.sync.sync import extract_only, make_plan, status_of
from helpers.projects import make_clip, make_collection, run_sync, write_config
from typer.testing import CliRunner

FLAT, DEEP = {"backbone": "test_resnet"}, {"backbone": "test_resnet3d"}
WIDTH = 96 + 512


def write_joined(folder: Path, *backbones: dict[str, Any], **sections: Any) -> Path:
    """The project of the other tests with these backbones for video."""
    return write_config(folder, **{**sections, "features": {"video": list(backbones or (FLAT, DEEP))}})


def shards_of(folder: Path, feature: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / ".frameloom" / feature).iterdir()}


def fingerprints_of(folder: Path) -> dict[str, str]:
    return {row["id"]: row["fingerprint"] for row in Project.open(folder).table.get(columns=["id", "fingerprint"])}


@pytest.fixture(scope="module")
def joined_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two video backbones that was synced. Tests take `joined`, a copy of it."""
    folder = tmp_path_factory.mktemp("joined") / "project"
    make_collection(folder)
    write_joined(folder)
    report = run_sync(folder)
    assert report.exit_code == 0, list(report.lines())
    return folder


@pytest.fixture
def joined(joined_once: Path, tmp_path: Path) -> Path:
    """A copy of a synced project of two video backbones."""
    return Path(shutil.copytree(joined_once, tmp_path / "project"))


class TestJoined:
    def test_everything_is_accounted_for_by_modality_and_by_stream(self, joined: Path) -> None:
        found = status_of(Project.open(joined, read_only=True))
        assert found["indexed"] == 8
        assert found["rows"] == 6 * 3 + 2
        assert found["modalities"] == {"video": {"ok": 8}, "audio": {"ok": 6, "no_audio": 2}}
        video = found["features"]["video"]
        assert (video["backbone"], video["dim"]) == ("test_resnet+test_resnet3d", WIDTH)
        streams = [(one["backbone"], one["dim"], one["statuses"]) for one in video["streams"]]
        assert streams == [("test_resnet", 96, {"ok": 8}), ("test_resnet3d", 512, {"ok": 8})]
        shown = CliRunner().invoke(app, ["status", "-c", str(joined / "frameloom.yaml")]).stdout
        assert "video: test_resnet+test_resnet3d: 8 ok" in shown
        assert "    test_resnet3d (seeded:0): 8 ok" in shown

    def test_the_model_reads_rows_as_wide_as_both(self, joined: Path) -> None:
        checkpoint = Project.open(joined).resolve().checkpoint
        assert checkpoint is not None
        meta = read_checkpoint(checkpoint.folder)
        assert meta.config["video_dim"] == WIDTH
        assert [one["spec"]["name"] for one in meta.provenance["features"]["video"]] == ["test_resnet", "test_resnet3d"]

    def test_a_clip_s_rows_are_those_of_both_at_the_same_place(self, joined: Path) -> None:
        project = Project.open(joined)
        checkpoint = project.resolve().checkpoint
        assert checkpoint is not None
        path = checkpoint.folder / "examples.parquet"
        examples = stored_clips(project.store, TrainingSet.read(path).clips)
        assert all(len(dict(row["features"])["video"]) == 2 for row in pq.read_table(path).to_pylist())
        rows = ClipDataset(examples, max_video_tokens=10)[0]["video"]
        assert rows is not None
        names = TrainingSet.read(path).clips[0].features["video"]
        flat, deep = (project.store.read(name).values.astype(np.float64) for name in names)
        assert (len(flat), len(deep)) == (2, 3)  # 1 and 1.5 rows a second, of two seconds
        flat, deep = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (flat, deep))
        np.testing.assert_allclose(rows, np.concatenate([flat[[0, 0, 1]], deep], axis=1), atol=1e-6)

    def test_rows_of_a_damaged_file_are_joined_by_the_time(self, tmp_path: Path) -> None:
        """The deep one lost all but its end; the flat one has every second."""
        spec = backbone_spec("test_resnet")
        store = FeatureStore(tmp_path)
        for name, instants in {"flat": [0, 1, 2, 3], "deep": [3]}.items():
            times = np.array([[at, at + 1] for at in instants], np.float64)
            values = np.repeat(np.array(instants, spec.dtype)[:, None], spec.dim, axis=1)
            feature = FeatureArray(values, times, Status.DAMAGED, "left out 3 frames")
            sample = Sample(key="v", source_digest="d", fingerprint=name, feature=feature)
            store.write_shard(name, [sample], spec=spec)
        clip = ClipFeatures(clip="c", start_seconds=0, end_seconds=4, features={"video": ("flat", "deep")})
        streams = stored_clips(FeatureStore(tmp_path), [clip])[0]["video"]
        assert [one[:, 0].tolist() for one in streams] == [[3], [3]]

    def test_a_second_sync_does_nothing(self, joined: Path, decodes: list[str]) -> None:
        assert run_sync(joined).did_nothing
        assert make_plan(Project.open(joined, read_only=True)).is_empty
        assert decodes == []

    def test_questions_by_words_and_by_file_are_answered(self, joined: Path) -> None:
        index = Index(joined)
        assert index.search("a green picture", top=3)
        best = index.search(video=joined / "videos" / "green & low.v1.mp4", modalities="video", top=2)
        # Two clips of the collection show the same pictures.
        assert {result.video for result in best} == {f"videos/green & {one}.v1.mp4" for one in ("low", "high")}
        assert all(result.score == pytest.approx(1, abs=1e-4) for result in best)

    def test_evaluation_follows(self, joined: Path) -> None:
        found = Index(joined).evaluate(split="test")
        assert found.num_items == 2
        assert set(found.metrics) == {"video", "audio", "video+audio"}

    def test_the_order_is_part_of_the_model_and_not_of_the_features(self, joined: Path) -> None:
        write_joined(joined, DEEP, FLAT)
        plan = make_plan(Project.open(joined, read_only=True))
        assert plan.extract == ()
        assert plan.train is not None


class TestChanges:
    def test_a_second_backbone_extracts_only_that_and_goes_without_a_trace(
        self, synced: Path, decodes: list[str]
    ) -> None:
        flat, rows = shards_of(synced, "test_resnet"), fingerprints_of(synced)
        write_joined(synced)
        plan = make_plan(Project.open(synced, read_only=True))
        assert (len(plan.extract), plan.delete) == (8, 0)
        assert plan.train is not None
        assert not (synced / ".frameloom" / "test_resnet3d").exists()
        pending = status_of(Project.open(synced, read_only=True))
        assert pending["modalities"] == {"video": {"pending": 8}, "audio": {"ok": 6, "no_audio": 2}}
        assert [one["statuses"] for one in pending["features"]["video"]["streams"]] == [{"ok": 8}, {"pending": 8}]

        report = run_sync(synced)
        assert (report.done["extracted"], report.done["trained"], report.done["embedded"]) == (8, 1, 8)
        assert len(decodes) == 8
        assert shards_of(synced, "test_resnet") == flat
        deep = shards_of(synced, "test_resnet3d")
        assert fingerprints_of(synced).keys() == rows.keys()
        assert not set(fingerprints_of(synced).values()) & set(rows.values())
        assert run_sync(synced).did_nothing

        write_config(synced)
        back = run_sync(synced)
        assert (back.done["extracted"], back.done["trained"], back.done["embedded"]) == (0, 0, 8)
        assert fingerprints_of(synced) == rows
        assert shards_of(synced, "test_resnet3d") == deep

    def test_a_changed_backbone_is_extracted_alone(self, joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []
        original: Callable[..., Any] = door.extract_files

        def watched(paths: list[Path], backbones: list[Any], **options: Any) -> Any:
            asked.append([one.spec.name for one in backbones])
            return original(paths, backbones, **options)

        monkeypatch.setattr(door, "extract_files", watched)
        make_clip(joined / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
        write_joined(joined, FLAT, {**DEEP, "seed": 1})
        assert extract_only(Project.open(joined), Console(quiet=True)).done["extracted"] == 9
        # The new file was decoded once for all three.
        assert sorted(asked) == sorted([["test_resnet3d"]] * 3 + [["test_resnet", "test_resnet3d", "logmel_avlnet"]])

    def test_a_video_without_one_of_the_streams_has_no_pictures(
        self, joined: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original: Callable[..., Any] = door.extract_files

        def without_windows(paths: list[Path], backbones: list[Any], **options: Any) -> Any:
            (deep,) = (one.spec for one in backbones if one.spec.name == "test_resnet3d")
            lost = FeatureArray.empty(deep, Status.UNDECODABLE, "no windows")
            return [{**found, deep.name: lost} for found in original(paths, backbones, **options)]

        with monkeypatch.context() as patch:
            patch.setattr(door, "extract_files", without_windows)
            make_clip(joined / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
            report = run_sync(joined)
        assert report.outcomes == {Outcome.INDEXED: 8, Outcome.REJECTED: 1}
        (file,) = report.files
        assert (file.path, file.status, file.message) == (
            "videos/new.mp4",
            "undecodable",
            "test_resnet3d: no windows",
        )
        assert report.modalities["video"] == {"ok": 8, "undecodable": 1}
        made = Project.open(joined).table.get(where="video = 'videos/new.mp4'", columns=["modalities"])
        assert [row["modalities"] for row in made] == ["audio"]
        streams = status_of(Project.open(joined, read_only=True))["features"]["video"]["streams"]
        assert [one["statuses"] for one in streams] == [{"ok": 9}, {"ok": 8, "undecodable": 1}]

    def test_a_question_names_the_stream_that_its_file_lacks(
        self, joined: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original: Callable[..., Any] = door.extract_file

        def without_windows(path: Path, backbones: list[Any], **options: Any) -> Any:
            lost = FeatureArray.empty(backbones[1].spec, Status.UNDECODABLE, "no windows")
            return {**original(path, backbones, **options), "test_resnet3d": lost}

        monkeypatch.setattr(door, "extract_file", without_windows)
        with pytest.raises(MediaError, match=r"low.v1.mp4: undecodable: test_resnet3d: no windows"):
            Index(joined).search(video=joined / "videos" / "green & low.v1.mp4")


class TestWidths:
    @pytest.mark.parametrize("option", ["video_dim", "text_dim"])
    def test_a_model_of_another_width_is_refused_before_any_work(self, tmp_path: Path, option: str) -> None:
        make_collection(tmp_path)
        write_joined(tmp_path, model={"config": {option: 96}})
        widths = {"video_dim": rf"test_resnet \(96\) and test_resnet3d \(512\) are {WIDTH}", "text_dim": "16 wide"}
        for act in (run_sync, lambda folder: make_plan(Project.open(folder, read_only=True))):
            with pytest.raises(ConfigError, match=rf"model\.config\.{option}: 96.*{widths[option]}"):
                act(tmp_path)
        assert not (tmp_path / ".frameloom").exists()

    def test_the_right_width_may_be_said(self, tmp_path: Path) -> None:
        make_collection(tmp_path)
        write_joined(tmp_path, model={"config": {"video_dim": WIDTH}})
        project = Project.open(tmp_path)
        project.check_model(project.resolve())

    def test_a_checkpoint_of_other_streams_is_refused(self, joined: Path) -> None:
        project = Project.open(joined)
        checkpoint = project.resolve().checkpoint
        assert checkpoint is not None
        text = {"backbone": "word2vec", "options": {"dim": 16}, "weights": str(project.features().word_vectors)}
        model = {"checkpoint": str(checkpoint.folder)}
        write_config(joined, model=model, features={"text": text, "video": [FLAT, DEEP]})
        assert run_sync(joined).did_nothing
        for video in ([DEEP, FLAT], FLAT):
            write_config(joined, model=model, features={"text": text, "video": video})
            with pytest.raises(ConfigError, match=r"was trained on video features of test_resnet .* and test_resnet3d"):
                run_sync(joined)

    def test_a_checkpoint_that_does_not_say_what_it_was_trained_on_must_be_as_wide(self, joined: Path) -> None:
        from frameloom.fuse import create_model
        from frameloom.train import save_checkpoint

        save_checkpoint(create_model("test_everything_at_once", video_dim=WIDTH, text_dim=16), joined / "model")
        write_joined(joined, model={"checkpoint": "model"})
        assert Project.open(joined).resolve().checkpoint is not None
        write_joined(joined, FLAT, model={"checkpoint": "model"})
        with pytest.raises(ConfigError, match=rf"video_dim {WIDTH}, and the rows of features\.video are 96 wide"):
            Project.open(joined).resolve()


class TestIdentity:
    def test_one_backbone_in_a_list_is_one_backbone(self, synced: Path, decodes: list[str]) -> None:
        write_joined(synced, FLAT)
        assert run_sync(synced).did_nothing
        assert decodes == []

    def test_a_project_of_one_video_backbone_is_named_as_ever(self, synced: Path) -> None:
        """Checkpoints and rows that were made before there were lists stand."""
        project = Project.open(synced)
        (video, audio), text = project.media, project.features().text
        assert text is not None
        wants = {"video": video, "audio": audio, "text": text}
        features = {
            name: {"spec": want.spec.identity(), "weights": want.weights_digest} for name, want in wants.items()
        }
        facts = {
            "model": "test_everything_at_once",
            "config": {},
            "limits": project.resolve().limits,
            "recipe": project.recipe.identity(),
            "features": features,
        }
        later = {"frames", "betas", "decay_all", "decay_epochs", "final_rate", "warmup_epochs", "task", "head_rate"}
        assert project.recipe.model_dump().keys() - project.recipe.identity().keys() == later
        assert project.resolve().model_key == digest_of(facts)
        checkpoint = project.resolve().checkpoint
        assert checkpoint is not None
        state = next(one for one in take_state(project).clips if one.inputs.has("audio"))
        names = state.inputs.identities()
        assert set(names) == {"video", "audio", "text"}
        how = {"span": [0.0, state.clip.end_seconds], "limits": project.resolve().limits}
        expected = digest_of(["embedding", names, checkpoint.digest, how])
        assert fingerprints_of(synced)[f"{state.clip.clip_id}-video"] == expected


def test_features_have_names_that_tell_streams_apart(joined_once: Path, synced_once: Path) -> None:
    assert list(Project.open(synced_once).features().named()) == ["video", "audio", "text"]
    names = ["video-test_resnet", "video-test_resnet3d", "audio", "text"]
    assert list(Project.open(joined_once).features().named()) == names
    assert {want.modality for want in Project.open(joined_once).media} == {Modality.VIDEO, Modality.AUDIO}
