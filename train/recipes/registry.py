"""Recipes by name."""

from __future__ import annotations

from typing import Any

from ..._registry import Registry
from ..._vocabulary import ConfigError
from . import baselines, everything_at_once, tiny
from .base import Recipe

_RECIPES: Registry[Recipe] = Registry("recipe")
for _recipe in (*everything_at_once.RECIPES, *baselines.RECIPES, *tiny.RECIPES):
    _RECIPES.add(_recipe.name, _recipe)


def list_recipes(pattern: str = "*") -> list[str]:
    """The names of the recipes that match a shell pattern, sorted."""
    return _RECIPES.names(pattern)


def get_recipe(name: str, /, **overrides: Any) -> Recipe:
    """A recipe, with some of its fields replaced.

    Raises:
        UnknownNameError: no such recipe; the nearest names are listed.
        ConfigError: an unknown field (the nearest is named), or a value that cannot be.
    """
    recipe = _RECIPES[name]
    if "name" in overrides:
        raise ConfigError(f"the name of recipe {name} cannot be replaced: leave out 'name'")
    try:
        return recipe.replaced(**overrides)
    except ConfigError as problem:
        raise ConfigError(f"recipe {name}: {problem}") from None
