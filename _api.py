"""The calls behind `import frameloom`. Each loads what it needs when it is called, so that importing costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .extract import Backbone
    from .fuse import FusionModel
    from .workflows import Index


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of the registered backbones that match a shell pattern, sorted."""
    from . import extract

    return extract.list_backbones(pattern)


def create_backbone(
    name: str, *, weights: str | Path | None = None, seed: int = 0, device: str = "cpu", **options: Any
) -> Backbone:
    """Build a backbone.

    Args:
        name: a registered name.
        weights: a tag that `frameloom weights` lists (fetched where it is not yet on this machine), or a path; None
            for random weights drawn from `seed`.
        seed: the seed of random weights.
        device: a torch device.
        **options: settings of the protocol that differ from the published ones.

    Raises:
        UnknownNameError: no such backbone; the message names near ones.
        ConfigError: weights that cannot be loaded, or an unknown option.
    """
    from . import extract

    return extract.create_backbone(name, weights=weights, seed=seed, device=device, **options)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered fusion models that match a shell pattern, sorted."""
    from . import fuse

    return fuse.list_models(pattern)


def create_model(name: str, **config: Any) -> FusionModel:
    """Build a fusion model.

    Args:
        name: a registered name.
        **config: sizes and switches that differ from the published ones.

    Raises:
        UnknownNameError: no such model; the message names near ones.
        ConfigError: an unknown setting; the message names the nearest.
    """
    from . import fuse

    return fuse.create_model(name, **config)


def open(path: str | Path = "frameloom.yaml") -> Index:
    """Open a project by its configuration file, or by the folder that holds one.

    Raises:
        ConfigError: the file does not exist, or says something that cannot be.
    """
    from . import workflows

    return workflows.open_index(path)
