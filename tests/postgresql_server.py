"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, no network.

The programs are looked for in $TUITION_POSTGRES_BIN, on PATH, and where Debian puts them. PostgreSQL refuses
to run as root: then it runs as `postgres` or `nobody`.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
LANGUAGE = ("--locale-provider=icu", "--icu-locale=en-US")
"""As most databases out there: sorts text by language where a column does not say otherwise."""


def find_programs() -> Path | None:
    """The folder with initdb and postgres, the newest version; None where they are not installed."""
    found = [Path(named)] if (named := os.environ.get("TUITION_POSTGRES_BIN")) else []
    if program := shutil.which("initdb"):
        found.append(Path(program).resolve().parent)
    found += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True
    )
    return next((path for path in found if (path / "initdb").exists() and (path / "postgres").exists()), None)


def missing() -> str | None:
    """Why no server can be started here; None if it can."""
    if find_programs() is None:
        return "PostgreSQL is not installed (set TUITION_POSTGRES_BIN to its programs)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    return None


class PostgresServer:
    """Start it, stop it, kill it, start it again; `url` stays the same."""

    def __init__(self, *options: str) -> None:
        programs = find_programs()
        if programs is None:
            raise RuntimeError(missing())
        self._programs, self._options = programs, options
        self.user = _unprivileged_user() if os.geteuid() == 0 else None
        # The path of a Unix socket may have 107 bytes, so not in a test's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix="tuition-pg-", dir="/tmp"))
        if self.user:
            shutil.chown(self.folder, self.user)
        self._process: subprocess.Popen[bytes] | None = None
        command = [
            programs / "initdb",
            "-D",
            self.folder / "data",
            "-U",
            "tuition",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        made = self._run([*command, *LANGUAGE])
        if made.returncode:  # older than 15, or built without ICU
            made = self._run([*command, "--locale=C.UTF-8"])
        if made.returncode:
            raise RuntimeError(made.stderr)
        self.start()

    def url_of(self, database: str) -> str:
        """A database of this server, without a password."""
        return f"postgresql://tuition@/{database}?host={self.folder}"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        options = {"listen_addresses": "", "unix_socket_directories": self.folder, "max_connections": 60}
        settings = [f"-c{name}={value}" for name, value in options.items()] + list(self._options)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *settings],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + 60
        while self._run([self._programs / "pg_isready", "-q", "-h", self.folder]).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash does: SIGKILL to the postmaster; its children notice and end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it at once; a second call does nothing."""
        if self._process is not None:
            self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements, each in a transaction of its own; returns the rows of the last one."""
        import psycopg

        with psycopg.connect(self.url_of(database), autocommit=True) as connection:
            for statement in statements:
                last = connection.execute(statement.encode())
            return last.fetchall() if last.description else []

    def empty(self, database: str) -> None:
        """Take all rows out of all tables, also where triggers refuse it; other connections are ended."""
        tables = self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
            database=database,
        )
        names = ", ".join(name for (name,) in tables)
        self.sql(
            "SET session_replication_role = replica",
            f"TRUNCATE {names} RESTART IDENTITY CASCADE",
            database=database,
        )

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _run(self, command: list[object]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(word) for word in command],
            user=self.user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGQUIT)
