"""Models that learn from pixels: what a project must give them, the sizes that they are built with, and the weights
that their training begins with (`model.start`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._vocabulary import ConfigError, FeatureSpec, Modality, digest_of
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
        ConfigError: a model that begins with none, or with a checkpoint of another class, a file that is not there, an
            unknown backbone or tag.
    """
    from ...fuse import model_type

    if not config.model.start:
        return {}
    if config.model.checkpoint is not None:
        raise ConfigError("model.start: nothing is trained with model.checkpoint: leave one of them out")
    own = model_type(model)
    if not own.trains:
        raise ConfigError(f"model.start: nothing of {model} is trained")
    if config.model.start.keys() - {"model"} and not hasattr(own, "start_from"):
        raise ConfigError(f"model.start: {model} begins with no weights of others: a model of pixels does")
    known = {
        side: known_file_sha256(found) if tag is None else weights_sha256(tag[0], backbone_spec(tag[0]).weights, tag[1])
        for side, found, tag in _named(config, base)
    }
    if (folder := start_folder(config, base)) is not None:
        trained = read_checkpoint(folder)
        if model_type(trained.model) is not own:
            raise ConfigError(
                f"model.start.model: {folder} is a checkpoint of {trained.model}, and the model is {model}"
            )
        known["model"] = trained.digest
    return {"start": known}


def start_folder(config: Config, base: Path) -> Path | None:
    """The folder of the checkpoint that a training begins with."""
    given = config.model.start.get("model")
    return None if given is None else base / Path(given).expanduser()


def start_files(config: Config, base: Path, model: str, features: Mapping[str, Any]) -> dict[str, str]:
    """The file of each side, and the folder of a checkpoint. A tag's is fetched where it is not yet here.

    Args:
        config: of the project.
        base: its folder.
        model: its name.
        features: the identity of each modality's rows.

    Raises:
        ConfigError: as `start_identity`, a file that cannot be fetched, or a checkpoint that read other words or rows.
        InputError: what was fetched is not what was published.
    """
    from ...fuse import model_type

    files = {
        side: str(found if tag is None else local_weights(tag[0], backbone_spec(tag[0]).weights, tag[1]))
        for side, found, tag in _named(config, base)
    }
    if (folder := start_folder(config, base)) is None:
        return files
    read = read_checkpoint(folder).provenance.get("features", {})
    for modality, own in features.items():
        # Pictures may be of another size and rate, which frames are drawn from; words have the same numbers.
        given, wanted = read.get(modality), own
        if model_type(model).takes_pixels:
            given, wanted = (one and one.get("weights") if modality == "text" else None for one in (given, own))
        if given is not None and digest_of(given) != digest_of(wanted):
            raise ConfigError(
                f"model.start.model: {folder} was trained on other {modality} features than features.{modality} gives:"
                " use the same backbones, options and weights (those of words learned from captions are in that store's"
                " models/word_*)"
            )
    return {**files, "model": str(folder)}


def _named(config: Config, base: Path) -> Iterator[tuple[str, Path, tuple[str, str] | None]]:
    """Each side, the file that it names, or backbone and tag."""
    for side, given in config.model.start.items():
        if side == "model":
            continue
        path = base / Path(given).expanduser()
        backbone, at, tag = given.partition("@")
        if not (path.exists() or at):
            raise ConfigError(f"model.start.{side}: {given} is not there: give a file, a folder, or BACKBONE@TAG")
        yield side, weights_file(path) if path.exists() else path, None if path.exists() else (backbone, tag)
