"""Training recipes: data that differ only where the papers differ, a file for each family."""

from .base import FrameRecipe, Narration, Recipe
from .registry import get_recipe, list_recipes

__all__ = ["FrameRecipe", "Narration", "Recipe", "get_recipe", "list_recipes"]
