"""The transformers library's Trainer as a side of bench/training.py, with peft for LoRA, and a bare loop.

In: a task whose options name a file of rows (ids and labels, as tuition made them, so that all sides learn
the same tokens), a folder of the model or a config for fresh weights, and how long to teach.
Out: tokens, seconds in the loop, steps, the last loss; a model folder where `out` is named.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import task as protocol
import torch
import transformers
from task import Answer, Task
from torch import Tensor

IGNORED = -100


def read_rows(path: str) -> list[dict[str, list[int]]]:
    """Rows of JSON Lines with `ids`, and `labels` where not every token is taught."""
    with Path(path).open() as lines:
        return [json.loads(line) for line in lines]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """One batch, filled up on the right to the longest row, as Trainer's collators do it."""
    longest = max(len(row["ids"]) for row in rows)
    ids, labels, mask = [], [], []
    for row in rows:
        own = row.get("labels", row["ids"])
        rest = longest - len(row["ids"])
        ids.append(row["ids"] + [0] * rest)
        labels.append(own + [IGNORED] * rest)
        mask.append([1] * len(row["ids"]) + [0] * rest)
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def open_peer(task: Task) -> torch.nn.Module:
    """The model with the weights of a folder, or with fresh ones from a config; LoRA by peft if asked."""
    options = task.options
    torch.manual_seed(task.seed)
    if options.get("config") is not None:
        config = transformers.AutoConfig.for_model(**options["config"])
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    if options.get("lora") is not None:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **options["lora"])
        model = get_peft_model(model, settings)
    return model


class Clock(transformers.TrainerCallback):
    """Ends the run when its seconds are over, and keeps the time of each step."""

    def __init__(self, ends_at: float | None) -> None:
        self.ends_at, self.begin, self.end, self.loss = ends_at, 0.0, 0.0, math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.end = time.perf_counter()
        if self.ends_at is not None and time.time() >= self.ends_at:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)


def by_trainer(task: Task) -> Answer:
    """Trainer with its own loop, optimizer and collator; bf16 by its own switch."""
    options = task.options
    rows, model = read_rows(options["rows"]), open_peer(task)
    steps = options.get("steps") or 10**6
    arguments = transformers.TrainingArguments(
        output_dir=options["scratch"],
        max_steps=steps,
        per_device_train_batch_size=options["batch"],
        learning_rate=options["lr"],
        lr_scheduler_type=options.get("schedule", "linear"),
        warmup_steps=options.get("warmup", 0),
        weight_decay=0.0,
        bf16=options["bf16"],
        use_cpu=True,
        logging_steps=1 if steps < 1_000 else 50,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        seed=task.seed,
    )
    clock = Clock(options.get("ends_at"))
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=padded, callbacks=[clock]
    )
    transformers.logging.set_verbosity_error()
    trainer.train()
    done = trainer.state.global_step
    return answer(task, model, done, clock.end - clock.begin, clock.loss, rows)


def by_loop(task: Task) -> Answer:
    """A bare loop as small teaching repositories have it: AdamW, cosine schedule, clipping, autocast."""
    options = task.options
    rows, model = read_rows(options["rows"]), open_peer(task).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], betas=(0.9, 0.95), fused=True)
    steps, ends_at = options.get("steps"), options.get("ends_at")
    begin, started, done, loss = time.perf_counter(), time.time(), 0, torch.tensor(math.nan)
    for batch in batches(rows, options["batch"], task.seed):
        share = done / steps if steps else (time.time() - started) / max(1e-9, ends_at - started)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * max(
                0.1, min((done + 1) / 20, 0.5 * (1 + math.cos(math.pi * share)))
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1
    return answer(task, model, done, time.perf_counter() - begin, float(loss.detach()), rows)


def batches(rows: list[dict[str, list[int]]], size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Epoch after epoch in drawn order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield padded([rows[index] for index in order[start : start + size]])


def answer(
    task: Task, model: torch.nn.Module, steps: int, seconds: float, loss: float, rows: list[dict[str, Any]]
) -> Answer:
    """What was done; the model is saved where `out` is named."""
    mean = sum(len(row["ids"]) for row in rows) / len(rows)
    out = task.options.get("out")
    if out is not None:
        model.save_pretrained(out)
    row = {
        "what": "teach",
        "tokens": round(steps * task.options["batch"] * mean),
        "seconds": seconds,
        "steps": steps,
        "loss": loss,
    }
    return Answer([row], {"torch": torch.__version__, "transformers": transformers.__version__})


SIDES: dict[str, Callable[[Task], Answer]] = {"trainer": by_trainer, "loop": by_loop}


def measure(task: Task) -> Answer:
    torch.set_num_threads(task.threads)
    transformers.logging.set_verbosity_error()
    return SIDES[task.options["side"]](task)


if __name__ == "__main__":
    protocol.main(measure)
