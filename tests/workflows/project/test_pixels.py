"""Models that learn from pixels, from raw files to answers: what is extracted, trained, embedded and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from frameloom import ConfigError, InputError
from frameloom.workflows.cli.app import app
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.project import Project
from frameloom.workflows.project.presets import list_presets
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync import make_plan
from helpers.models import register_tiny_pixels
from helpers.projects import make_clip, make_collection, run_sync
from PIL import Image
from typer.testing import CliRunner

MODELS = [register_tiny_pixels(), "test_miles", "test_all_in_one", "test_clover"]
VIDEO = {"backbone": "pixels", "options": {"size": 40, "rate_hz": 4, "frames": "jpeg"}}
TEXT = {"backbone": "wordpiece", "options": {"vocabulary": 256}}
OVERRIDES = {"frames": {"size": 32, "num_frames": 2}, "max_words": 12, "epochs": 4, "min_steps": 0, "batch_size": 4}


def configure(folder: Path, name: str, **sections: dict[str, Any]) -> Path:
    config: dict[str, Any] = {
        "collection": {"videos": "videos", "captions": "captions.jsonl"},
        "features": {"video": VIDEO, "text": TEXT},
        "model": {"name": name},
        "training": {"recipe": "miles_tiny", "overrides": OVERRIDES},
        "store": {"format": "webdataset", "combinations": ["video"]},
        "run": {"workers": 0, "batch_videos": 3},
    }
    for key, section in sections.items():
        config[key] = {**config[key], **section}
    path = folder / "frameloom.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of videos and captions that was synced with the first model."""
    folder = tmp_path_factory.mktemp("pixels") / "project"
    make_collection(folder)
    configure(folder, MODELS[0])
    report = run_sync(folder)
    assert report.exit_code == 0, list(report.lines())
    assert (report.done["extracted"], report.done["trained"], report.done["embedded"]) == (8, 1, 8)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def one_clip(folder: Path) -> None:
    (folder / "videos").mkdir()
    make_clip(folder / "videos" / "a.mp4", colour="red", pitch=None)
    (folder / "captions.jsonl").write_text('{"video": "videos/a.mp4", "captions": ["a"]}\n')


def ask(folder: Path, **question: Any) -> list[Any]:
    return SearchSession(Project.open(folder)).search(Query.ask(**question))


def test_a_second_sync_has_nothing_to_do(project: Path, decodes: list[str]) -> None:
    assert make_plan(Project.open(project)).is_empty
    assert run_sync(project).done["embedded"] == 0
    assert decodes == []


def test_a_clip_asked_as_a_file_is_found_as_itself(project: Path) -> None:
    for name in ("red & low.v1.mp4", "blue & low.v1.mp4"):
        (best, *_) = ask(project, video=project / "videos" / name)
        assert best.score == pytest.approx(1.0, abs=1e-3)
        assert best.video.removeprefix("videos/").split()[0] == name.split()[0]


def test_words_and_pictures_are_read_with_the_checkpoint_s_rule(project: Path, tmp_path: Path) -> None:
    results = ask(project, text="a red picture", top=8)
    assert len(results) == 8
    Image.fromarray(np.full((64, 64, 3), (220, 30, 30), np.uint8)).save(tmp_path / "red.png")
    (best, *_) = ask(project, image=tmp_path / "red.png")
    assert best.video.startswith("videos/red")
    both = ask(project, text="a red picture", image=tmp_path / "red.png")
    assert both[0].score < 1.01
    with pytest.raises(InputError, match="no word of"):
        ask(project, text="\u200b")


@pytest.mark.parametrize("model", MODELS[1:])
def test_another_model_is_one_line_and_extracts_nothing(project: Path, model: str, decodes: list[str]) -> None:
    configure(project, model)
    report = run_sync(project)
    assert report.exit_code == 0, list(report.lines())
    assert (report.done["extracted"], report.done["trained"], report.done["embedded"]) == (0, 1, 8)
    assert report.done["word_vectors"] == 0
    assert decodes == []
    assert ask(project, text="a green picture", top=3)
    configure(project, MODELS[0])
    assert run_sync(project).done["trained"] == 0
    found = evaluate(Project.open(project), split="train")
    assert found.num_queries > 1


def test_only_what_changed_is_embedded_again(project: Path, decodes: list[str]) -> None:
    make_clip(project / "videos" / "new.mp4", colour="grey", pitch=None)
    report = run_sync(project)
    assert (report.done["extracted"], report.done["trained"], report.done["embedded"]) == (1, 0, 1)
    assert decodes == ["new.mp4"]
    configure(project, MODELS[0], model={"name": MODELS[0], "num_frames": 1})
    report = run_sync(project)  # another model key, and so another training: the model has room for what is asked
    assert (report.done["extracted"], report.done["embedded"]) == (0, 9)


