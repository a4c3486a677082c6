"""A model and a task in, a score with its uncertainty out."""
