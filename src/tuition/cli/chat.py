"""`tuition chat`: talk to a model in the terminal, through a running server or loaded here."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.workspace import open_workspace
from tuition.engine.settings import EngineSettings
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.cli.partners import Message, Partner

HELP = (
    "/new starts a new conversation, /help shows this, //text sends /text; Ctrl-C stops a reply; "
    "/quit or Ctrl-D ends."
)
ENDS = ("/quit", "/exit", "/bye")
"""Words that end a conversation, as in other programs of this kind."""

DEFAULT_URL = "http://127.0.0.1:8000"

DESCRIPTION = f"""Talk to a model, loaded here or behind a running `tuition serve`.

Examples:
  tuition chat smollm2-135m-instruct       load this model here
  tuition chat                             talk to the server at http://127.0.0.1:8000
  tuition chat bard --url http://HOST:80   talk to this model of that server

{HELP}"""


@dataclass(frozen=True, kw_only=True)
class Chat(Common):
    """What `tuition chat` takes."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Name, name@version, folder or GGUF file to load here; with --url: a model of that server. Default: the
    first model of the server."""
    url: str | None = None
    """The server to talk to. Default: http://127.0.0.1:8000 if no model is named. Its key is taken from
    TUITION_API_KEY."""
    system: str | None = None
    """System message: how the model should behave."""
    temperature: float | None = None
    """0 takes the most likely token, 1 draws from the model's own distribution. Default: the model's own
    default."""
    max_tokens: int | None = None
    """Most tokens of a reply. Default: the model's or the server's own limit."""
    seed: int | None = None
    """Makes replies repeatable."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Always show the runner, the number format and the size of the cache; else only if loading is slow."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How a model that is loaded here runs."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""

    @property
    def choices(self) -> dict[str, Any]:
        """What is sent with each turn."""
        values = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return {name: value for name, value in values.items() if value is not None}


def run(argv: list[str]) -> int:
    """Talk until the end of input."""
    arguments = parse(Chat, argv, verb="chat", description=DESCRIPTION)
    with open_partner(arguments) as partner:
        talk(partner, arguments)
    return 0


def talk(partner: "Partner", arguments: Chat) -> None:
    """Read turns, print replies."""
    interactive = sys.stdin.isatty()
    opening: list[Message] = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages = list(opening)
    if interactive:
        kind = "" if partner.has_chat else " (it has no chat template: it continues your text)"
        print(f"{partner.name}{kind}. {HELP}", file=sys.stderr)
    while True:
        try:
            text = input("\n> " if interactive else "").strip()
        except EOFError:
            if interactive:
                print(file=sys.stderr)  # what comes after has its own line
            return
        if text in ENDS:
            return
        if text == "/new":
            messages = list(opening)
        elif text == "/help":
            print(HELP, file=sys.stderr)
        elif text.startswith("/") and not text.startswith("//"):
            print(f"there is no {text.split()[0]}, and nothing was sent: {HELP}", file=sys.stderr)
        elif text:
            messages.append({"role": "user", "content": text.removeprefix("/")})
            messages.append({"role": "assistant", "content": partner.reply(messages)})
            if not partner.has_chat:
                messages = list(opening)


@contextlib.contextmanager
def open_partner(arguments: Chat) -> Iterator["Partner"]:
    """A model loaded here, or one of the server's."""
    if arguments.model is None or arguments.url is not None:
        from tuition.cli.partners import RemotePartner

        yield RemotePartner(arguments.url or DEFAULT_URL, arguments.choices, arguments.model)
        return
    from tuition.books.books import open_books
    from tuition.cli.partners import LocalPartner
    from tuition.cli.terminal import HeldBack, open_progress
    from tuition.desk.engine import Engine

    workspace = open_workspace(arguments.workspace).create()
    with (
        open_books(workspace) as books,
        Engine(
            arguments.model,
            workspace=workspace,
            books=books,
            machine=detect_for(arguments.engine.device, arguments.machine, workspace),
            settings=arguments.engine,
            progress=open_progress() if arguments.verbose else HeldBack(open_progress()),
        ) as engine,
        LocalPartner(engine, arguments.choices) as partner,
    ):
        yield partner
