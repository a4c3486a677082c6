"""A small server on loopback that speaks the Hugging Face hub's protocol, with the hub's ways to fail.

Source: https://huggingface.co/docs/hub/api, and what huggingface_hub 2.x asks for.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 2_000
"""Files of at least this many bytes are kept as large ones, on another path, as the hub does."""


@dataclass
class Hub:
    """Repositories, and how the server behaves. Tests change it while it runs."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    """By repository; other revisions are not found."""
    gated: set[str] = field(default_factory=set)
    token: str = "right"
    cut_after: int | None = None
    """The connection ends after so many bytes of a large file, once."""
    cuts_left: int = 0
    slow_s: float = 0.0
    """Between parts of a large file."""
    altered: str | None = None
    """A file that is served with another content than its digest says."""
    fails: int | None = None
    """A status for every request."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, and the range that was asked for."""
    url: str = ""

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """Put a repository there, or a new commit of it."""
        self.repositories[repository] = files
        told = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
        commit = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        self.commits[repository] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.fails is not None:
            return self._refuse(self.hub.fails, "", "out of order")
        if path.startswith("/large/"):
            return self._send_large(path.removeprefix("/large/"))
        sent = self.headers.get("Authorization")
        if sent not in (None, f"Bearer {self.hub.token}"):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repository, rest = "/".join(parts[:2]), parts[2:]
        if repository not in self.hub.repositories:
            return self._refuse(401 if sent is None else 404, "RepoNotFound", "Repository not found")
        commit = self.hub.commits[repository]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if parts[0] == "api":
            return self._send(json.dumps(self._info(repository, commit)).encode(), "application/json")
        if repository in self.hub.gated and sent is None:
            return self._refuse(401, "GatedRepo", f"Access to model {repository} is restricted.")
        return self._send_file(repository, commit, "/".join(rest[2:]))

    def _info(self, repository: str, commit: str) -> dict[str, object]:
        siblings = []
        for name, content in self.hub.repositories[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            entry = {"rfilename": name, "size": len(content), "blobId": blob.hexdigest()}
            if len(content) >= LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}  # type: ignore[assignment]
            siblings.append(entry)
        return {"id": repository, "modelId": repository, "sha": commit, "private": False, "tags": [],
                "downloads": 0, "likes": 0, "gated": repository in self.hub.gated and "manual",
                "siblings": siblings}  # fmt: skip

    def _send_file(self, repository: str, commit: str, name: str) -> None:
        content = self.hub.repositories[repository].get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if len(content) < LARGE:
            return self._send(content, "text/plain", {"X-Repo-Commit": commit, "ETag": '"small"'})
        sha256 = hashlib.sha256(content).hexdigest()
        self.send_response(302)
        for key, value in {"Location": f"{self.hub.url}/large/{sha256}", "X-Repo-Commit": commit,
                           "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha256}"',
                           "Content-Length": "0"}.items():  # fmt: skip
            self.send_header(key, value)
        self.end_headers()
        return None

    def _send_large(self, sha256: str) -> None:
        contents = [content for files in self.hub.repositories.values() for content in files.values()]
        content = next(content for content in contents if hashlib.sha256(content).hexdigest() == sha256)
        names = {
            name for files in self.hub.repositories.values() for name, it in files.items() if it == content
        }
        if self.hub.altered in names:
            content = bytes(reversed(content))
        asked, begin = self.headers.get("Range"), 0
        if asked is not None:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
        part = content[begin:]
        self.send_response(200 if asked is None else 206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{sha256}"')
        if asked is not None:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        is_cut = self.hub.cuts_left > 0 and len(part) > (self.hub.cut_after or len(part))
        if is_cut:
            self.hub.cuts_left -= 1
            part = part[: self.hub.cut_after]
        try:
            for place in range(0, len(part), 1 << 14):
                self.wfile.write(part[place : place + (1 << 14)])
                self.wfile.flush()
                time.sleep(self.hub.slow_s)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone
        if is_cut:
            self.close_connection = True
            self.connection.close()

    def _send(self, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Message", message)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
