"""Speed of one training step: ours against the transformers library's Qwen3 of the same shape, interleaved.

    python bench/train_step.py                 five rounds, every row; a few minutes on two quiet cores
    python bench/train_step.py --rounds 3 --threads 1

In: nothing; token ids are drawn, since speed does not depend on the text.
Both sides: the same shape, batch, precision, threads and process settings, gradients clipped to the same
norm. Peer: `Qwen3ForCausalLM` with its own loss, under the same autocast, taught by torch's fused AdamW; it
has no Muon, so that our AdamW stands beside it and our Muon is a row of its own. Further rows take our own
parts out one at a time: attention by `scaled_dot_product_attention`; a pool of one, which leaves it to torch
to split every operation among the cores.
Out: bench/results/train_step.json, and a table: tokens per second, medians, and ratios round by round.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tuition.core.durable import write_json
from tuition.data.loader import Batch
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.runtime.device import choose_precision, describe_machine, prepare_process, set_threads
from tuition.runtime.thread_pool import ThreadPool
from tuition.spec.machine import detect_machine
from tuition.train.losses import linear_cross_entropy
from tuition.train.recipes.demo import demo_recipe, demo_settings
from tuition.train.recipes.pretrain import next_token_loss
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.pretrain_sizes import complete
from tuition.train.settings import OptimizerSettings, rates_of
from tuition.train.state import TrainState
from tuition.train.step import train_step

RESULTS = Path(__file__).parent / "results" / "train_step.json"
Step = Callable[[], object]
Loss = Callable[[Decoder, Batch, float], Tensor]
TRAIN = demo_settings("shakespeare", "4min")


def fused_attention_loss(model: Decoder, batch: Batch, scale: float) -> Tensor:
    """The recipe's loss with torch's fused attention kernel instead of plain products."""
    hidden = model(batch.token_ids, DenseContext(batch.positions[:1]))
    return linear_cross_entropy(hidden, model.head_weight, batch.targets, scale)


def draw_batch(settings: PretrainSettings) -> Batch:
    """One batch of drawn tokens."""
    sizes = complete(settings)
    drawn = torch.randint(0, sizes.vocab_size, (sizes.batch_size, sizes.seq_len + 1))
    positions = torch.arange(sizes.seq_len).expand(sizes.batch_size, -1)
    ids = torch.arange(sizes.batch_size)
    return Batch(drawn[:, :-1], drawn[:, 1:], positions, None, drawn[:, 1:].numel(), ids.numpy())


def our_step(
    settings: PretrainSettings,
    batch: Batch,
    loss: Loss,
    optimizer: OptimizerSettings = TRAIN.optimizer,
    members: int | None = None,
) -> Step:
    """One call: one optimizer step of ours; `members`: of the pool, left out as `tuition train` has it."""
    device, sizes = torch.device("cpu"), complete(settings)
    threads = torch.get_num_threads()
    pool = ThreadPool(members, threads) if members else ThreadPool.for_rows(sizes.batch_size, threads, device)
    model = Decoder(sizes.model_shape(settings.shape, sizes.vocab_size)).initialize()
    train = replace(TRAIN, optimizer=optimizer)
    state = TrainState.fresh(model, train, device, choose_precision("auto", device), pool)
    bound = partial(loss, model)
    return lambda: train_step(state, [batch], bound, 1.0, optimizer.max_grad_norm)


def peer_step(settings: PretrainSettings, batch: Batch) -> Step:
    """One call: one optimizer step of the transformers library's Qwen3 under torch's AdamW."""
    sizes = complete(settings)
    shape = sizes.model_shape(settings.shape, sizes.vocab_size)
    config = transformers.Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=shape.tied_head,
        attn_implementation="sdpa",
    )
    model = transformers.Qwen3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rates_of(TRAIN.optimizer).lr, fused=True)
    precision = choose_precision("auto", torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", precision.dtype, enabled=precision.is_autocast):
            loss = model(input_ids=batch.token_ids, labels=batch.token_ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rows(settings: PretrainSettings) -> dict[str, Step]:
    """Every side, on the same batch."""
    batch = draw_batch(settings)
    adamw = replace(TRAIN.optimizer, kind="adamw")
    return {
        "transformers, AdamW": peer_step(settings, batch),
        "tuition, AdamW": our_step(settings, batch, next_token_loss, adamw),
        "tuition, Muon": our_step(settings, batch, next_token_loss),
        "tuition, Muon, fused attention": our_step(settings, batch, fused_attention_loss),
        "tuition, Muon, every operation on all cores": our_step(settings, batch, next_token_loss, members=1),
    }


def measure(sides: dict[str, Step], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of each side, round by round, after a warm-up."""
    for step in sides.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, step in sides.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def report(seconds: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """Tokens per second, and how many times the first side each one is."""
    first = next(iter(seconds.values()))
    return {
        name: {
            "tokens_per_s": round(tokens / statistics.median(values)),
            "times_the_first": round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 3),
            "seconds_per_step": [round(value, 5) for value in values],
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="in each round")
    parser.add_argument("--threads", type=int, help="left out: one per core")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    threads = set_threads(chosen.threads)
    process = prepare_process()
    settings = demo_recipe("shakespeare")
    sizes = complete(settings)
    torch.manual_seed(0)
    found = report(measure(rows(settings), chosen.rounds, chosen.steps), sizes.batch_size * sizes.seq_len)
    write_json(
        chosen.out,
        {
            "rows": found,
            "shape": vars(settings.shape),
            "batch_size": sizes.batch_size,
            "seq_len": sizes.seq_len,
            "vocab_size": sizes.vocab_size,
            "rounds": chosen.rounds,
            "steps_per_round": chosen.steps,
            "threads": threads,
            "process": process,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "capability": describe_machine()["cpu_capability"],
            "processor": detect_machine().name,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    )
    for name, row in found.items():
        print(f"{name:44} {row['tokens_per_s']:8,} tokens/s   {row['times_the_first']:.2f}x")


if __name__ == "__main__":
    main()
