"""A whole server over a tiny model: random weights and a real engine, or a script that says fixed texts.

Used by tests in this process (`tiny_context`), and as a program that prints its URL.
"""

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tuition.books.books import open_books
from tuition.core.records import SequenceWork, StepTrace
from tuition.core.workspace import open_workspace
from tuition.desk.desk import Bill, Desk, ModelIdentity
from tuition.engine.request import Request, Timing, TokenEvent, TokenLogprob
from tuition.engine.service import EngineService
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.serve.context import ServeContext, ServedModel
from tuition.serve.settings import ServeSettings
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "To be, or not to be, that is the question: the slings and arrows of outrageous fortune. " * 4
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_tokenizer(*, chats: bool = True, texts: Sequence[str] = ()) -> Tokenizer:
    """A few hundred pieces, every byte among them; with the words of `texts`."""
    size = 700 if texts else 320
    return train_bpe([TEXT, *texts], size, SPECIALS, chat_template=TEMPLATE if chats else None)


def tiny_shape(tokenizer: Tokenizer, context_length: int = 512) -> ModelShape:
    return ModelShape(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_size=64,
        context_length=context_length,
        tied_head=False,
    )


class ScriptedStream:
    """Says the tokens of one text, then ends; understands cancel, max_tokens and stop like the engine."""

    def __init__(self, service: "ScriptedService", request: Request, ids: Sequence[int]) -> None:
        self.service, self.request, self.ids = service, request, ids
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        service, request = self.service, self.request
        service.running += 1
        begin = time.monotonic_ns()
        decoder, first = service.tokenizer.stream(), None
        end, count = "stop", 0
        try:
            for position, token_id in enumerate(self.ids):
                await asyncio.sleep(service.pause_s)
                if self.cancelled:
                    end = "cancelled"
                    break
                now = time.monotonic_ns()
                first = first or now
                count += 1
                phase, new = ("prefill", len(request.prompt)) if position == 0 else ("decode", 1)
                context = 0 if position == 0 else len(request.prompt) + position
                work = SequenceWork(request.id, phase, new, context, 1)
                service.tell(now, work)
                if service.poison and service.poison in request.id:
                    end = "error"
                    break
                logprob = (
                    None if request.logprobs is None else TokenLogprob(token_id, -0.5, ((token_id, -0.5),))
                )
                if count >= request.max_tokens:
                    end = "length"
                if count >= request.max_tokens or position == len(self.ids) - 1:
                    yield self._event(token_id, decoder.push(token_id), count, logprob)
                    break
                yield self._event(token_id, decoder.push(token_id), count, logprob)
            timing = Timing(begin, begin, first, time.monotonic_ns())
            yield TokenEvent(
                request.id,
                (),
                decoder.finish(),
                finish_reason=end,
                num_prompt_tokens=len(request.prompt),
                num_generated=count,
                timing=timing,
                error="poisoned" if end == "error" else None,
            )
        finally:
            service.running -= 1

    def _event(self, token_id: int, text: str, count: int, logprob: TokenLogprob | None) -> TokenEvent:
        return TokenEvent(
            self.request.id,
            (token_id,),
            text,
            () if logprob is None else (logprob,),
            num_prompt_tokens=len(self.request.prompt),
            num_generated=count,
        )


