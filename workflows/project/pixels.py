"""Models that learn from pixels: what a project must give them, and the sizes that they are built with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._vocabulary import ConfigError, FeatureSpec, Modality
from ...train import FrameRecipe, Recipe
from .config import Config, ModelConfig


def pixel_sizes(
    section: ModelConfig, recipe: Recipe, options: Mapping[str, Any], specs: Sequence[FeatureSpec]
) -> dict[str, Any]:
    """The sizes of a model's pictures and vocabulary, and of its longest input, for which more room may be given.

    Args:
        section: of the configuration.
        recipe: of the training.
        options: of the model that recipe and configuration give.
        specs: of the features.
    """
    frames = recipe.frames or FrameRecipe()
    vocabularies = [size for one in specs if (size := _num_pieces(one))]
    pieces = {"vocab_size": vocabularies[0]} if vocabularies else {}
    longest = {
        "num_frames": max(frames.most_frames(), section.num_frames or 0),
        "max_words": section.max_words or recipe.max_words,
    }
    roomy = {
        name: options[name] for name in longest if isinstance(options.get(name), int) and options[name] > longest[name]
    }
    return {"image_size": frames.size, **pieces, **longest, **roomy}


def check_pixels(
    config: Config, recipe: Recipe, model: str, specs: Sequence[FeatureSpec], *, takes_pixels: bool
) -> None:
    """Raises ConfigError where a model of pixels would be fed anything else, or another model with word pieces.

    And where a recipe of questions has none.
    """
    if recipe.task in ("open_answer", "multiple_choice") and config.collection.questions is None:
        raise ConfigError(f"collection.questions: {recipe.name} is for {recipe.task}: name a file of questions")
    text = [one for one in specs if one.modality is Modality.TEXT]
    reads_pieces = any(map(_num_pieces, text))
    if takes_pixels != (recipe.frames is not None):
        kinds = ("rows of features", "pixels")
        raise ConfigError(
            f"training.recipe: {recipe.name} is for models of {kinds[not takes_pixels]}, and {model} is one of"
            f" {kinds[takes_pixels]}: give the recipe of the model's name"
        )
    if not takes_pixels:
        if reads_pieces:
            raise ConfigError(
                f"features.text: {model} reads vectors, and wordpiece gives numbers of word pieces: give a backbone"
                " such as word2vec"
            )
        return
    media = [one for one in specs if one.modality is not Modality.TEXT]
    facts = media[0].preprocessing if len(media) == 1 else {}
    if "layout" not in facts or facts.get("patch") is not None:
        raise ConfigError(f"features.video: {model} learns from pictures: give one backbone, pixels, and no sound")
    if not reads_pieces:
        raise ConfigError(f"features.text: {model} reads word pieces: give the backbone wordpiece")
    if config.store.format != "webdataset":
        raise ConfigError(f"store.format: {model} streams its pictures from tar files: give webdataset")


def _num_pieces(spec: FeatureSpec) -> int | None:
    """Word pieces of a vocabulary whose numbers are the rows; None for other rows (s3d_text names a file of words)."""
    size = spec.sampling.get("vocabulary")
    return size if isinstance(size, int) else None
