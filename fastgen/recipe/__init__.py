"""Recipes: what they say (schema), how they are read (load), what is wrong with one (validation)."""
