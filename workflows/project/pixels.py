"""Models that learn from pixels: what a project must give them, the sizes that they are built with, and the weights
that their training begins with (`model.start`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._vocabulary import ConfigError, FeatureSpec, Modality
from ...extract import backbone_spec
from ...extract.backbones import check_tags
from ...extract.weights import known_file_sha256, local_weights, weights_file, weights_sha256
from ...train import FrameRecipe, Recipe, read_checkpoint
from ..console import count_of
from .config import Config, ModelConfig

_SIDES = re.compile(r"\b(left|right)(wards?)?\b", re.IGNORECASE)


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

    And where a recipe of questions has none, or what makes the tags of word pieces is not installed.
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
    check_tags(text[0])
    if config.store.format != "webdataset":
        raise ConfigError(f"store.format: {model} streams its pictures from tar files: give webdataset")


def _num_pieces(spec: FeatureSpec) -> int | None:
    """Word pieces of a vocabulary whose numbers are the rows; None for other rows (s3d_text names a file of words)."""
    size = spec.sampling.get("vocabulary")
    return size if isinstance(size, int) else None


def mirrored_captions(recipe: Recipe, captions: Iterable[str]) -> str | None:
    """What a person should know where a training mirrors clips whose captions say left or right."""
    flip = 0.0 if recipe.frames is None else recipe.frames.flip
    count = sum(bool(_SIDES.search(caption)) for caption in captions) if flip else 0
    if not count:
        return None
    return (
        f"{count_of(count, 'caption')} say left or right, and {recipe.name} mirrors {flip:.0%} of the clips: set"
        " training.overrides.frames.flip to 0 where sides matter"
    )


def start_identity(config: Config, base: Path, model: str) -> dict[str, Any]:
    """What is added to the identity of a model's settings. Nothing is fetched.

    Raises:
        ConfigError: a model that begins with none, a file that is not there, an unknown backbone or tag.
    """
    from ...fuse import model_type

    if not config.model.start:
        return {}
    if config.model.checkpoint is not None:
        raise ConfigError("model.start: nothing is trained with model.checkpoint: leave one of them out")
    if config.model.start.keys() - {"model"} and not hasattr(model_type(model), "start_from"):
        raise ConfigError(f"model.start: {model} begins with no weights of others: a model of pixels does")
    known = {
        side: known_file_sha256(found) if tag is None else weights_sha256(tag[0], backbone_spec(tag[0]).weights, tag[1])
        for side, found, tag in _named(config, base)
    }
    return {"start": known}


def start_files(config: Config, base: Path, text: Mapping[str, Any] | None) -> dict[str, str]:
    """The file of each side. A tag's is fetched where it is not yet here.

    Args:
        config: of the project.
        base: its folder.
        text: the identity of its text feature.

    Raises:
        ConfigError: as `start_identity`, a file that cannot be fetched, or a checkpoint that read other words.
        InputError: what was fetched is not what was published.
    """
    if (folder := config.model.start.get("model")) is not None:
        read = read_checkpoint(base / Path(folder).expanduser()).provenance.get("features", {}).get("text")
        if read is not None and text is not None and read["weights"] != text["weights"]:
            raise ConfigError(
                f"model.start.model: {folder} was trained on the words {read['weights']}, and features.text has others,"
                f" {text['weights']}: give the file of the former as features.text.weights"
            )
    return {
        side: str(found if tag is None else local_weights(tag[0], backbone_spec(tag[0]).weights, tag[1]))
        for side, found, tag in _named(config, base)
    }


def _named(config: Config, base: Path) -> Iterator[tuple[str, Path, tuple[str, str] | None]]:
    """Each side, the file that it names, or backbone and tag."""
    for side, given in config.model.start.items():
        path = base / Path(given).expanduser()
        if side == "model":
            yield side, path / read_checkpoint(path).weights_file, None
            continue
        backbone, at, tag = given.partition("@")
        if not (path.exists() or at):
            raise ConfigError(f"model.start.{side}: {given} is not there: give a file, a folder, or BACKBONE@TAG")
        yield side, weights_file(path) if path.exists() else path, None if path.exists() else (backbone, tag)
