"""A corpus streams: memory does not grow with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tuition.tokenizer.tokenizer import Tokenizer

PROGRAM = """
import json, resource, sys
from pathlib import Path
from tuition.data.corpus import prepare_corpus
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.tokenizer.tokenizer import Tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    tokenizer = Tokenizer.load(folder / "tokenizer")
    before = peak()
    settings = DataSettings(paths=(folder / "texts",), num_workers=workers)
    corpus = prepare_corpus(settings, tokenizer, folder / "data")
    read = sum(len(text) for text in sample_texts(settings, max_bytes=2**20))
    print(json.dumps({"growth": peak() - before, "tokens": corpus.num_tokens, "bytes": corpus.train.num_bytes
                      + corpus.heldout_bytes, "documents": corpus.counts.num_documents, "sample": read,
                      "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}))
"""

LINE = "{n} Neither a borrower nor a lender be; for loan oft loses both itself and friend, number {m}.\n"


def write_texts(folder: Path, num_bytes: int) -> int:
    """Half of it one large file, half of it rows. Returns how many bytes of text there are."""
    (folder / "texts").mkdir()
    written = number = 0
    with open(folder / "texts" / "large.txt", "w") as file:
        while written < num_bytes // 2:
            block = "".join(LINE.format(n=number + k, m=(number + k) ** 2) for k in range(1_000))
            number += 1_000
            written += file.write(block)
    with open(folder / "texts" / "rows.jsonl", "w") as file:
        while written < num_bytes:
            text = "".join(LINE.format(n=number + k, m=(number + k) ** 2) for k in range(20))
            number += 20
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text)
    return written


def prepare(folder: Path, tokenizer: Tokenizer, num_bytes: int, workers: int) -> dict[str, int]:
    tokenizer.save(folder / "tokenizer")
    written = write_texts(folder, num_bytes)
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(folder / "program.py"), str(folder), str(workers)],
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["bytes"] == written, "nothing is lost on the way"
    assert found["sample"] <= 2**20
    return found


def test_memory_is_bounded(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The growth is that of the batches in flight: 131 MiB for 24 MiB of text, 126 MiB for 100 MiB."""
    found = prepare(tmp_path, tokenizer, 3 * 2**20, workers=1)
    assert found["growth"] < 160 * 2**20, found


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_two_gigabytes_need_no_more_memory_than_a_few_megabytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = prepare(tmp_path, tokenizer, 2 * 10**9, workers=2)
    print(f"peak growth {found['growth'] / 2**20:.0f} MiB, largest child {found['children'] / 2**20:.0f} MiB")
    assert found["growth"] < 200 * 2**20, found
    assert found["children"] < 300 * 2**20, found
