"""The sweep behind the shape that follows from a budget: sizes of a model against time and amount of text.

    python bench/sweep_shape.py                             every size, text and time: an hour of one core
    python bench/sweep_shape.py --sizes xs s --seconds 6 18 --bytes 1000000                  some of them

In: Shakespeare's plays, all of them or so many that they have about the bytes that are named. Scores are on
the validation plays, which are never taught. The optimizer's settings are those of `tuition train`.
Each run is taught for so many seconds of processor time of one thread, which is fair on a machine that others
use too. Rows that are in the file already are kept unless --again is given.
Out: bench/results/sweep_shape.json, and a table on the terminal. `plan/shape.py` holds what follows from it.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from sweep_demo import prepare, run

from tuition.core.durable import write_json
from tuition.core.workspace import open_workspace
from tuition.data.corpora import VALIDATION_PLAYS, demo_corpus
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.evals.sample_quality import TaughtText, sample_quality
from tuition.runtime.device import (
    choose_device,
    choose_precision,
    describe_machine,
    prepare_process,
    set_threads,
)
from tuition.runtime.speed import product_flops_per_s
from tuition.spec.machine import detect_machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.recipes.pretrain_settings import PretrainSettings, ShapeSettings
from tuition.train.schedule import BudgetSpan
from tuition.train.settings import TrainSettings

RESULTS = Path(__file__).parent / "results" / "sweep_shape.json"
WHOLE = 10**9
"""More bytes than all plays have."""


def sized(width: int, layers: int, head: int, vocab: int, rows: int, seq_len: int) -> PretrainSettings:
    """A size; the feed-forward block is three times as wide as the stream."""
    heads = width // head
    shape = ShapeSettings(
        hidden_size=width, num_layers=layers, num_heads=heads, num_kv_heads=heads, mlp_size=3 * width
    )
    return PretrainSettings(vocab_size=vocab, shape=shape, batch_size=rows, seq_len=seq_len)


SIZES: dict[str, PretrainSettings] = {
    "xs": sized(64, 2, 32, vocab=512, rows=8, seq_len=256),
    "s": sized(96, 3, 32, vocab=1_024, rows=8, seq_len=256),
    "m": sized(128, 4, 64, vocab=2_048, rows=8, seq_len=256),
    "l": sized(192, 4, 64, vocab=2_048, rows=8, seq_len=256),
    "xl": sized(256, 6, 64, vocab=4_096, rows=8, seq_len=512),
    "before": PretrainSettings(),
}
"""`before`: the default of earlier versions."""


def text_of(num_bytes: int, folder: Path) -> DataSettings:
    """Plays of about `num_bytes` to teach, and the validation plays, as files of their own."""
    corpus, left = demo_corpus("shakespeare"), num_bytes
    for source in corpus.sources:
        title = source.title or source.name
        text = source.path.read_text(encoding="utf-8")
        if title in corpus.heldout_titles or (title not in VALIDATION_PLAYS and left <= 0):
            continue
        if title not in VALIDATION_PLAYS:
            text = text[:left]
            left -= len(text)
        (folder / f"{title}.txt").write_text(text, encoding="utf-8")
    validation = tuple(f"{title}.txt" for title in VALIDATION_PLAYS)
    return DataSettings(paths=(folder,), validation=validation, heldout_share=0.02, num_workers=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--seconds", nargs="*", type=float, default=[6.0, 18.0, 54.0])
    parser.add_argument("--bytes", nargs="*", type=int, default=[200_000, 1_000_000, WHOLE])
    parser.add_argument("--again", action="store_true", help="also rows that are there already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    set_threads(1)
    process = prepare_process()
    data = open_workspace().create().data
    train = TrainSettings()
    device = choose_device("cpu")
    speed = product_flops_per_s(device, choose_precision("auto", device), time.process_time)
    for num_bytes in chosen.bytes:
        with tempfile.TemporaryDirectory() as folder:
            text, tokenizers = text_of(num_bytes, Path(folder)), dict[int, Tokenizer]()
            taught = TaughtText(sample_texts(text))
            for name in chosen.sizes:
                settings = replace(SIZES[name], data=text)
                tokenizer, corpus = prepare(settings, tokenizers, data)
                for seconds in chosen.seconds:
                    label = "all" if num_bytes >= WHOLE else f"{num_bytes:,} bytes"
                    key = f"{name}, {label}, {seconds:g} CPU seconds"
                    found = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": {}}
                    if key in found["rows"] and not chosen.again:
                        continue
                    span = BudgetSpan(seconds, clock=time.process_time)
                    result = run((train, settings), tokenizer, corpus, span)
                    quality = sample_quality([result["sample"]], taught)
                    found["rows"][key] = {
                        **row(name, num_bytes, seconds, settings, result),
                        "known_words": round(quality.known_share, 3),
                        "product_flops_per_s": round(speed),
                        "process": process,
                    }
                    write_json(chosen.out, found)
                    score = f"{result['bits_per_byte']:.4f} bits/byte  {quality.known_share:.0%} known words"
                    print(f"{key:40} {score}  {result['steps']:5} steps", flush=True)


def row(
    name: str, num_bytes: int, seconds: float, settings: PretrainSettings, result: dict[str, Any]
) -> dict[str, Any]:
    """What is kept of one run."""
    return {
        **result,
        "size": name,
        "text_bytes": num_bytes,
        "seconds": seconds,
        "shape": asdict(settings.shape),
        "vocab_size": settings.vocab_size,
        "rows": settings.batch_size,
        "seq_len": settings.seq_len,
        "torch": torch.__version__,
        "capability": describe_machine()["cpu_capability"],
        "processor": detect_machine().name,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


if __name__ == "__main__":
    main()
