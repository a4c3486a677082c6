"""Both sides of bench/training.py as processes: `tuition train`, and the peers' worker.

In: sizes, files, options.  Out: what one process did, and its memory.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.process import Finished, run_process
from peers.task import Task, hear
from tuition.core.progress import SilentProgress
from tuition.data.corpora import with_demo_titles
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

WORKER = Path(__file__).parent / "trainer_worker.py"
SEQ_LEN, BATCH = 512, 8
DATA = with_demo_titles(DataSettings(demo="shakespeare"))


@dataclass(frozen=True)
class Size:
    """A shape that is taught from fresh weights; three times as wide inside the feed-forward block."""

    width: int
    layers: int
    heads: int
    vocab: int
    steps: int
    """Of one measurement of speed."""

    @property
    def options(self) -> list[str]:
        """For `tuition train`."""
        values = {
            "--shape.hidden-size": self.width,
            "--shape.num-layers": self.layers,
            "--shape.num-heads": self.heads,
            "--shape.num-kv-heads": self.heads,
            "--shape.mlp-size": 3 * self.width,
            "--batch-size": BATCH,
            "--seq-len": SEQ_LEN,
        }
        return [word for name, value in values.items() for word in (name, str(value))]

    @property
    def config(self) -> dict[str, Any]:
        """The same for transformers."""
        return {
            "model_type": "qwen3",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": SEQ_LEN,
            "tie_word_embeddings": True,
        }


SIZES = {
    "1M": Size(128, 4, 2, vocab=2_048, steps=12),
    "5M": Size(256, 6, 4, vocab=2_048, steps=8),
    "30M": Size(512, 8, 8, vocab=8_192, steps=4),
}
QUALITY_SIZE = "1M"
PEER_RATES = {"1M": 3e-3, "5M": 2e-3, "30M": 1e-3}
"""Of AdamW, for both peers; of 1e-3, 3e-3 and 1e-2 the best for the smallest size at 60 s."""


@dataclass(frozen=True)
class Measured:
    """One process of one side."""

    tokens_per_s: float
    peak_bytes: int
    loss: float | None = None
    steps: int = 0


class Bench:
    """Files that all sides read, made once."""

    def __init__(self, home: Path, threads: int) -> None:
        self.home, self.threads = home, threads
        self._corpora: dict[int, tuple[Tokenizer, Corpus, Path]] = {}

    def corpus(self, vocab: int) -> tuple[Tokenizer, Corpus, Path]:
        """The plays in tokens of this vocabulary, and the rows of them as the peers read them."""
        if vocab not in self._corpora:
            tokenizer = train_bpe(sample_texts(DATA), vocab)
            tokenizer.save(self.home / f"tokenizer-{vocab}")
            corpus = prepare_corpus(DATA, tokenizer, self.home / "data", SilentProgress())
            rows = self.home / f"rows-{vocab}.jsonl"
            tokens = corpus.train.tokens
            with rows.open("w") as lines:
                for start in range(0, len(tokens) - SEQ_LEN, SEQ_LEN):
                    lines.write(json.dumps({"ids": [int(t) for t in tokens[start : start + SEQ_LEN]]}) + "\n")
            self._corpora[vocab] = tokenizer, corpus, rows
        return self._corpora[vocab]

    def tuition(self, name: str, words: Sequence[str], base: Path | None = None) -> tuple[Finished, Path]:
        """`tuition train` in a workspace of its own, where `base` is registered; its process and folder."""
        workspace = self.home / "spaces" / name
        shutil.rmtree(workspace, ignore_errors=True)
        main = "from tuition.cli.main import main; import sys; sys.exit(main())"
        here = ["--workspace", str(workspace)]
        if base is not None:
            run_process([sys.executable, "-c", main, "models", "add", *here, "base", str(base), "--link"])
        command = [sys.executable, "-c", main, "train", *here, *words]
        return run_process(command, {"OMP_WAIT_POLICY": "PASSIVE"}), workspace

    def peer(self, side: str, seed: int = 0, **options: Any) -> tuple[dict[str, Any], int]:
        """The answer of a peer's process, and its peak memory."""
        task = Task(
            model=options.pop("model", ""), precision="bf16", what=("teach",), threads=self.threads,
            vocab_size=0, seed=seed,
            options={"side": side, "scratch": str(self.home / "scratch"), "bf16": True, **options},
        )  # fmt: skip
        done = run_process((sys.executable, str(WORKER), task.to_json()), {"OMP_WAIT_POLICY": "PASSIVE"})
        return hear(done.stdout).rows[0], done.peak_bytes


def steps_of(workspace: Path) -> list[dict[str, Any]]:
    """The steps in the log of the only run of a workspace."""
    (log,) = (workspace / "runs").glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]
