"""Training recipes: data that differ only where the papers differ, a file for each family."""

from .base import Narration, Recipe
from .registry import get_recipe, list_recipes

__all__ = ["Narration", "Recipe", "get_recipe", "list_recipes"]
