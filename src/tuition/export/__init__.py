"""Export a model: files that other runtimes load, checked against ours."""
