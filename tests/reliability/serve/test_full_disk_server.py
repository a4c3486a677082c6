"""A server whose disk fills up: a caller who got a reply is billed for it, one who was refused is not."""

from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from server_thread import start_server
from small_disk import LimitedFiles, SmallDisk, grow_log
from tuition.books.books import open_books
from tuition.books.schema import requests
from tuition.books.sqlite import CHECKPOINT_BYTES
from tuition.core.workspace import Workspace


def test_answers_and_books_agree_on_a_full_disk(tiny: Any, disk: SmallDisk | LimitedFiles) -> None:
    """The log is just short of its checkpoint, which meets the full disk before the commits do."""
    workspace = Workspace(disk.folder / "home")
    log = Path(f"{workspace.books}-wal")
    with open_books(workspace) as books:
        grow_log(books, log, 3 << 20)  # closing folds it into the database
    context = tiny.tiny_context(workspace.root, script=tiny.Script(["to be or not to be"]))
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5}
    with start_server(context) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.post("/v1/completions", json=body).status_code == 200
        grow_log(context.books, log, CHECKPOINT_BYTES)
        disk.fill(leave=250_000)
        answered: dict[str, int] = {}
        for number in range(40):
            reply = http.post("/v1/completions", json=body | {"stream": number % 2 == 0})
            name = reply.headers["x-request-id"]
            is_whole = reply.status_code == 200 and (number % 2 or "[DONE]" in reply.text)
            answered[name] = 200 if is_whole else 503
        disk.empty()
        statuses = list(answered.values())
        assert 0 < statuses.count(200) < 40, "the first commits had room, the last had none"
        assert http.post("/v1/completions", json=body).status_code == 200, "it works again without a restart"
        rows = context.books.read(
            lambda connection: connection.execute(select(requests.c.id)).scalars().all()
        )
    billed = {row.rpartition("-")[0] for row in rows}
    assert {name for name in answered if name in billed} == {
        name for name, status in answered.items() if status == 200
    }
    print(f"B10 answered={statuses.count(200)} refused={statuses.count(503)} billed by mistake=0")
    tiny.close_context(context)
