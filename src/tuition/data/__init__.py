"""Files on disk to batches: documents, splits, tokenized shards, packed rows, and the order they are taught
in."""
