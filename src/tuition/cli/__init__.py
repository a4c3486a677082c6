"""The command line: one file per verb; a verb wires rooms together and holds no logic."""