def test_still_pictures_are_trained_on_with_videos(tmp_path: Path) -> None:
    make_collection(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for number in range(5):
        name = f"stills/{number}.png"
        (tmp_path / "stills").mkdir(exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), 50 * number, np.uint8)).save(tmp_path / name)
        rows.append({"video": name, "captions": [f"still number {number}"], "split": "train", "views": number})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = {**OVERRIDES, "frames": {**OVERRIDES["frames"], "pictures": "balanced"}}  # type: ignore[dict-item]
    configure(
        tmp_path,
        MODELS[0],
        collection={"videos": "captions.jsonl", "captions": None},
        training={"overrides": overrides},
    )
    report = run_sync(tmp_path)
    assert report.exit_code == 0, list(report.lines())
    assert report.done["embedded"] == 13
    (best, *_) = ask(tmp_path, image=tmp_path / "stills" / "3.png")
    assert best.video == "stills/3.png"
    assert best.score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"store": {"format": "hdf5"}}, "store.format: tiny_pixels streams its pictures"),
        ({"features": {"video": {"backbone": "test_resnet"}}}, "features.video: tiny_pixels learns from pictures"),
        ({"features": {"video": {"backbone": "pixel_tokens"}}}, "features.video: tiny_pixels learns from pictures"),
        ({"features": {"text": {"backbone": "word2vec"}}}, "features.text: tiny_pixels reads word pieces"),
        ({"features": {"text": None}}, "features.text: tiny_pixels reads word pieces"),
        ({"training": {"recipe": "everything_at_once", "overrides": {}}}, "is for models of rows of features"),
        ({"model": {"name": "test_everything_at_once"}}, "miles_tiny is for models of pixels"),
        ({"model": {"name": "tiny_pixels", "config": {"image_size": 64}}}, "model.config.image_size: 64"),
        ({"model": {"name": "tiny_pixels", "config": {"num_frames": 1}}}, "model.config.num_frames: 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path: Path, sections: Any, message: str) -> None:
    one_clip(tmp_path)
    configure(tmp_path, MODELS[0], **sections)
    with pytest.raises(ConfigError, match=message):
        run_sync(tmp_path)


def test_word_pieces_are_not_for_models_of_rows(tmp_path: Path) -> None:
    one_clip(tmp_path)
    configure(
        tmp_path,
        "test_everything_at_once",
        training={"recipe": "everything_at_once_tiny", "overrides": {}},
        features={"video": {"backbone": "test_resnet"}},
    )
    with pytest.raises(ConfigError, match="reads vectors, and wordpiece gives numbers"):
        run_sync(tmp_path)


TINY = [name for name in list_presets() if name.endswith("_tiny")]


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name == "miles_tiny" else pytest.mark.slow) for name in TINY]
)
def test_a_tiny_preset_runs_from_raw_files_to_answers(preset: str, tmp_path: Path) -> None:
    make_collection(tmp_path)
    run = CliRunner()

    def call(*arguments: str) -> str:
        done = run.invoke(app, [*arguments])
        assert done.exit_code == 0, done.output
        return done.output

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        call("init", "videos", "--captions", "captions.jsonl", "--preset", preset)
        path = tmp_path / "frameloom.yaml"
        config = yaml.safe_load(path.read_text())
        config["training"]["overrides"] |= {"epochs": 1, "min_steps": 2, "batch_size": 4}
        config["run"]["workers"] = 0
        path.write_text(yaml.safe_dump(config))
        call("sync", "--quiet")
        found = json.loads(call("query", "a red picture", "--json"))
        assert len(found["results"] if isinstance(found, dict) else found) == 8


