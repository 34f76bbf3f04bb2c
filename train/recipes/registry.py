"""Recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._registry import Registry
from ..._vocabulary import ConfigError
from . import all_in_one, baselines, clover, dual_encoder, everything_at_once, pixels, t2v2t, tiny
from .base import Recipe

_FAMILIES = (everything_at_once, baselines, all_in_one, clover, dual_encoder, pixels, t2v2t, tiny)
_RECIPES: Registry[Recipe] = Registry("recipe")
for _family in _FAMILIES:
    for _recipe in _family.RECIPES:
        _RECIPES.add(_recipe.name, _recipe)


def list_recipes(pattern: str = "*") -> list[str]:
    """The names of the recipes that match a shell pattern, sorted."""
    return _RECIPES.names(pattern)


def get_recipe(name: str, /, **overrides: Any) -> Recipe:
    """A recipe, with some of its fields replaced; of those that have fields of their own, the ones that are named.

    Where `epochs` are given, and no `min_steps`, a recipe's own fewest steps do not count.

    Raises:
        UnknownNameError: no such recipe; the nearest names are listed.
        ConfigError: an unknown field (the nearest is named), or a value that cannot be.
    """
    recipe = _RECIPES[name]
    if "name" in overrides:
        raise ConfigError(f"the name of recipe {name} cannot be replaced: leave out 'name'")
    for field in ("model_options", "narration", "frames"):
        if isinstance(given := overrides.get(field), Mapping) and given:  # an empty one clears them
            overrides[field] = {**dict(getattr(recipe, field) or {}), **given}
    if "epochs" in overrides:
        overrides.setdefault("min_steps", 0)
    try:
        return recipe.replaced(**overrides)
    except ConfigError as problem:
        raise ConfigError(f"recipe {name}: {problem}") from None
