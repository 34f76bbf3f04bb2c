"""The table of backbones: each file of `backbones/` adds its own, and the public calls read it.

An entry has two halves. The specification is plain data and costs nothing to read; the builder loads libraries and
weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from .._registry import Registry, nearest
from .._vocabulary import ConfigError, FeatureSpec
from .._weights import check_device
from .options import Dtype, Precision, check_choice
from .types import Backbone
from .weights import ModelFolder, find_source, folder_sha256, local_weights, model_folder, weights_sha256


@dataclass(frozen=True, slots=True)
class Learned:
    """A file that a backbone of texts can learn from captions.

    Attributes:
        what: its name in messages, in the plural.
        file_name: with a place for what identifies it.
        train: ``train(captions, path, seed=, **options)`` writes it, the same bytes for the same arguments.
        options: of the backbone's those that `train` takes, at their defaults where they are not given.
    """

    what: str
    file_name: str
    train: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackboneEntry:
    """How one backbone is described and built.

    Attributes:
        describe: options to specification. Its keyword parameters are the options that the backbone has, besides those
            of ``number_types``. Where weights are a ``model``, it takes `ModelFolder` or None before them.
        build: ``build(spec, weights=, weights_digest=, seed=, device=)`` to the backbone.
        weights: ``optional`` (None gives seeded random ones), ``required``, ``none`` (there is nothing to load), or
            ``model``: a folder that decides the specification, too.
        takes_folder: whether weights may be a folder, which then holds the vocabulary too.
        path_options: options whose value is the path of a file; may be empty.
        number_types: which of the options ``precision`` and ``dtype``, common to networks, the backbone has.
        learns: what it can learn from captions where no weights are given.
    """

    describe: Callable[..., FeatureSpec]
    build: Callable[..., Backbone]
    weights: str = "optional"
    takes_folder: bool = False
    path_options: tuple[str, ...] = ()
    number_types: tuple[str, ...] = ("precision", "dtype")
    learns: Learned | None = None


BACKBONES: Registry[BackboneEntry] = Registry("backbone")
_NUMBER_TYPES = {"precision": get_args(Precision), "dtype": get_args(Dtype)}


def register(
    variants: Mapping[str, Any], describe: Callable[..., FeatureSpec], build: Callable[..., Backbone], **facts: Any
) -> None:
    """Add the members of a family: ``describe(name, variant, **options)`` of each. ``facts`` go to `BackboneEntry`."""
    for name, variant in variants.items():
        BACKBONES.add(name, BackboneEntry(partial(describe, name, variant), build, **facts))


def list_backbones(pattern: str = "*") -> list[str]:
    """The names of the backbones that match a shell pattern, sorted."""
    return BACKBONES.names(pattern)


def backbone_spec(name: str, *, weights: str | Path | None = None, **options: Any) -> FeatureSpec:
    """A backbone's specification, without loading anything.

    Args:
        name: as `list_backbones` gives it.
        weights: read only where the specification follows from them (`follows_weights`): a folder, or a model of the
            Hub that was fetched. None describes an example.
        options: the backbone's.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: the backbone does not have such an option, or not such a value; or the weights are not there.
        InputError: the weights' folder is damaged, or holds something else.
    """
    entry = BACKBONES[name]
    parameters = inspect.signature(entry.describe).parameters.values()
    known = [*(one.name for one in parameters if one.kind is one.KEYWORD_ONLY), *entry.number_types]
    for option in options:
        if option not in known:
            raise ConfigError(f"the backbone {name!r} has no option {option!r}: {nearest(option, known)}")
    number_types = {option: options.pop(option) for option in entry.number_types if option in options}
    for option, value in number_types.items():
        check_choice(name, option, value, _NUMBER_TYPES[option])
    folder: tuple[ModelFolder | None, ...] = ()
    if entry.weights == "model":
        folder = (None if weights is None else model_folder(name, weights),)
    return replace(entry.describe(*folder, **options), **number_types)


def path_options(name: str) -> tuple[str, ...]:
    """The options of a backbone whose value is the path of a file.

    Raises:
        UnknownNameError: no backbone has this name.
    """
    return BACKBONES[name].path_options


def learned_words(name: str, **options: Any) -> Learned | None:
    """What a backbone of texts learns from captions where no weights are given (word vectors, word pieces), with its
    options; None for all others.

    Raises:
        UnknownNameError: no backbone has this name.
    """
    entry = BACKBONES[name]
    parameters = inspect.signature(entry.describe).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    if entry.learns is None:
        return None
    taken = inspect.signature(entry.learns.train).parameters
    chosen = {option: value for option, value in {**defaults, **options}.items() if option in taken}
    return replace(entry.learns, options=chosen)


def follows_weights(name: str) -> bool:
    """Whether a backbone's specification follows from its weights, which then must be given.

    Raises:
        UnknownNameError: no backbone has this name.
    """
    return BACKBONES[name].weights == "model"


def weights_digest(name: str, weights: str | Path | None, *, seed: int = 0) -> str:
    """The identity of the weights in a fingerprint: ``sha256:<hex>`` of a file or a folder, ``seeded:<seed>``, or
    ``none``.

    Nothing is fetched. A tag gives the hash of its file, which need not be here where that hash is published.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: neither a tag nor a file, a tag whose hash is not known before it was fetched, or the backbone does
            not take or cannot do without weights.
    """
    kind = BACKBONES[name].weights
    if weights is None:
        if kind == "model":
            raise ConfigError(
                f"the backbone {name!r} needs weights: give a folder as transformers saves a model, or"
                " hf://OWNER/NAME@REVISION"
            )
        if kind == "required":
            other = (
                "let `frameloom train` make it" if BACKBONES[name].learns else "a tag that `frameloom weights` lists"
            )
            raise ConfigError(f"the backbone {name!r} needs weights: give a file, or {other}")
        return "none" if kind == "none" else f"seeded:{seed}"
    _check_takes_weights(name, weights)
    if _is_folder(name, weights):
        return f"sha256:{folder_sha256(Path(weights))}"
    return f"sha256:{weights_sha256(name, backbone_spec(name).weights, weights)}"


def create_backbone(
    name: str, *, weights: str | Path | None = None, seed: int = 0, device: str = "cpu", **options: Any
) -> Backbone:
    """Build a backbone, ready to encode.

    Args:
        name: as `list_backbones` gives it.
        weights: a tag of published weights (`FeatureSpec.weights`), which are fetched where they are not yet on this
            machine; or a file, or for some a folder or a model of the Hub (``hf://owner/name@revision``); None for
            random weights that the seed alone decides.
        seed: for random weights.
        device: where the model runs: "cpu", "cuda" or "cuda:N".
        options: as `backbone_spec` takes them.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: an option, the device or the weights are not what the backbone takes, or they cannot be fetched.
        InputError: the weights file is damaged or made for something else, or not what was published.
    """
    check_device(device)
    spec = backbone_spec(name, **options)  # mistakes are said before anything is fetched
    path = None
    if weights is not None:
        _check_takes_weights(name, weights)
        is_folder = _is_folder(name, weights)
        path = Path(weights) if is_folder else local_weights(name, backbone_spec(name).weights, weights)
        spec = backbone_spec(name, weights=weights, **options)
    digest = weights_digest(name, weights, seed=seed)
    return BACKBONES[name].build(spec, weights=path, weights_digest=digest, seed=seed, device=device)


def _check_takes_weights(name: str, weights: str | Path) -> None:
    if BACKBONES[name].weights == "none":
        raise ConfigError(f"the backbone {name!r} has no weights; remove weights: {str(weights)!r}")
    if not BACKBONES[name].takes_folder and find_source((), weights) is not None:
        raise ConfigError(f"the backbone {name!r} reads a file of weights, not a whole model: {str(weights)!r}")


def _is_folder(name: str, weights: str | Path) -> bool:
    return BACKBONES[name].takes_folder and Path(weights).is_dir()
