"""`tuition serve`: answer over HTTP with the OpenAI protocol, and show the chat page."""

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from tuition.cli.arguments import Common, Flat, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import TuitionError
from tuition.core.workspace import open_workspace
from tuition.engine.settings import EngineSettings
from tuition.serve.settings import ServeSettings
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.registry.registry import Registry

DESCRIPTION = """Answer over HTTP (OpenAI protocol), with a chat page. Every reply is billed before it ends.

Examples:
  tuition serve                                   the model that was made or added last
  tuition serve bard smollm2-135m-instruct        two models, at http://127.0.0.1:8000
  tuition serve smollm2 --adapters support,legal  a model and two adapters of it, by name
  TUITION_API_KEY=... tuition serve --host 0.0.0.0"""
NOTHING_TO_SERVE = (
    "no model was named and the workspace has none; teach one (tuition train, tuition demo), register one "
    "(tuition models add NAME PATH), or name a folder or GGUF file (tuition serve PATH)"
)


@dataclass(frozen=True, kw_only=True)
class Serve(Common):
    """What `tuition serve` takes."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names, name@version, folders or GGUF files. Default: the model that was made or added last."""
    adapters: tuple[str, ...] = ()
    """Registered adapters (name or name@version) of these models, with commas or spaces between."""
    serve: Annotated[ServeSettings, Flat] = field(default_factory=ServeSettings)
    """Where to listen, and limits."""
    page: bool = True
    """Show the chat page at /."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How the models run."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""


def run(argv: list[str]) -> int:
    """Serve until Ctrl-C or SIGTERM, then let replies under way end."""
    arguments = parse(Serve, argv, verb="serve", description=DESCRIPTION)
    from tuition.books.books import open_books
    from tuition.cli.terminal import open_progress
    from tuition.registry.registry import Registry
    from tuition.serve.app import create_app
    from tuition.serve.context import ServeContext
    from tuition.serve.served import open_served
    from tuition.serve.server import bind, run_server
    from tuition.serve.settings import check_exposure, read_api_key

    check_exposure(arguments.serve, read_api_key())
    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(arguments.engine.device, arguments.machine, workspace)
    with open_books(workspace) as books:
        references = arguments.models or (latest(Registry(workspace, books)),)
        listener = bind(arguments.serve)  # before the minutes that loading may take
        with open_served(
            references,
            adapters=[name for part in arguments.adapters for name in part.split(",") if name],
            workspace=workspace,
            books=books,
            machine=machine,
            settings=arguments.engine,
            progress=open_progress(),
        ) as served:
            context = ServeContext(models=served, books=books, settings=arguments.serve)
            app = create_app(context)
            if arguments.page:
                from tuition.studio.chat import mount_studio

                mount_studio(app, context)
            run_server(
                context,
                app=app,
                listener=listener,
                on_ready=lambda url: announce(url, list(served), arguments),
            )
    print("stopped; everything that was generated is in the books (tuition bill)", file=sys.stderr)
    return 0


def latest(registry: "Registry") -> str:
    """The model that was made or added last. Raises: TuitionError when there is none."""
    versions = registry.list()
    if not versions:
        raise TuitionError(NOTHING_TO_SERVE)
    return max(versions, key=lambda version: version.created_unix_ns).reference


def announce(url: str, names: list[str], arguments: Serve) -> None:
    """Where it listens, one line each; flushed, so that a parent process can wait for it."""
    print(f"serving {', '.join(names)} at {url}/v1", flush=True)
    if arguments.page:
        print(f"chat page: {url}/", flush=True)
    key = "with the key in TUITION_API_KEY" if os.environ.get("TUITION_API_KEY") else "this machine only"
    print(f"access: {key}; Ctrl-C stops", flush=True)
