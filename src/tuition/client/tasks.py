"""Run a task on a model behind an OpenAI-compatible server.  In: a `Task`.  Out: a `TaskResult`.

Replies are greedy; a server that tells what a reply has cost (ours does) gives the cost of each item.
"""

import asyncio
import time
from contextlib import ExitStack

from tuition.client.api import Api, Model
from tuition.client.errors import ClientError
from tuition.client.reply import Reply
from tuition.core.errors import SettingsError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.evals.function_process import FunctionProcess
from tuition.evals.judge import judged
from tuition.evals.result import CUT, ItemResult, TaskResult
from tuition.evals.run import messages_of
from tuition.evals.task_file import DEFAULT_MAX_TOKENS, Item, Task

AT_ONCE = 32
"""Requests that wait for their replies."""


async def ask_task(api: Api, model: Model, task: Task, progress: Progress | None = None) -> TaskResult:
    """Ask every item. Raises: SettingsError for choices, which need the model itself; ClientError."""
    if task.header.kind == "choice":
        wanted = "a kind whose reply is generated; choices are scored on a model of this machine"
        raise SettingsError("kind", got="choice", wanted=wanted)
    started, room = time.monotonic_ns(), asyncio.Semaphore(AT_ONCE)

    async def ask(item: Item) -> tuple[Item, Reply]:
        async with room:
            try:
                return item, await api.answer(*request_of(task, item, model))
            except ClientError as error:
                raise ClientError(f"item {item.id}: {error}", error.code) from error

    found: dict[str, ItemResult] = {}
    with ExitStack() as stack:
        function = stack.enter_context(FunctionProcess(*task.function)) if task.function else None
        bar = stack.enter_context((progress or SilentProgress()).task(task.name, len(task.items), "items"))
        asked = [asyncio.create_task(ask(item)) for item in task.items]
        try:
            for finished in asyncio.as_completed(asked):
                item, reply = await finished
                found[item.id] = result_of(task, item, reply, function)
                bar.advance(1, f"{sum(each.right for each in found.values()):,} right")
        finally:
            for each in asked:
                each.cancel()
    return TaskResult(
        task=task.name,
        kind=task.header.kind,
        task_digest=task.digest,
        model=model.name,
        model_digest=None,
        method="greedy, over HTTP",
        wall_ns=time.monotonic_ns() - started,
        created_unix_ns=time.time_ns(),
        items=tuple(found[item.id] for item in task.items),
    )


def request_of(task: Task, item: Item, model: Model) -> tuple[str, dict[str, object]]:
    """Path and body of the request."""
    header = task.header
    most = header.max_tokens or DEFAULT_MAX_TOKENS
    body: dict[str, object] = {"model": model.name, "temperature": 0, "max_tokens": most}
    if header.stop:
        body["stop"] = list(header.stop)
    if header.chat_template_kwargs is not None:
        body["chat_template_kwargs"] = header.chat_template_kwargs
    if header.form == "chat":
        return "/v1/chat/completions", body | {"messages": messages_of(header, item)}
    return "/v1/completions", body | {"prompt": item.prompt}


def result_of(task: Task, item: Item, reply: Reply, function: FunctionProcess | None) -> ItemResult:
    """Judge one reply."""
    score, problem = judged(task.header.kind, item, reply.text, function)
    cost = reply.cost
    energy_wh = None if cost is None else cost.energy_wh
    return ItemResult(
        id=item.id,
        score=score,
        reply=reply.text,
        logprobs=(),
        prompt_tokens=reply.num_prompt_tokens,
        cached_tokens=reply.num_cached,
        generated_tokens=reply.num_generated,
        cost_nusd=None if cost is None else round(cost.cost_usd * NUSD_PER_USD),
        energy_uj=None if energy_wh is None else round(energy_wh * UJ_PER_WH),
        note=problem or (CUT if reply.finish_reason == "length" else None),
    )
