"""A sample of a corpus of bounded size, to train a tokenizer on.

In: `DataSettings`.  Out: texts of the part that is taught, from the whole corpus.
"""

from collections.abc import Iterator

from tuition.data.blocks import identity
from tuition.data.corpora import with_demo_titles
from tuition.data.documents import sources_of
from tuition.data.settings import DataSettings
from tuition.data.split import NUM_HASHES
from tuition.data.units import plan_split, split_units

MAX_BYTES = 2**26


def sample_texts(settings: DataSettings, max_bytes: int = MAX_BYTES) -> Iterator[str]:
    """Texts of the training part, at most about `max_bytes` together. Raises: DataError."""
    settings = with_demo_titles(settings)
    sources = sources_of(settings)
    total = sum(source.num_bytes for source in sources)
    share = min(1.0, max_bytes / max(1, total))
    left = max_bytes
    for unit in split_units(settings, sources, plan_split(settings, sources)):
        if unit.part != "train" or (share < 1 and identity(unit.text, b"sample") >= share * NUM_HASHES):
            continue
        left -= len(unit.text.encode())
        if left < 0 and share < 1:
            return
        yield unit.text
