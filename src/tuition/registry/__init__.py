"""Named models and their versions: paths, lineage, scores. No torch."""
