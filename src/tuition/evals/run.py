"""Run a task on a model.  In: a `Task` and an engine.  Out: a `TaskResult`, one line per item.

Replies are greedy. Requests go through the engine like those of a user; the owner of the engine bills them.
Choices are scored as in lm-eval: the sum of the log-likelihoods of their tokens after the prompt, with prompt
and choice encoded as one text.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuition.core.errors import DataError, RequestError, SettingsError, TuitionError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.request_record import RequestCost
from tuition.engine.admission import require_room
from tuition.engine.engine import Engine
from tuition.engine.request import Completion, Request
from tuition.evals.function_process import FunctionProcess
from tuition.evals.judge import judged
from tuition.evals.result import CUT, ItemResult, TaskResult
from tuition.evals.task_file import Header, Item, Task
from tuition.tokenizer.tokenizer import Tokenizer

CostOf = Callable[[str], RequestCost | None]
"""Cost of a request by its id; None if requests are not billed."""


@dataclass(frozen=True)
class Respondent:
    """A loaded model that answers the items, and its name in the result."""

    engine: Engine
    cost_of: CostOf
    name: str
    digest: str | None = None
    variant: str | None = None
    """Name of a variant of the engine's weights; None: the engine's own, an adapter where one was opened."""


def run_task(task: Task, model: Respondent, progress: Progress | None = None) -> TaskResult:
    """Ask every item. Raises: SettingsError if the model cannot answer in the form of the task; DataError
    for an item that does not fit the context; RequestError for one on which the model fails."""
    check_form(task, model.engine.tokenizer)
    started = time.monotonic_ns()
    asked = [requests_of(task, item, model) for item in task.items]
    with ExitStack() as stack:
        function = stack.enter_context(FunctionProcess(*task.function)) if task.function else None
        bar = stack.enter_context((progress or SilentProgress()).task(task.name, len(asked), "items"))
        found: dict[int, ItemResult] = {}
        for index, replies in answers(model.engine, asked):
            item = task.items[index]
            found[index] = result_of(task.header, item, replies, model, function)
            bar.advance(1, f"{sum(each.right for each in found.values()):,} right")
    return TaskResult(
        task=task.name,
        kind=task.header.kind,
        task_digest=task.digest,
        model=model.name,
        model_digest=model.digest,
        method=f"greedy, {model.engine.runner.name}",
        wall_ns=time.monotonic_ns() - started,
        created_unix_ns=time.time_ns(),
        items=tuple(found[index] for index in range(len(asked))),
    )


def check_form(task: Task, tokenizer: Tokenizer) -> None:
    """Raises: SettingsError where a chat is asked of a model without a chat template."""
    if task.header.form == "chat" and tokenizer.chat is None:
        wanted = f"plain for this model, which has no chat template (header of {task.path})"
        raise SettingsError("task form", got="chat", wanted=wanted)


def requests_of(task: Task, item: Item, model: Respondent) -> list[Request]:
    """One request to generate, or one per choice to score. Raises: DataError."""
    header, engine = task.header, model.engine
    fields: dict[str, Any] = {"temperature": 0.0, "variant": model.variant or engine.default_variant}
    texts = [message.get("content") for message in messages_of(header, item)]
    try:
        require_room(
            engine.tokenizer, (*texts, max(item.choices, key=len, default="")), engine.context_length
        )
        if header.kind == "choice":
            scored = fields | {"max_tokens": 0, "prompt_logprobs": 0}
            return [engine.request(ids, **scored) for ids, _ in choice_ids(header, item, engine.tokenizer)]
        ids = prompt_ids(header, item, engine.tokenizer)
        return [engine.request(ids, max_tokens=header.max_tokens, stop=header.stop, **fields)]
    except TuitionError as error:
        raise DataError(
            task.path, f"item {item.id}: {error}", way_out="mend the item or the header"
        ) from error


def prompt_ids(header: Header, item: Item, tokenizer: Tokenizer) -> list[int]:
    """The prompt as the model reads it."""
    if header.form == "plain" and isinstance(item.prompt, str):
        return tokenizer.encode(item.prompt)
    return tokenizer.render_chat(messages_of(header, item), template_kwargs=header.chat_template_kwargs)


def messages_of(header: Header, item: Item) -> list[Mapping[str, Any]]:
    """The conversation before the reply."""
    if not isinstance(item.prompt, str):
        given = list(item.prompt)
    else:
        given = [{"role": "user", "content": item.prompt}]
    has_system = given[0]["role"] == "system"
    system = [] if header.system is None or has_system else [{"role": "system", "content": header.system}]
    return [*system, *given]


def choice_ids(header: Header, item: Item, tokenizer: Tokenizer) -> list[tuple[list[int], int]]:
    """For each choice the ids of prompt and choice, and how many of them are the prompt's.

    As lm-eval: spaces at the end of a plain prompt belong to the choice, and both are encoded as one text.
    """
    if header.form == "chat":
        prompt = prompt_ids(header, item, tokenizer)
        return [([*prompt, *tokenizer.encode(choice, add_bos=False)], len(prompt)) for choice in item.choices]
    text = str(item.prompt)
    begin = text.rstrip()
    num_begin = len(tokenizer.encode(begin))
    ends = (text[len(begin) :] + header.delimiter + choice for choice in item.choices)
    return [(tokenizer.encode(begin + end), num_begin) for end in ends]


def answers(engine: Engine, asked: Sequence[Sequence[Request]]) -> Iterator[tuple[int, list[Completion]]]:
    """The replies to each item, as items are finished. Raises: RequestError."""
    index_of = {request.id: index for index, requests in enumerate(asked) for request in requests}
    waiting = {index: {request.id: None for request in requests} for index, requests in enumerate(asked)}
    replies: dict[str, Completion] = {}
    every = [request for requests in asked for request in requests]
    for part in (every[:1], every[1:]):  # the first one fills the prefix cache for the others
        for reply in engine.run(part):
            index = index_of[reply.request_id]
            if reply.finish_reason == "error":
                raise RequestError(f"item {index + 1}", reply.error or "the model failed")
            replies[reply.request_id] = reply
            if all(request_id in replies for request_id in waiting[index]):
                yield index, [replies.pop(request_id) for request_id in waiting[index]]


def result_of(
    header: Header,
    item: Item,
    replies: Sequence[Completion],
    model: Respondent,
    function: FunctionProcess | None,
) -> ItemResult:
    """Judge the reply, or the log-likelihoods, of one item."""
    logprobs: tuple[float, ...] = ()
    note = CUT if replies[0].finish_reason == "length" else None
    if header.kind == "choice":
        begins = [begin for _, begin in choice_ids(header, item, model.engine.tokenizer)]
        logprobs = tuple(map(log_likelihood, replies, begins))
        chosen, note = most_likely(header, item, logprobs), None
        score, said = float(chosen == item.right), item.choices[chosen]
    else:
        said = replies[0].text
        score, problem = judged(header.kind, item, said, function)
        note = problem or note
    costs = [model.cost_of(reply.request_id) for reply in replies]
    known = [cost.total for cost in costs if cost is not None]
    energy = [total.energy_uj for total in known if total.energy_uj is not None]
    return ItemResult(
        id=item.id,
        score=score,
        reply=said,
        logprobs=logprobs,
        prompt_tokens=sum(reply.num_prompt_tokens for reply in replies),
        cached_tokens=sum(reply.num_cached_tokens for reply in replies),
        generated_tokens=sum(reply.num_generated for reply in replies),
        cost_nusd=sum(total.cost_nusd for total in known) if len(known) == len(costs) else None,
        energy_uj=sum(energy) if len(energy) == len(costs) else None,
        note=note,
    )


def log_likelihood(reply: Completion, begin: int) -> float:
    """Sum of the log-probabilities of the tokens from `begin` on, in nats."""
    told = (reply.prompt_logprobs or ())[begin:]
    return sum(token.logprob for token in told if token.logprob is not None)


def most_likely(header: Header, item: Item, logprobs: Sequence[float]) -> int:
    """The choice with the highest log-likelihood, per byte or character if the header says so; the
    first one if several are equal."""
    lengths = {
        "none": [1.0] * len(logprobs),
        "bytes": [float(len(choice.encode())) for choice in item.choices],
        "characters": [float(len(choice)) for choice in item.choices],
    }[header.normalize]
    return int(np.argmax(np.array(logprobs) / np.array(lengths)))
