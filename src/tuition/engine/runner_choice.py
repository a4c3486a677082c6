"""Which runner executes a model here, and why.

In: a model's shape and the settings.  Out: a choice with its reason, and the runner itself.
"""

import importlib
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from tuition.core.errors import SettingsError
from tuition.core.progress import Progress, SilentProgress
from tuition.engine.batch import Runner
from tuition.engine.settings import EngineSettings
from tuition.model.folder import ModelFolder
from tuition.runtime.cores import device_kind
from tuition.spec.shape import ModelShape


@dataclass(frozen=True)
class RunnerChoice:
    """The runner to use, and the reason in words."""

    kind: Literal["torch", "native"]
    reason: str
    is_fallback: bool = False
    """Slower than this processor can, for want of the kernels: worth telling, though nothing failed."""


def choose_runner(shape: ModelShape, settings: EngineSettings) -> RunnerChoice:
    """Native where it computes this model, else torch. Raises: SettingsError for a wish that fails."""
    if settings.runner == "torch":
        return RunnerChoice("torch", "the torch runner was asked for")
    refusal = _native_refusal(shape, settings)
    if settings.runner == "native":
        if refusal is not None:
            raise SettingsError("runner", got="native", wanted=f"torch or auto here: {refusal}")
        return RunnerChoice("native", "the native runner was asked for")
    if refusal is not None:
        if settings.precision in ("int8", "int4"):
            raise SettingsError(
                "precision",
                got=settings.precision,
                wanted=f"float32, bf16 or auto here: int8 and int4 need the native runner, but {refusal}",
            )
        return RunnerChoice("torch", refusal, is_fallback=device_kind(settings.device) == "cpu")
    return RunnerChoice("native", "tuition_kernels is installed and computes this model")


def _native_refusal(shape: ModelShape, settings: EngineSettings) -> str | None:
    """Why the native runner cannot be used, or None."""
    if settings.device in ("cuda", "mps"):
        return f"the native runner computes on the CPU, and device {settings.device} was asked for"
    if settings.device == "auto" and (kind := device_kind("auto")) != "cpu":
        return f"there is a {kind} device, which the native runner does not use (device cpu does)"
    if importlib.util.find_spec("tuition_kernels") is None:
        return "tuition_kernels is not installed (make setup builds it where there is a compiler)"
    try:
        native = _native()
    except ImportError as error:
        return f"tuition_kernels cannot be loaded: {error}"
    return native.refusal(shape, settings)


def _native() -> ModuleType:
    """`native_runner`, which needs the optional `tuition_kernels`."""
    return importlib.import_module("tuition.engine.native_runner")


def start_runner(
    folder: ModelFolder, settings: EngineSettings, progress: Progress | None = None
) -> Callable[[], tuple[Runner, RunnerChoice]]:
    """`open_runner` beside the caller's own work; the result is waited for when it is asked for.

    Only the native runner loads in a separate thread: it reads and checks a large file, for which the
    interpreter is not needed. torch sets some things for the thread that calls it.
    """
    choice = choose_runner(folder.shape, settings)
    opened: Future[tuple[Runner, RunnerChoice]] = Future()

    def load() -> None:
        try:
            opened.set_result(open_runner(folder, settings, progress, choice))
        except BaseException as error:
            opened.set_exception(error)

    if choice.kind == "torch":
        return lambda: open_runner(folder, settings, progress, choice)
    threading.Thread(target=load, name="load weights", daemon=True).start()  # Ctrl-C does not wait for it
    return opened.result


def open_runner(
    folder: ModelFolder,
    settings: EngineSettings,
    progress: Progress | None = None,
    choice: RunnerChoice | None = None,
) -> tuple[Runner, RunnerChoice]:
    """Load the model into the chosen runner. Raises: SettingsError, CapacityError, ModelError."""
    progress = progress or SilentProgress()
    choice = choice or choose_runner(folder.shape, settings)
    (progress.say if choice.is_fallback else progress.detail)(f"{choice.kind} runner: {choice.reason}")
    if choice.kind == "native":
        return _native().NativeRunner.load(folder, settings, progress), choice
    torch_runner = importlib.import_module("tuition.engine.torch_runner")
    return torch_runner.TorchRunner.load(folder, settings, progress), choice
