"""Many adapters on one base: each a model of its own over HTTP, added and removed while the server runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from adapter_workspace import fill, publish_adapter, publish_base
from server_thread import start_server
from tuition.books.books import Books, open_books
from tuition.core.digests import digest_of_pair
from tuition.core.errors import ModelError, RequestError
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.request import TokenEvent
from tuition.engine.settings import EngineSettings
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import request_receipts, statement
from tuition.registry.registry import Registry
from tuition.serve.context import ServeContext, ServedModel
from tuition.serve.served import open_served
from tuition.serve.settings import ServeSettings
from tuition.spec.machine import detect_machine

NAMES = tuple(f"a{i}" for i in range(8))
LATER = ("late", "brief")
KEY = "a-key-of-this-test"
SETTINGS = EngineSettings(device="cpu", threads=1, precision="float32", cache_bytes="16MiB", max_batch=16)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    torch.set_num_threads(1)
    return Workspace(tmp_path_factory.mktemp("adapters") / "home").create()


@pytest.fixture(scope="module")
def books(workspace: Workspace) -> Iterator[Books]:
    with open_books(workspace) as opened:
        fill(workspace, opened, (*NAMES, *LATER))
        registry = Registry(workspace, opened)
        publish_adapter(registry, "stranger", publish_base(registry, "other", seed=9), seed=3)
        yield opened


def opened_for(workspace: Workspace, books: Books, **named: Any):
    return open_served(
        ["base"], workspace=workspace, books=books, machine=detect_machine(), settings=SETTINGS,
        progress=SilentProgress(), **named,
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(workspace: Workspace, books: Books) -> Iterator[dict[str, ServedModel]]:
    with opened_for(workspace, books, adapters=NAMES) as opened:
        yield opened


@pytest.fixture(scope="module")
def http(served: dict[str, ServedModel], books: Books) -> Iterator[httpx.Client]:
    settings = ServeSettings(port=0, max_adapters=9)
    with start_server(ServeContext(served, books, settings, KEY)) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, timeout=60, headers=headers) as client:
            yield client


def ask(http: httpx.Client, model: str, tokens: int = 6, **more: Any) -> httpx.Response:
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return http.post("/v1/completions", json=body | more)


def text_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"]


def change(http: httpx.Client, verb: str, **body: Any) -> httpx.Response:
    return http.post(f"/v1/{verb}_lora_adapter", json=body)


def listed(http: httpx.Client) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in http.get("/v1/models").json()["data"]}


def test_each_adapter_is_listed_with_its_base_and_answers_as_alone(
    http: httpx.Client, workspace: Workspace, books: Books
) -> None:
    models = listed(http)
    assert list(models) == ["base", *NAMES]
    assert {name: models[name]["parent"] for name in models} == {"base": None} | dict.fromkeys(NAMES, "base")
    registry = Registry(workspace, books)
    texts = {}
    for name in models:
        reply = ask(http, name)
        texts[name] = text_of(reply)
        receipt = next(r for r in request_receipts(books, limit=1))
        assert (receipt.model, receipt.version) == (name, 1)
        base, version = registry.get("base"), registry.get(name)
        digest = base.digest if name == "base" else digest_of_pair(version.digest, base.digest)
        assert receipt.weights_digest == models[name]["weights_digest"] == digest
        assert reply.json()["system_fingerprint"] == f"fp_{digest[:16]}"
    assert len(set(texts.values())) == len(texts)
    for name in NAMES[:2]:
        with Engine(name, settings=SETTINGS, workspace=workspace, books=books) as engine:
            alone = engine.generate([[5, 6, 7]], max_tokens=6, temperature=0, ignore_eos=True)[0]
        assert texts[name] == alone.text
    found = http.get("/v1/models/a0/digest").json()
    assert found["recorded"] == found["recomputed"] == models["a0"]["weights_digest"]
    assert reconcile(books).faults == ()


def test_an_adapter_comes_and_goes_while_the_server_runs(
    http: httpx.Client, served: dict[str, ServedModel]
) -> None:
    engine = served["base"].engine
    assert engine is not None
    end = TokenEvent("r", (), "", finish_reason="stop", variant="late")
    assert ask(http, "late").status_code == 404
    taken = change(http, "load", lora_name="a0").json()["error"]["message"]
    assert taken.startswith("lora_name: 'a0' is served already")
    added = change(http, "load", lora_name="late@1")
    assert (added.status_code, added.json()["id"], added.json()["parent"]) == (200, "late", "base")
    assert text_of(ask(http, "late")) not in {text_of(ask(http, name)) for name in ("base", *NAMES)}
    assert engine.desk_of(end).model.name == "late"
    full = change(http, "load", lora_name="brief")
    assert (full.status_code, full.json()["error"]["code"]) == (400, "capacity_exceeded")
    assert change(http, "unload", lora_name="late").json() == {
        "id": "late", "object": "model", "deleted": True
    }  # fmt: skip
    assert "late" not in listed(http)
    assert engine.desk_of(end) is engine.desk, "nothing of a removed adapter is kept"
    assert ask(http, "late").status_code == 404


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("load", {"lora_name": "absent"}, 404, "no model named 'absent'"),
    ("load", {"lora_name": "base"}, 400, "this is a whole model"),
    ("load", {"lora_name": "stranger"}, 400, "no adapter of a model that is served here"),
    ("load", {"lora_name": "late", "lora_path": "/etc"}, 400, "lora_path: is not supported"),
    ("load", {"lora_path": "/etc"}, 400, "lora_path: is not supported"),
    ("load", {"lora_name": "../../etc"}, 404, "no model named"),
    ("load", {"lora_name": 5}, 400, "lora_name: wanted a string"),
    ("load", {"lora_name": "late", "base": "x"}, 400, "base: is unknown"),
    ("unload", {"lora_name": "base"}, 400, "is a model, not an added adapter"),
    ("unload", {"lora_name": "late"}, 404, "no model named 'late'"),
    ("unload", {"lora_name": "a0", "wait_seconds": -1}, 400, "wait_seconds: wanted 0 to"),
]


@pytest.mark.parametrize(("verb", "body", "status", "message"), REFUSED, ids=str)
def test_what_cannot_be_added_or_removed_is_refused_and_changes_nothing(
    http: httpx.Client, workspace: Workspace, verb: str, body: dict, status: int, message: str
) -> None:
    before = list(listed(http))
    reply = change(http, verb, **body)
    assert (reply.status_code, message in reply.json()["error"]["message"]) == (status, True), reply.text
    assert str(workspace.root) not in reply.text, "no path goes over the network"
    assert list(listed(http)) == before


def test_only_who_has_the_key_may_change_adapters(http: httpx.Client) -> None:
    for verb in ("load", "unload"):
        bare = httpx.post(f"{http.base_url}/v1/{verb}_lora_adapter", json={"lora_name": "a0"})
        assert bare.status_code == 401
        session = {"cookie": "tuition_session=anything"}
        assert (
            httpx.post(f"{http.base_url}/v1/{verb}_lora_adapter", json={}, headers=session).status_code == 401
        )
        form = http.post(f"/v1/{verb}_lora_adapter", data={"lora_name": "a0"})
        assert form.status_code == 415, "a form of another page cannot send it"
    assert "a0" in listed(http)


def test_removal_refuses_or_waits_for_requests_under_way(http: httpx.Client) -> None:
    assert change(http, "load", lora_name="late").status_code == 200
    body = {"model": "late", "prompt": [5, 6, 7], "max_tokens": 240, "n": 16, "logprobs": 1, "stream": True}
    body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert change(http, "unload", lora_name="a7").status_code == 200, "nobody uses that one"
        tried = change(http, "unload", lora_name="late")
        assert (tried.status_code, tried.json()["error"]["code"]) == (409, "adapter_in_use")
        assert "late" in listed(http)
        assert change(http, "unload", lora_name="late", wait_seconds=60).status_code == 200
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["usage"]["completion_tokens"] == 16 * 240, "what was under way is not cut"
    assert change(http, "load", lora_name="a7").status_code == 200


def test_eight_adapters_answer_at_once_beside_additions_and_removals(
    http: httpx.Client, books: Books
) -> None:
    """Nothing mixes: every reply is that of its adapter alone, and the books balance."""
    want = {name: text_of(ask(http, name, 24)) for name in NAMES}
    before = {sheet.model: sheet.num_requests for sheet in statement(books).models}
    stop, outcomes = threading.Event(), []

    def come_and_go() -> None:
        while not stop.is_set():
            outcomes.append(change(http, "load", lora_name="brief").status_code)
            ask(http, "brief", 2)
            outcomes.append(change(http, "unload", lora_name="brief", wait_seconds=30).status_code)

    churn = threading.Thread(target=come_and_go)
    churn.start()
    with ThreadPoolExecutor(16) as pool:
        asked = [(name, pool.submit(ask, http, name, 24)) for _ in range(4) for name in NAMES]
        wrong = [name for name, reply in asked if text_of(reply.result()) != want[name]]
    stop.set()
    churn.join()
    assert wrong == []
    assert set(outcomes) == {200}
    after = {sheet.model: sheet.num_requests for sheet in statement(books).models}
    assert {name: after[name] - before[name] for name in NAMES} == dict.fromkeys(NAMES, 4)
    assert reconcile(books).faults == ()
    figures = http.get("/metrics").text
    assert 'tuition_sequences_total{finish_reason="length",model="a0"}' in figures
    engines = [line for line in figures.splitlines() if line.startswith("tuition_engine{")]
    assert all('model="base"' in line for line in engines), "one engine is counted once"


def test_adapters_of_other_bases_do_not_start(workspace: Workspace, books: Books) -> None:
    stranger, twice = (opened_for(workspace, books, adapters=a) for a in (["stranger"], ["a0", "a0@1"]))
    with pytest.raises(ModelError, match=r"stranger@1: is an adapter of other@1"), stranger:
        pass
    with pytest.raises(RequestError, match="'a0' is served already"), twice:
        pass


def test_the_command_serves_adapters_and_a_kill_under_load_loses_no_finished_reply(
    workspace: Workspace, books: Books
) -> None:
    command = [sys.executable, "-m", "tuition.cli.main", "serve", "base", "--adapters", "a0,a1", "--no-page"]
    command += ["--port", "0", "--workspace", str(workspace.root), "--engine.threads", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "TUITION_API_KEY"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert "serving base, a0, a1 at " in line
    url, held = line.split()[-1].removesuffix("/v1"), list[tuple[str, str]]()
    until = threading.Event()

    def load(model: str) -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            while not until.is_set():
                try:
                    reply = ask(client, model, 8)
                    held.append((reply.headers["x-request-id"], json.loads(reply.text)["model"]))
                except (httpx.HTTPError, ValueError):
                    return

    clients = [threading.Thread(target=load, args=(model,)) for model in ("base", "a0", "a1", "a0")]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 60
    while len(held) < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
    server.send_signal(signal.SIGKILL)
    until.set()
    for client in clients:
        client.join()
    server.wait(30)
    booked = {r.cost.request_id.rpartition("-")[0]: r.model for r in request_receipts(books, limit=None)}
    assert len(held) >= 12
    assert [(call, booked.get(call)) for call, _ in held] == held
    assert reconcile(books).faults == ()
