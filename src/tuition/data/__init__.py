"""Files on disk to batches.

files (`sources`, `readers`, `tables`) -> documents -> units with their part (`units`, `split`) -> tokens on
disk (`tokenize`, `shards`, `corpus`) -> rows (`rows`) -> batches, in an order that follows from the step
(`sampler`, `loader`). Files, rows of files, fingerprints, the split and the order know nothing of text:
another kind of item is a file that makes `split.Item`s of rows or files, and one that makes batches of them.
"""
