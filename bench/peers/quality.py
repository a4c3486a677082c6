"""How far each of our precisions is from bf16 on a text: perplexity and KL divergence, over whole logits.

In: a `Task` whose model is opened by us.  Out: one row per precision. The protocol is llama-perplexity's, so
that the figures stand beside its own: windows of equal length without overlap, a beginning-of-text token in
place of the first where the tokenizer adds one, and only the second half of each window is scored.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import task as protocol
from task import Answer, Task

from tuition.engine.batch import Runner, StepBatch
from tuition.engine.runner_choice import open_runner
from tuition.engine.settings import EngineSettings
from tuition.model.folder import open_model

BASE = "bf16"


def measure(task: Task) -> Answer:
    """One row for each of `options.precisions`, and one for bf16."""
    folder = open_model(task.model)
    window, chunks = int(task.options["window"]), int(task.options["chunks"])
    tokenizer = folder.tokenizer()
    ids = np.array(
        tokenizer.encode(Path(task.options["text"]).read_text(), add_bos=tokenizer.add_bos), np.int32
    )
    windows = [ids[at : at + window].copy() for at in range(0, len(ids) - window + 1, window)][:chunks]
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        for each in windows:
            each[0] = tokenizer.bos_id
    names = [BASE, *(name for name in task.options["precisions"] if name != BASE)]
    runners = {name: _open(task, name) for name in names}
    loss, divergence, agree = ({name: [] for name in names} for _ in range(3))
    for each in windows:
        base = None
        for name, runner in runners.items():
            logs = log_probabilities(forward(runner, each))
            base = logs if base is None else base
            targets = each[window // 2 + 1 :]
            loss[name] += (-logs[np.arange(len(targets)), targets]).tolist()
            divergence[name] += (np.exp(base) * (base - logs)).sum(axis=1).tolist()
            agree[name] += (base.argmax(axis=1) == logs.argmax(axis=1)).tolist()
    rows = [
        quality_row(name, loss[name], loss[BASE], divergence[name], agree[name], len(windows), window)
        for name in names
    ]
    return Answer(
        rows, {"runners": {name: runner.name for name, runner in runners.items()}, "tokens": len(ids)}
    )


def _open(task: Task, precision: str) -> Runner:
    settings = EngineSettings(precision=precision, threads=task.threads, max_batch=1,
                              token_budget=int(task.options["window"]))  # fmt: skip
    return open_runner(open_model(task.model), settings)[0]


def forward(runner: Runner, ids: np.ndarray) -> np.ndarray:
    """Logits that predict the second half of a window: (window / 2 - 1, vocab) float32."""
    size = len(ids)
    blocks = -(-size // runner.block_size)
    batch = StepBatch(
        token_ids=ids,
        positions=np.arange(size, dtype=np.int32),
        starts=np.array([0, size], np.int32),
        context_lengths=np.zeros(1, np.int32),
        block_tables=np.arange(blocks, dtype=np.int32)[None],
        logit_rows=np.arange(size // 2, size - 1, dtype=np.int32),
    )
    return runner.forward(batch)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the softmax, (rows, vocab) float64."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def quality_row(
    precision: str, loss: list[float], base: list[float], divergence: list[float], agree: list[bool],
    chunks: int, window: int,
) -> dict[str, Any]:  # fmt: skip
    """Means over all scored tokens, and the standard errors of the two differences."""
    ratio = np.array(loss) - np.array(base)
    count = math.sqrt(len(loss))
    return {
        "what": "quality", "precision": precision, "window": window, "chunks": chunks, "tokens": len(loss),
        "perplexity": math.exp(np.mean(loss)), "log_ratio": float(np.mean(ratio)),
        "log_ratio_stderr": float(np.std(ratio) / count), "kl": float(np.mean(divergence)),
        "kl_stderr": float(np.std(divergence) / count), "same_top": float(np.mean(agree)),
    }  # fmt: skip


if __name__ == "__main__":
    protocol.main(measure)
