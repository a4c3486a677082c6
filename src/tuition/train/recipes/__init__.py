"""Recipes: data, loss and settings over the one loop."""
