"""The table of backbones: each file of this folder adds its own, and the public calls read it.

An entry has two halves. The specification is plain data and costs nothing to read; the builder loads libraries and
weights.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .._registry import Registry, nearest
from .._vocabulary import ConfigError, FeatureArray, FeatureSpec
from ._media import DecodedAudio, DecodedFrames

_HASH_BLOCK_BYTES = 1 << 20


@runtime_checkable
class Backbone(Protocol):
    """A frozen feature extractor.

    Attributes:
        spec: what it computes.
        weights_digest: which weights it computes it with.
    """

    spec: FeatureSpec
    weights_digest: str

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The feature of consecutive frames, of a whole sound track, or of one text, as the modality says."""
        ...


@dataclass(frozen=True, slots=True)
class BackboneEntry:
    """How one backbone is described and built.

    Attributes:
        describe: options to specification. Its keyword parameters are the options that the backbone has.
        build: ``build(spec, weights=, weights_digest=, seed=, device=)`` to the backbone.
        weights: ``optional`` (None gives seeded random ones), ``required`` or ``none`` (there is nothing to load).
    """

    describe: Callable[..., FeatureSpec]
    build: Callable[..., Backbone]
    weights: str = "optional"


BACKBONES: Registry[BackboneEntry] = Registry("backbone")


def list_backbones(pattern: str = "*") -> list[str]:
    """The names of the backbones that match a shell pattern, sorted."""
    return BACKBONES.names(pattern)


def backbone_spec(name: str, **options: Any) -> FeatureSpec:
    """What a backbone computes, without loading anything.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: the backbone does not have such an option, or not such a value.
    """
    describe = BACKBONES[name].describe
    known = list(inspect.signature(describe).parameters)
    for option in options:
        if option not in known:
            raise ConfigError(f"the backbone {name!r} has no option {option!r}: {nearest(option, known)}")
    return describe(**options)


def weights_digest(name: str, weights: str | Path | None, *, seed: int = 0) -> str:
    """What identifies the weights in a fingerprint: ``sha256:<hex>`` of a file, ``seeded:<seed>``, or ``none``.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: the file does not exist, or the backbone does not take or cannot do without one.
    """
    kind = BACKBONES[name].weights
    if weights is None:
        if kind == "required":
            raise ConfigError(f"the backbone {name!r} needs weights: give a file, or let `frameloom train` make it")
        return "none" if kind == "none" else f"seeded:{seed}"
    if kind == "none":
        raise ConfigError(f"the backbone {name!r} has no weights; remove weights: {str(weights)!r}")
    return f"sha256:{_sha256(_existing_file(name, Path(weights)))}"


def create_backbone(
    name: str, *, weights: str | Path | None = None, seed: int = 0, device: str = "cpu", **options: Any
) -> Backbone:
    """Build a backbone, ready to encode.

    Args:
        name: as `list_backbones` gives it.
        weights: a file; None for random weights that the seed alone decides.
        seed: for random weights.
        device: where the model runs, as torch names it.
        options: as `backbone_spec` takes them.

    Raises:
        UnknownNameError: no backbone has this name.
        ConfigError: an option or the weights are not what the backbone takes.
        InputError: the weights file is damaged or made for something else.
    """
    spec = backbone_spec(name, **options)
    digest = weights_digest(name, weights, seed=seed)
    path = None if weights is None else Path(weights)
    return BACKBONES[name].build(spec, weights=path, weights_digest=digest, seed=seed, device=device)


def checked_number(name: str, option: str, value: Any, *, lowest: float, highest: float, whole: bool = False) -> float:
    """A backbone's option as a number, or ConfigError with what is allowed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be {what} from {lowest:g} to {highest:g}, not {value!r}"
        )
    return float(value)


def _existing_file(name: str, path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"the weights of the backbone {name!r} are not a file: {path}")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
