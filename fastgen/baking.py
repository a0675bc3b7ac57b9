"""The baked set of a recipe."""

from fastgen.recipe import Recipe
from pipelines.bake import bake
from pipelines.manifest import BakedSet


def bake_recipe(recipe: Recipe) -> BakedSet:
    """The recipe's baked set, made now if it is not there yet."""
    data = recipe.data
    return bake(data.source_spec, data.labels, data.pixels, recipe.bake, say=lambda text: print(text, flush=True))
