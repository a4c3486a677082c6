"""A model out of the house: files that other runtimes load, checked against ours."""
