"""Many trainings: grids of recipes, and who runs them."""
