"""Everything that a run is asked: plain data, checked when it is made, read without torch."""

from compressor.recipe.recipe import (
    DataRecipe,
    ExportRecipe,
    ModelRecipe,
    ProfileRecipe,
    Recipe,
    read_recipe,
    recipe_from,
    recipe_with,
)

__all__ = [
    "DataRecipe",
    "ExportRecipe",
    "ModelRecipe",
    "ProfileRecipe",
    "Recipe",
    "read_recipe",
    "recipe_from",
    "recipe_with",
]
