"""`tuition generate`: continue one prompt as it comes, or every line of a file into another file."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import SettingsError
from tuition.core.progress import Progress
from tuition.core.workspace import open_workspace
from tuition.engine.request import Sampling
from tuition.engine.settings import EngineSettings
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.cli.billed import Biller

DESCRIPTION = """Answer one prompt, or every line of a .jsonl file. Replies are billed like the server's.

Examples:
  tuition generate smollm2-135m-instruct "What is the capital of France?"
  tuition generate bard "HAMLET." --max-tokens 100
  tuition generate bard --prompts prompts.jsonl --out replies.jsonl"""


@dataclass(frozen=True, kw_only=True)
class Generate(Common):
    """What `tuition generate` takes."""

    model: tyro.conf.Positional[str]
    """Name, name@version, folder or GGUF file."""
    prompt: Annotated[str | None, tyro.conf.Positional] = None
    """Text to continue; - reads it from standard input. Give this or --prompts."""
    chat: bool = False
    """The prompt is a user's message: answer it with the model's chat template."""
    prompts: Path | None = None
    """.jsonl file, one object per line: prompt or messages; if wanted id, max_tokens, temperature, ..."""
    out: Path | None = None
    """.jsonl file for the replies; stopped at any moment, a second run goes on where the first was."""
    max_tokens: int | None = None
    """Most tokens of a reply; left out: what fits the context, at most 256."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply and are not part of it."""
    sampling: Sampling = field(default_factory=Sampling)
    """How the next token is chosen."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Always say what computes, in which number format, and how large its cache is: else only where loading
    takes long."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How the model runs."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """What you know better about this machine and its price."""

    def __post_init__(self) -> None:
        if self.print_settings:
            return
        if (self.prompt is None) == (self.prompts is None):
            raise SettingsError(
                "prompt", got=self.prompt, wanted="a text, or --prompts with a file, not both"
            )
        if (self.prompts is None) != (self.out is None):
            raise SettingsError("out", got=self.out, wanted="a file together with --prompts, nothing without")
        if self.chat and self.prompts is not None:
            raise SettingsError("chat", got=True, wanted="one prompt; a line of a file has messages instead")


def run(argv: list[str]) -> int:
    """Generate; 1 if a line of the file failed."""
    arguments = parse(Generate, argv, verb="generate", description=DESCRIPTION)
    from tuition.books.books import open_books
    from tuition.cli.billed import Biller
    from tuition.cli.serving import open_one
    from tuition.cli.terminal import HeldBack, open_progress

    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(arguments.engine.device, arguments.machine, workspace)
    progress = open_progress() if arguments.verbose else HeldBack(open_progress())
    with (
        open_books(workspace) as books,
        open_one(
            arguments.model,
            workspace=workspace,
            books=books,
            machine=machine,
            settings=arguments.engine,
            progress=progress,
        ) as opened,
    ):
        biller = Biller(opened, books)
        if arguments.prompts is None:
            return one_prompt(arguments, biller)
        return whole_file(arguments, biller, progress)


def fields_of(arguments: Generate) -> dict[str, Any]:
    """The settings as the engine takes them; without those left at their default, which lines may set."""
    defaults, chosen = Sampling(), arguments.sampling
    fields = {
        name: getattr(chosen, name)
        for name in Sampling.__dataclass_fields__
        if getattr(chosen, name) != getattr(defaults, name)
    }
    if arguments.max_tokens is not None:
        fields["max_tokens"] = arguments.max_tokens
    if arguments.stop:
        fields["stop"] = arguments.stop
    return fields


def one_prompt(arguments: Generate, biller: "Biller") -> int:
    """Stream one reply to stdout, its cost to stderr; Ctrl-C ends it, and what was generated is billed."""
    from tuition.cli.partners import cancelled_by_ctrl_c, show
    from tuition.engine.request import complete
    from tuition.engine.service import EngineService

    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt or ""
    engine = biller.opened.engine
    if arguments.chat and engine.tokenizer.chat is None:
        raise SettingsError("chat", got=True, wanted="a model with a chat template; this one continues text")
    prompt = engine.encode([{"role": "user", "content": text}] if arguments.chat else text)
    request = engine.request(prompt, priority="interactive", **fields_of(arguments))
    service = EngineService(engine.loop, biller.opened.account.add)
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
    cost = biller.bill(completion)
    print(flush=True)
    print(f"[{biller.line(completion, cost)}]", file=sys.stderr)
    return {"error": 1, "cancelled": 130}.get(completion.finish_reason, 0)


def whole_file(arguments: Generate, biller: "Biller", progress: Progress) -> int:
    """Answer every line of the file."""
    from tuition.engine.offline import generate_file

    if arguments.prompts is None or arguments.out is None:
        raise SettingsError("prompts", got=arguments.prompts, wanted="a file, and --out")
    report = generate_file(
        biller.opened.engine,
        arguments.prompts,
        arguments.out,
        progress=progress,
        **fields_of(arguments),
    )
    print(
        f"{report.num_done:,} replies written to {arguments.out}, {report.num_reused:,} were there, "
        f"{report.num_failed:,} failed; {report.num_prompt_tokens:,} tokens read, "
        f"{report.num_generated:,} generated",
        file=sys.stderr,
    )
    return 1 if report.num_failed else 0
