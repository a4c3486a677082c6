"""Named models and their versions: where they lie, what they came from, what they score. No torch."""
