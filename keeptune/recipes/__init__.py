"""Recipes in YAML, and the small executor that runs them."""
