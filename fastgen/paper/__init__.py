"""The paper: its numbers as data, its experiments as grids of recipes, its tables and figures drawn beside ours."""
