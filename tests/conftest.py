"""What every test stands on: nothing leaves the machine, slow tests wait for --full, skips are loud."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge import Forge
from postgresql_server import PostgresServer
from postgresql_server import missing as missing_postgres
from small_disk import LimitedFiles, SmallDisk
from tuition.books.books import open_books
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.shape import ModelShape

TESTS = Path(__file__).resolve().parent
OFFLINE = TESTS / "offline"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NUM_THREADS = "2"
"""The suite is written for two cores; more threads change the order of sums, not what is true."""

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_WAIT_POLICY="PASSIVE",  # as the command line has it: see cli/main
    NO_PROXY="127.0.0.1,localhost",
)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, NUM_THREADS)
for variable in ("TUITION_API_KEY", "TUITION_DATABASE_URL"):
    os.environ.pop(variable, None)


PLANTED = (" planted.invalid", " 192.0.2.1")
"""Where the tests of the watch itself try to go."""
SCRATCH = Path(tempfile.mkdtemp(prefix="tuition-suite-"))
os.environ["TUITION_HOME"] = str(SCRATCH / "home")  # a test that forgets its workspace never meets the user's


def arm_offline() -> Path:
    """Watch this process and every Python child; returns the file where attempts are written."""
    log = SCRATCH / "attempts"
    log.touch()
    os.environ["TUITION_OFFLINE_LOG"] = str(log)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
    spec = importlib.util.spec_from_file_location("offline_watch", OFFLINE / "sitecustomize.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["offline_watch"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return log


OFFLINE_LOG = arm_offline()


def find_chromium() -> str | None:
    """A Chromium to drive: $TUITION_CHROMIUM, or the distribution's."""
    named = os.environ.get("TUITION_CHROMIUM")
    return named or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def find_gpu() -> bool:
    """Whether torch sees a CUDA device; torch is imported only when a GPU test was collected."""
    import torch

    return torch.cuda.is_available()


def pytest_runtest_teardown() -> None:
    """Training lets the smallest floats count as zero, for its whole process; the next test has them back."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the slow tests too, in their full sizes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips: dict[str, pytest.MarkDecorator] = {}
    if not config.getoption("--full"):
        skips["slow"] = pytest.mark.skip(reason="slow: run with make test-full")
    if find_chromium() is None:
        skips["browser"] = pytest.mark.skip(reason="no Chromium found (set TUITION_CHROMIUM to its path)")
    if any(item.get_closest_marker("postgresql") for item in items) and (why := missing_postgres()):
        skips["postgresql"] = pytest.mark.skip(reason=why)
    if any(item.get_closest_marker("gpu") for item in items) and not find_gpu():
        skips["gpu"] = pytest.mark.skip(reason="no GPU found")
    counts = dict.fromkeys(skips, 0)
    for item in items:
        for mark, skip in skips.items():
            if item.get_closest_marker(mark):
                item.add_marker(skip)
                counts[mark] += 1
    config.stash[SKIPPED] = counts


SKIPPED = pytest.StashKey[dict[str, int]]()


REQUIRED = {"browser": "TUITION_REQUIRE_BROWSER", "postgresql": "TUITION_REQUIRE_POSTGRES"}
"""Marks of tests whose skipping is a failure where the variable is set."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    counts = session.config.stash.get(SKIPPED, {})
    missed = any(counts.get(mark) and os.environ.get(variable) for mark, variable in REQUIRED.items())
    if session.exitstatus == pytest.ExitCode.OK and (attempts() or missed):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(SKIPPED, {})
    say = terminalreporter.write_line
    if missed := counts.get("browser", 0):
        required = os.environ.get("TUITION_REQUIRE_BROWSER")
        say(f"BROWSER TESTS SKIPPED: {missed}, no Chromium was found", red=bool(required), yellow=True)
    if missed := counts.get("postgresql", 0):
        required = os.environ.get("TUITION_REQUIRE_POSTGRES")
        why = missing_postgres()
        say(f"POSTGRESQL TESTS SKIPPED: {missed}, {why}", red=bool(required), yellow=True)
    if missed := counts.get("slow", 0):
        say(f"slow tests left out: {missed} (make test-full runs them)")
    tried = attempts()
    say(f"offline: {len(tried)} attempts to leave this machine", red=bool(tried))
    for line in tried:
        say(f"  {line}", red=True)


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


def attempts() -> list[str]:
    """Attempts to leave the machine, by any process of the suite, the planted ones left out."""
    if not OFFLINE_LOG.exists():
        return []
    return [line for line in OFFLINE_LOG.read_text().splitlines() if not line.endswith(PLANTED)]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium that browser tests drive."""
    return find_chromium() or pytest.skip("no Chromium found")


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Starts programs in processes of their own without paying for their imports."""
    forge = Forge()
    yield forge
    forge.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; it does not sync, since no test cuts its power."""
    server = PostgresServer("-cfsync=off", "-cfull_page_writes=off")
    yield server
    server.remove()


@pytest.fixture
def empty_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database of the test's own."""
    name = f"t{uuid.uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name}")
    yield postgres.url_of(name)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> str:
    """The name of a database with the newest schema."""
    postgres.sql("CREATE DATABASE migrated")
    open_books(Workspace(SCRATCH / "none"), postgres.url_of("migrated")).close()
    return "migrated"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test twice: its books are in SQLite, then in PostgreSQL, in tables without rows."""
    if request.param == "postgresql":
        server, name = (request.getfixturevalue(what) for what in ("postgres", "migrated_database"))
        server.empty(name)
        monkeypatch.setenv("TUITION_DATABASE_URL", server.url_of(name))
    return request.param


@pytest.fixture(params=["tmpfs", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk | LimitedFiles]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        made: SmallDisk | LimitedFiles = LimitedFiles(folder)
    else:
        try:
            made = SmallDisk(folder)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("mounting a tmpfs is not allowed here; the other form of this test ran")
    yield made
    made.remove()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace of its own, which is also the default one while the test runs."""
    monkeypatch.setenv("TUITION_HOME", str(tmp_path / "workspace"))
    return open_workspace().create()


@pytest.fixture(scope="session")
def tiny_shape() -> ModelShape:
    """The smallest network that has every part: grouped queries, two layers, an odd vocabulary."""
    return ModelShape(
        vocab_size=257,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_size=64,
        context_length=64,
    )
