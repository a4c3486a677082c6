"""The sweep behind the demo's settings: one thing is changed at a time, all at equal processor time.

    python bench/sweep_demo.py                     every row, two minutes of one core each
    python bench/sweep_demo.py --rows demo batch-2 some of them; rows already in the file are replaced
    python bench/sweep_demo.py --minutes 4 --threads 2 --rows demo   by the clock, on a quiet machine

In: Shakespeare's plays. The held-out plays are never scored and never taught; scores are on the validation
plays, which are not taught either.
Out: bench/results/sweep_demo.json, with settings, versions and machine, and a table on the terminal.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tuition.core.durable import write_json
from tuition.core.progress import SilentProgress
from tuition.core.settings import to_table
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.corpora import VALIDATION_PLAYS
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.ledger.meter import open_meter
from tuition.plan.shape import STANDARD_EVALUATION
from tuition.runtime.device import (
    choose_device,
    choose_precision,
    describe_machine,
    prepare_process,
    set_threads,
)
from tuition.runtime.group import ALONE
from tuition.runtime.seed import seed_all
from tuition.runtime.thread_pool import ThreadPool
from tuition.spec.counts import num_parameters
from tuition.spec.machine import detect_machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.folder import RunFolder
from tuition.train.loop import fit
from tuition.train.recipe import RunContext
from tuition.train.recipes.demo import demo_recipe, demo_settings
from tuition.train.recipes.pretrain import Prepared, Pretrain
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.pretrain_sizes import complete
from tuition.train.samples import Drawing, write_sample
from tuition.train.schedule import BudgetSpan, Span
from tuition.train.scoring import TokenBytes, beginnings, bits_per_byte, score_documents
from tuition.train.settings import TrainSettings
from tuition.train.state import TrainState

RESULTS = Path(__file__).parent / "results" / "sweep_demo.json"

DATA = DataSettings(demo="shakespeare", validation=VALIDATION_PLAYS)
TRAIN = replace(demo_settings("shakespeare", "4min"), budget=None)
BASE = replace(demo_recipe("shakespeare"), data=DATA)
Row = tuple[TrainSettings, PretrainSettings]


def taught(**changes: Any) -> Row:
    """The demo's settings with other settings of pretraining."""
    return TRAIN, replace(BASE, **changes)


def shaped(**changes: Any) -> Row:
    """The demo's settings with another shape."""
    return taught(shape=replace(BASE.shape, **changes))


def tuned(**changes: Any) -> Row:
    """The demo's settings with other optimizer settings."""
    return replace(TRAIN, optimizer=replace(TRAIN.optimizer, **changes)), BASE


ROWS: dict[str, Row] = {
    "demo": taught(),
    "random-weights": taught(first_weights="random"),
    "muon-lr-6e-3": tuned(muon_lr=6e-3),
    "muon-lr-2e-2": tuned(muon_lr=2e-2),
    "lr-5e-3": tuned(lr=5e-3),
    "lr-2e-2": tuned(lr=2e-2),
    "adamw-lr-3e-3": tuned(kind="adamw", lr=3e-3),
    "weight-decay-0.3": tuned(weight_decay=0.3),
    "batch-2": taught(batch_size=2),
    "batch-8": taught(batch_size=8),
    "seq-256": taught(batch_size=8, seq_len=256),
    "seq-1024": taught(batch_size=2, seq_len=1_024),
    "vocab-1024": taught(vocab_size=1_024),
    "vocab-4096": taught(vocab_size=4_096),
    "wide-192": shaped(hidden_size=192, num_heads=3, num_kv_heads=3, mlp_size=512),
    "deep-6": shaped(num_layers=6),
    "kv-heads-1": shaped(num_kv_heads=1),
    "tied-head": shaped(tied_head=True),
    "no-qk-norm": shaped(qk_norm=False),
}
"""The demo's settings and, beside them, one choice changed at a time."""


def prepare(
    settings: PretrainSettings, tokenizers: dict[int, Tokenizer], data: Path
) -> tuple[Tokenizer, Corpus]:
    """The tokenizer of this vocabulary, learned from the taught plays, and the corpus in its tokens."""
    size = complete(settings).vocab_size
    if size not in tokenizers:
        tokenizers[size] = train_bpe(sample_texts(settings.data), size)
    return tokenizers[size], prepare_corpus(settings.data, tokenizers[size], data, SilentProgress())