class ScriptedService:
    """Stands in for EngineService: each request gets the next of the texts."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], pause_s: float) -> None:
        self.tokenizer, self.texts, self.pause_s = tokenizer, list(texts), pause_s
        self.on_trace: Callable[[StepTrace], None] = lambda trace: None
        self.requests: list[Request] = []
        self.streams: list[ScriptedStream] = []
        self.refusal: Exception | None = None
        self.poison = ""
        self.running = 0
        self._lock = threading.Lock()
        self._told_ns = 0

    def tell(self, now_ns: int, work: SequenceWork) -> None:
        """A step of a millisecond, or since the one before: steps of an engine do not overlap."""
        begun_ns, self._told_ns = max(self._told_ns, now_ns - 1_000_000), now_ns
        self.on_trace(StepTrace(begun_ns, now_ns, (work,)))

    def submit(self, request: Request) -> ScriptedStream:
        if self.refusal is not None:
            raise self.refusal
        with self._lock:
            text = self.texts[len(self.requests) % len(self.texts)]
            self.requests.append(request)
        stream = ScriptedStream(self, request, self.tokenizer.encode(text))
        self.streams.append(stream)
        return stream

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(num_waiting=0, num_running=self.running, state="running")

    def stop(self) -> None:
        pass


@dataclass(frozen=True)
class Script:
    """What models without a network say."""

    texts: Sequence[str]
    pause_s: float = 0.0
    """Before each token."""
    one_each: bool = False
    """Each model says one of the texts, else all of them in turn."""

    def of_model(self, index: int) -> Sequence[str]:
        return [self.texts[index % len(self.texts)]] if self.one_each else self.texts


def tiny_context(
    root: Path,
    *,
    script: Script | None = None,
    chats: bool = True,
    settings: ServeSettings | None = None,
    api_key: str | None = None,
    context_length: int = 512,
    names: Sequence[str] = ("tiny",),
) -> ServeContext:
    """A context to serve; with a `script` its models say that, without it they are networks."""
    workspace = open_workspace(root)
    machine, books = detect_machine(), open_books(workspace)
    models = {}
    for index, name in enumerate(names):
        with_chat = chats and not (index and name.endswith("base"))
        tokenizer = tiny_tokenizer(chats=with_chat, texts=script.texts if script else ())
        shape = tiny_shape(tokenizer, context_length)
        account = EngineAccount(shape, machine, open_meter(machine))
        if script is None:
            runner, service = random_network(shape, tokenizer, account)
            digest = runner.weights_digest()
        else:
            runner, digest = None, "0" * 64
            service = ScriptedService(tokenizer, script.of_model(index), script.pause_s)
            service.on_trace = account.add
        desk = Desk(books, account, ModelIdentity(name, 1))
        desk.serves(lambda digest=digest: digest)
        models[name] = ServedModel(
            desk=desk,
            service=service,
            tokenizer=tokenizer,
            shape=shape,
            weights_digest=digest,
            runner=runner,
        )
    return ServeContext(models, books, settings or ServeSettings(port=0), api_key)


def random_network(
    shape: ModelShape, tokenizer: Tokenizer, account: EngineAccount
) -> tuple[Any, EngineService]:
    """A real engine over random weights, always the same. Torch is loaded here: scripts start without it."""
    import torch

    from tuition.engine.torch_runner import TorchRunner
    from tuition.model.decoder import Decoder

    torch.manual_seed(7)
    engine = EngineSettings(max_batch=8, token_budget=256, device="cpu", threads=1)
    runner = TorchRunner(Decoder(shape), engine, num_blocks=256)
    return runner, EngineService(StepLoop(runner, tokenizer, engine), account.add)


def forget_to_wait(delay_s: float) -> None:
    """Plant a fault: replies end before their rows are committed. The kill test must find it."""
    settle_soon = Desk.settle_soon

    async def careless(*args: Any, **named: Any) -> Any:
        async def later() -> None:
            await asyncio.sleep(delay_s)
            await settle_soon(*args, **named)

        careless.tasks.append(asyncio.create_task(later()))
        return Bill(0, None, None)

    careless.tasks = []
    Desk.settle_soon = careless


def close_context(context: ServeContext) -> None:
    """Stop engines, close the books."""
    for model in context.models.values():
        model.service.stop()
    context.books.close()


def main() -> None:
    """Serve until a signal; the first line on stdout is the URL."""
    from tuition.serve.app import create_app
    from tuition.serve.server import run_server

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", action="append", type=Path, help="say the content of this file")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--model", action="append")
    parser.add_argument("--each", action="store_true", help="each model says one of the texts")
    parser.add_argument("--base", action="store_true", help="no chat template")
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--careless", action="store_true", help="plant a fault: do not wait for the books")
    parser.add_argument("--key")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--drain", type=float, default=5.0)
    parser.add_argument("--context", type=int, default=512)
    options = parser.parse_args()
    if options.careless:
        forget_to_wait(0.2)
    texts = [path.read_text(encoding="utf-8") for path in options.text or ()]
    context = tiny_context(
        options.folder,
        script=Script(texts, options.pause, options.each) if texts else None,
        chats=not options.base,
        api_key=options.key,
        settings=ServeSettings(port=options.port, drain_seconds=options.drain),
        names=options.model or ("tiny",),
        context_length=options.context,
    )
    app = create_app(context)
    if options.pages:
        from tuition.studio.chat import mount_studio

        mount_studio(app, context)
    try:
        run_server(context, app=app, on_ready=lambda url: print(url, flush=True))
    finally:
        close_context(context)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
