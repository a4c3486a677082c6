"""A small tokenizer and a few ways to write files."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["to be, or not to be, that is the question " * 20], 280)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Iterable[object], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write