def context_of(settings: TrainSettings, rows: int, workspace: Workspace) -> RunContext:
    """As `tuition train` makes it; nothing is written into the run's folder."""
    device = choose_device("cpu")
    folder = RunFolder(workspace.runs / "sweep")
    pool = ThreadPool.for_rows(rows, torch.get_num_threads(), device)
    precision = choose_precision(settings.precision, device)
    return RunContext(settings, folder, workspace, SilentProgress(), device, precision, pool, ALONE)


def run(row: Row, tokenizer: Tokenizer, corpus: Corpus, span: Span) -> dict[str, Any]:
    """Teach once and score on the validation text."""
    train, settings = row
    sizes = complete(settings)
    context = context_of(train, sizes.batch_size, open_workspace())
    seed_all(train.seed)
    task = Pretrain(settings).build(context, Prepared(sizes, STANDARD_EVALUATION, tokenizer, corpus))
    state = TrainState.fresh(task.model, train, context.device, context.precision, context.pool)
    cpu, wall, flops = time.process_time(), time.monotonic(), 0
    losses: list[float] = []
    for record in fit(state, task, train, span, open_meter(detect_machine())):
        losses.append(record.loss)
        flops += record.flops
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    validation = corpus.validation
    if validation is None:
        raise RuntimeError("the corpus has no validation text")
    documents = [validation.document(index) for index in range(validation.info.num_documents)]
    tokens = TokenBytes.of(tokenizer)
    scores = score_documents(
        task.model,
        beginnings(documents, tokens, 150_000),
        tokens,
        window=sizes.seq_len,
        stride=sizes.seq_len // 2,
        precision=state.precision,
    )
    sample = write_sample(task.model, tokenizer, "", Drawing(120), state.precision)
    score = bits_per_byte(scores, "held-out bits per byte", "the beginnings of the documents")
    return {
        "bits_per_byte": round(score.value, 4),
        "stderr": None if score.stderr is None else round(score.stderr, 4),
        "last_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4),
        "parameters": num_parameters(task.model.shape),
        "steps": state.step,
        "tokens": state.num_units,
        "taught_tokens_in_corpus": corpus.num_tokens,
        "training_flops": flops,
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "tokens_per_cpu_s": round(state.num_units / cpu),
        "tokens_per_s": round(state.num_units / wall),
        "skipped": state.guard.skipped,
        "sample": sample,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--cpu-seconds", type=float, default=120.0, help="of the process, taught in each row")
    parser.add_argument("--minutes", type=float, help="teach by the clock instead; needs a quiet machine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    set_threads(chosen.threads)
    process = prepare_process()
    data = open_workspace().create().data
    tokenizers: dict[int, Tokenizer] = {}
    for name in chosen.rows:
        row = ROWS[name]
        tokenizer, corpus = prepare(row[1], tokenizers, data)
        if chosen.minutes is not None:
            span, length = BudgetSpan(chosen.minutes * 60), f"{chosen.minutes:g} min"
        else:  # fair on a machine that others use too
            span = BudgetSpan(chosen.cpu_seconds, clock=time.process_time)
            length = f"{chosen.cpu_seconds:g} CPU seconds"
        result = run(row, tokenizer, corpus, span)
        key = f"{name}, {length}"
        found = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": {}}
        found["rows"][key] = {
            **result,
            "threads": chosen.threads,
            "process": process,
            "torch": torch.__version__,
            "capability": describe_machine()["cpu_capability"],
            "processor": detect_machine().name,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "settings": to_table(row[0]) | to_table(row[1]),
        }
        write_json(chosen.out, found)
        quality = f"{result['bits_per_byte']:.4f} bits/byte  {result['parameters'] / 1e6:5.1f} M parameters"
        speed = f"{result['tokens_per_cpu_s']:6} tokens per CPU second  {result['wall_s']:.0f} s"
        print(f"{key:34} {quality}  {result['steps']:5} steps  {speed}", flush=True)


if __name__ == "__main__":
    main()
