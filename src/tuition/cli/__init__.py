"""The command line: one file per verb; a verb connects packages and holds no logic."""
