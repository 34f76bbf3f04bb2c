"""Writing out what holds anyway changes no identity: no fingerprint, and no model that would be trained again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError
from frameloom._vocabulary import digest_of
from frameloom.extract import backbone_spec, list_backbones
from frameloom.extract.registry import BACKBONES
from frameloom.fuse import model_description
from frameloom.train import get_recipe, list_recipes
from frameloom.workflows.project import Project
from frameloom.workflows.project.config import ModelConfig
from helpers.projects import write_config

TOWERS = {
    "features": {
        "video": {"backbone": "efficientnet_lite0_classes"},
        "audio": None,
        "text": {"backbone": "all_minilm_l6_v2"},
    },
    "model": {"name": "imagenet_labels", "config": {}},
    "training": {"recipe": "imagenet_labels", "overrides": {}},
    "store": {"combinations": ["video"]},
}


def key_of(folder: Path, base: Mapping[str, Any] | None = None, **sections: Any) -> str:
    base = base or {}
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return Project.open(write_config(folder, **merged)).resolve().model_key


def test_the_ready_model_with_its_default_written_out(tmp_path: Path) -> None:
    plain = key_of(tmp_path, TOWERS)
    for config in ({"top": 10}, {"video_dim": 1000}, {"top": 10, "video_dim": 1000, "text_dim": 384}):
        assert key_of(tmp_path, TOWERS, model={"config": config}) == plain
    assert key_of(tmp_path, TOWERS, model={"name": None}) == plain
    other = key_of(tmp_path, TOWERS, model={"config": {"top": 5}})
    assert other != plain
    assert key_of(tmp_path, TOWERS, model={"config": {"top": 5, "text_dim": 384}}) == other


def test_a_key_without_such_a_line_is_what_it_was(tmp_path: Path) -> None:
    """The identity of a project whose lines all change something is made as before there were shorter ones."""
    sizes = {"width": 32, "num_heads": 2}
    path = write_config(tmp_path, model={"config": sizes}, training={"overrides": {"model_options": {"dropout": 0.3}}})
    project = Project.open(path)
    resolved = project.resolve()
    facts = {
        "model": "test_everything_at_once",
        "config": sizes,
        "limits": resolved.limits,
        "recipe": project.recipe.identity(),
        "features": resolved.features.identities(),
    }
    assert resolved.model_key == digest_of(facts)


@pytest.mark.parametrize("name", list_recipes())
def test_every_default_of_every_recipe_and_its_model(name: str, tmp_path: Path) -> None:
    """Fields of the recipe, options of the model in either place, and how much of a clip is read."""
    recipe = get_recipe(name)
    features = {**TOWERS["features"], "video": {"backbone": "test_resnet"}, "text": {"backbone": "word2vec"}}
    base = {**TOWERS, "features": features, "model": {"config": {}}, "training": {"recipe": name, "overrides": {}}}
    base["model"]["name"] = None
    plain = key_of(tmp_path, base)
    widths = {"text_dim", "video_dim", "audio_dim", "extra_dims"}  # which follow from the features, or from the recipe
    widths |= {"image_size", "vocab_size", "num_frames", "max_words"}
    options = {key: one for key, one in model_description(recipe.model)["config"].items() if key not in widths}
    options |= {key: one for key, one in recipe.model_options.items() if key not in widths}
    assert key_of(tmp_path, base, model={"config": options}) == plain
    if recipe.model_options:
        assert key_of(tmp_path, base, training={"overrides": {"model_options": options}}) == plain
    fields = {key: one for key, one in recipe.model_dump(mode="json").items() if key not in ("name", "model_options")}
    assert key_of(tmp_path, base, training={"overrides": fields}) == plain
    limits = {key: one for key, one in recipe.limits().items() if key in ModelConfig.model_fields}
    assert key_of(tmp_path, base, model=limits) == plain


@pytest.mark.parametrize("name", list_backbones())
def test_every_default_of_every_backbone(name: str) -> None:
    """Also a whole number where a number is meant, as YAML writes it."""
    plain = digest_of(backbone_spec(name).identity())
    parameters = inspect.signature(BACKBONES[name].describe).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    defaults |= {option: getattr(backbone_spec(name), option) for option in BACKBONES[name].number_types}
    for option, value in defaults.items():
        if value is inspect.Parameter.empty or value is None:
            continue
        assert digest_of(backbone_spec(name, **{option: value}).identity()) == plain, option
        if isinstance(value, float) and value.is_integer():
            assert digest_of(backbone_spec(name, **{option: int(value)}).identity()) == plain, option


def test_a_model_that_cannot_be_is_still_refused_by_its_check(tmp_path: Path) -> None:
    project = Project.open(write_config(tmp_path, **{**TOWERS, "model": {"name": None, "config": {"topp": 10}}}))
    with pytest.raises(ConfigError, match="topp"):
        project.check_model(project.resolve())