@pytest.mark.parametrize("preset", [name.removesuffix("_tiny") for name in TINY])
def test_a_preset_is_a_project_that_can_be_trained(preset: str, tmp_path: Path) -> None:
    one_clip(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(app, ["init", "videos", "--captions", "captions.jsonl", "--preset", preset])
        assert done.exit_code == 0, done.output
        path = tmp_path / "frameloom.yaml"
        path.write_text(path.read_text().replace("device: cuda ", "device: cpu "))
        project = Project.open(tmp_path)
        project.check_model(project.resolve())
        assert project.model_name == preset
        plan = CliRunner().invoke(app, ["sync", "--dry-run"])
        assert plan.exit_code == 0, plan.output
        assert f"{preset} (" in plan.output
        assert "million weights)" in plan.output
        assert CliRunner().invoke(app, ["status"]).exit_code == 0


@pytest.mark.parametrize("name", ["test_miles", "test_all_in_one"])
def test_words_are_drawn_over_the_patches_that_they_go_with(project: Path, tmp_path: Path, name: str) -> None:
    configure(project, name, training={"overrides": {**OVERRIDES, "epochs": 1}})
    assert run_sync(project).exit_code == 0
    picture, config = tmp_path / "words.png", ["-c", str(project / "frameloom.yaml")]
    video = str(next((project / "videos").iterdir()))
    run = CliRunner()
    done = run.invoke(app, ["plot", "alignment", "a red picture", str(picture), "--video", video, "--json", *config])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["word"] for one in found["words"]] == ["a", "red", "picture"]
    weights = np.array([one["weights"] for one in found["words"]])
    assert weights.shape == (3, 2, 4, 4)  # 2 frames of 32 pixels, patches of 8
    if name == "test_all_in_one":
        np.testing.assert_allclose(weights.reshape(3, -1).sum(axis=1), 1.0, rtol=0.1)
    else:
        assert np.abs(weights).max() <= 1.0
    assert np.ptp(weights) > 0
    with Image.open(picture) as drawn:
        assert (drawn.format, drawn.width) == ("PNG", 1000)


def test_a_model_without_patches_is_refused(project: Path, tmp_path: Path) -> None:
    """The first model of these tests has none."""
    video = str(next((project / "videos").iterdir()))
    arguments = ["plot", "alignment", "red", str(tmp_path / "words.png"), "--video", video]
    done = CliRunner().invoke(app, [*arguments, "-c", str(project / "frameloom.yaml")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert not (tmp_path / "words.png").exists()


def test_mirroring_clips_whose_captions_say_left_is_said() -> None:
    from frameloom.train import get_recipe
    from frameloom.workflows.project.pixels import mirrored_captions

    captions = ["a disc drifting leftwards", "Right of the door", "bright copyright", "a disc rises"]
    said = mirrored_captions(get_recipe("miles"), captions)
    assert said is not None
    assert said.startswith("2 captions say left or right, and miles mirrors 50% of the clips")
    assert mirrored_captions(get_recipe("miles"), captions[2:]) is None
    for name in ("miles_tiny", "all_in_one", "all_in_one_cotraining", "all_in_one_tgif_action"):
        assert mirrored_captions(get_recipe(name), captions) is None


def test_a_training_begins_with_weights_of_a_vit_and_a_bert(project: Path) -> None:
    """A file and a folder; other weights are another model, and a model that begins with none is refused."""
    from frameloom.fuse import create_model
    from frameloom.train import load_checkpoint
    from safetensors.torch import save_file

    slow = {**OVERRIDES, "epochs": 1, "learning_rate": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
    configure(project, "test_miles", training={"overrides": slow})
    opened = Project.open(project)
    without = opened.resolve().model_key
    widths = opened.widths(opened.resolve().features.specs())
    torch.manual_seed(7)
    source = create_model("test_miles", **{**widths, "vocab_size": 256})
    (project / "bert").mkdir()
    for name, path in (
        ("video_model", project / "vit.safetensors"),
        ("text_model", project / "bert/model.safetensors"),
    ):
        save_file({key: value.contiguous() for key, value in getattr(source, name).state_dict().items()}, path)
    start = {"video": "vit.safetensors", "text": "bert"}
    configure(project, "test_miles", training={"overrides": slow}, model={"start": start})
    assert Project.open(project).resolve().model_key != without
    assert run_sync(project).exit_code == 0
    checkpoint = Project.open(project).resolve().checkpoint
    assert checkpoint is not None
    made, _ = load_checkpoint(checkpoint.folder)
    for part in ("video_model", "text_model"):
        for key, value in getattr(source, part).state_dict().items():
            torch.testing.assert_close(getattr(made, part).state_dict()[key], value, atol=1e-6, rtol=0)
    key = Project.open(project).resolve().model_key
    (project / "vit.safetensors").write_bytes((project / "bert/model.safetensors").read_bytes())
    assert Project.open(project).resolve().model_key != key


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        ("test_miles", {"start": {"video": "none.pt"}}, "model.start.video: none.pt is not there"),
        ("test_miles", {"start": {"video": "deit_base_patch16_224@none"}}, "none"),
        ("test_miles", {"start": {"sound": "x.pt"}}, "sound"),
        ("tiny_pixels", {"start": {"video": "videos"}}, "begins with no weights"),
    ],
)
def test_weights_to_begin_with_that_cannot_be_are_refused(
    project: Path, name: str, section: dict[str, Any], message: str
) -> None:
    configure(project, name, model=section)
    with pytest.raises(ConfigError, match=message):
        Project.open(project).resolve()
