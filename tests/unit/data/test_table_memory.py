"""Tables stream: neither the plan of the split nor the reading of rows holds more than a few rows."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuition.data import split
from tuition.data.documents import iter_documents, sources_of
from tuition.data.settings import DataSettings
from tuition.data.units import plan_split

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

MIB = 2**20
POOLS = []  # they must outlive the buffers that came from them
FORMS = ("one.parquet", "stream.arrow", "file.arrow")


def write_table(
    path: Path, texts: list[str], titles: list[str] | None = None, rows_at_once: int = 1_000
) -> Path:
    """A table in row groups or batches of `rows_at_once`."""
    columns = {"text": texts} | ({"title": titles} if titles else {})
    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows_at_once)
        return path
    new = pyarrow.ipc.new_stream if path.name == "stream.arrow" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_at_once)
    return path


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that `work` held at once, Python's objects and Arrow's buffers together."""
    before = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(before)
    POOLS.append(pool)
    pyarrow.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(before)


@pytest.mark.parametrize("form", FORMS)
def test_the_plan_of_many_rows_needs_no_memory_for_each(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash for each of them would be 6 MiB."""
    monkeypatch.setattr(split, "MOST_COUNTED", 1_000)
    path = write_table(tmp_path / form, [f"row {n}" for n in range(100_000)])
    settings = DataSettings(paths=(path,), heldout_share=0.005)
    plans = []
    peak = peak_bytes(lambda: plans.append(plan_split(settings, sources_of(settings))))
    assert plans[0].by == "documents"
    assert 450 < len(plans[0].split.heldout) < 550
    assert peak < MIB


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_read_a_few_at_a_time_even_of_a_file_that_is_one_batch(tmp_path: Path, form: str) -> None:
    """24 MiB of text that hardly compresses, in a single row group or batch."""
    texts = [random.Random(n).randbytes(1_536).hex() for n in range(8_000)]
    path = write_table(tmp_path / form, texts, rows_at_once=len(texts))
    settings = DataSettings(paths=(path,))
    read = []
    peak = peak_bytes(lambda: read.append(sum(len(document.text) for document in iter_documents(settings))))
    assert read == [sum(map(len, texts))]
    assert peak < 12 * MIB
