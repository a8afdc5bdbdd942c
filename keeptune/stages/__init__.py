"""One file per step of a recipe."""
