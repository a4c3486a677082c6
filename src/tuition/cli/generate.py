"""`tuition generate`: answer or continue one prompt, or every line of a file into another file."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.cli.sampling import SamplingOptions
from tuition.core.errors import SettingsError
from tuition.core.progress import Progress
from tuition.core.workspace import open_workspace
from tuition.engine.settings import EngineSettings
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.core.request_record import RequestCost
    from tuition.desk.engine import Engine

DESCRIPTION = """Answer one prompt, or every line of a .jsonl file. Replies are billed like the server's.

Examples:
  tuition generate smollm2-135m-instruct "What is the capital of France? Answer in one sentence."
  tuition generate bard "HAMLET." --max-tokens 100
  tuition generate bard --prompts prompts.jsonl --out replies.jsonl"""


@dataclass(frozen=True, kw_only=True)
class Generate(Common):
    """What `tuition generate` takes."""

    model: tyro.conf.Positional[str]
    """Name, name@version, folder or GGUF file."""
    prompt: Annotated[str | None, tyro.conf.Positional] = None
    """A message for a chat model, a text to continue for any other; - reads it from standard input. Give this
    or --prompts."""
    raw: tyro.conf.FlagCreatePairsOff[bool] = False
    """Continue the prompt as plain text, also with a chat model."""
    chat: tyro.conf.FlagCreatePairsOff[bool] = False
    """Refuse a model that has no chat template."""
    prompts: Path | None = None
    """.jsonl file, one object per line: messages, or prompt for a text to continue; if wanted id, max_tokens,
    temperature, ..."""
    out: Path | None = None
    """.jsonl file for the replies; after an interruption the same command continues the file."""
    max_tokens: int | None = None
    """Most tokens of a reply. Default: what fits the context, at most 256."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply and are not part of it."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How the next token is chosen; a missing option has the model's own default."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Always show the runner, the number format and the cache size; without it, only if loading is slow."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How the model runs."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""

    def __post_init__(self) -> None:
        if self.print_settings:
            return
        if (self.prompt is None) == (self.prompts is None):
            raise SettingsError(
                "prompt", got=self.prompt, wanted="a text, or --prompts with a file, not both"
            )
        if (self.prompts is None) != (self.out is None):
            raise SettingsError("out", got=self.out, wanted="a file together with --prompts, nothing without")
        for name in ("raw", "chat"):
            if getattr(self, name) and self.prompts is not None:
                raise SettingsError(
                    f"--{name}",
                    got=True,
                    wanted="no --prompts; in a file, each line has prompt or messages",
                )


def run(argv: list[str]) -> int:
    """Generate; 1 if a reply or a line of the file failed, 130 after Ctrl-C."""
    arguments = parse(Generate, argv, verb="generate", description=DESCRIPTION)
    if arguments.raw and arguments.chat:
        raise SettingsError("--raw", got=True, wanted="--raw or --chat, not both")
    from tuition.books.books import open_books
    from tuition.cli.terminal import HeldBack, open_progress
    from tuition.desk.engine import Engine

    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(arguments.engine.device, arguments.machine, workspace)
    progress = open_progress() if arguments.verbose else HeldBack(open_progress())
    with (
        open_books(workspace) as books,
        Engine(
            arguments.model,
            workspace=workspace,
            books=books,
            machine=machine,
            settings=arguments.engine,
            progress=progress,
        ) as engine,
    ):
        if arguments.prompts is None:
            return one_prompt(arguments, engine)
        return whole_file(arguments, engine, progress)


def fields_of(arguments: Generate) -> dict[str, Any]:
    """The settings that were given, as the engine takes them; a line of a file may set the others."""
    fields = arguments.sampling.given()
    if arguments.max_tokens is not None:
        fields["max_tokens"] = arguments.max_tokens
    if arguments.stop:
        fields["stop"] = arguments.stop
    return fields


def one_prompt(arguments: Generate, engine: "Engine") -> int:
    """Stream one reply to stdout, its cost to stderr; Ctrl-C ends it, and what was generated is billed."""
    from tuition.cli.cost_line import line_of
    from tuition.cli.streaming import cancelled_by_ctrl_c, show
    from tuition.engine.request import complete

    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt or ""
    has_chat = engine.tokenizer.chat is not None
    if arguments.chat and not has_chat:
        raise SettingsError(
            "--chat", got=True, wanted="a model with a chat template; this one continues text"
        )
    as_message = has_chat and not arguments.raw
    prompt = engine.encode([{"role": "user", "content": text}] if as_message else text)
    request = engine.request(prompt, priority="interactive", **fields_of(arguments))
    service = engine.service()
    try:
        stream = service.submit(request)
        events = []
        with cancelled_by_ctrl_c(stream):
            for event in stream:
                events.append(event)
                show(event.text)
    finally:
        service.stop()
    completion = complete(events)
    cost = engine.desk.settle(completion)
    print(flush=True)
    form = " · as a chat message (--raw: as plain text)" if as_message else ""
    print(f"[{line_of(completion, cost)}{'' if arguments.chat else form}]", file=sys.stderr)
    return {"error": 1, "cancelled": 130}.get(completion.finish_reason, 0)


def bill_fields(cost: "RequestCost") -> dict[str, Any]:
    """Cost of a reply, as fields of its line."""
    return {
        "cost_usd": cost.total.usd,
        "energy_wh": cost.total.energy_wh,
        "energy_method": cost.energy_method,
    }


def whole_file(arguments: Generate, engine: "Engine", progress: Progress) -> int:
    """Answer every line of the file."""
    from tuition.engine.offline import generate_file
    from tuition.ledger.render import totals_line

    if arguments.prompts is None or arguments.out is None:
        raise SettingsError("prompts", got=arguments.prompts, wanted="a file, and --out")
    report = generate_file(
        engine,
        arguments.prompts,
        arguments.out,
        progress=progress,
        bill_of=lambda request_id: bill_fields(engine.cost_of(request_id)),
        **fields_of(arguments),
    )
    print(
        f"{report.num_done:,} replies written to {arguments.out}, {report.num_reused:,} were there, "
        f"{report.num_failed:,} failed; {report.num_prompt_tokens:,} tokens read, "
        f"{report.num_generated:,} generated; {totals_line(engine.desk.spent.total)}",
        file=sys.stderr,
    )
    return 1 if report.num_failed else 0
