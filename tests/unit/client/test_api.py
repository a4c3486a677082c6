"""What the client sends when not everything fits, and what it says when something fails."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tuition.client.api import BROKEN_OFF, UNREACHABLE, Model
from tuition.client.errors import ClientError
from tuition.client.listen import call, listen
from tuition.client.reply import Reply

MODEL = Model("tiny", has_chat=True, context_length=100)
FULL = (400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
SYSTEM = {"role": "system", "content": "Be brief."}
Answer = tuple[int, Any]


class Fake:
    """A server that answers with what a test gives it, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = lambda body: (200, ["x"])
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.asked.append(body)
                self.reply(*fake.answer(body))

            def do_GET(self) -> None:
                self.reply(*fake.answer({"path": self.path}))

            def reply(self, status: int, told: Any) -> None:
                self.send_response(status)
                if isinstance(told, list):
                    chunks = [json.dumps({"choices": [{"text": text}]}) for text in told]
                    told = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])
                content = (told if isinstance(told, str) else json.dumps(told)).encode()
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.server.shutdown()
    made.server.server_close()


def chat(fake: Fake, messages: list[dict[str, str]], **settings: Any) -> Reply:
    return listen(fake.url, None, lambda api: api.chat(MODEL, messages, settings))


def turns(count: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(count)]


def contents(body: dict[str, Any]) -> str:
    return " ".join(message["content"] for message in body["messages"])


def test_what_does_not_fit_is_given_up_in_order_and_the_system_message_never(fake: Fake) -> None:
    fake.answer = lambda body: FULL if len(body["messages"]) > 4 else (200, ["ok"])
    reply = chat(fake, [SYSTEM, *turns(5)], max_tokens=50)
    assert [contents(body) for body in fake.asked] == ["Be brief. 0 1 2 3 4"] * 2 + ["Be brief. 2 3 4"]
    assert ["max_tokens" in body for body in fake.asked] == [True, False, False]
    assert reply.text == "ok"
    assert reply.remark == "The beginning of the conversation no longer fits and was left out."


def test_a_message_that_never_fits_is_one_sentence_without_a_remark(fake: Fake) -> None:
    fake.answer = lambda body: FULL
    with pytest.raises(
        ClientError, match=r"too long for tiny, which reads at most 100 tokens\. Send a shorter"
    ):
        chat(fake, [SYSTEM, *turns(3)], max_tokens=50)
    assert contents(fake.asked[-1]) == "Be brief. 2"


@pytest.mark.parametrize(
    ("settings", "limit"), [({}, 80), ({"max_tokens": 10}, 10), ({"max_tokens": 500}, 80)]
)
def test_a_text_is_continued_by_what_is_wished_or_what_fits(
    fake: Fake, settings: dict[str, int], limit: int
) -> None:
    tokens = list(range(20))
    fake.answer = lambda body: (200, ["y"] if "stream" in body else {"tokens": tokens, "max_model_len": 100})
    assert listen(fake.url, None, lambda api: api.complete(MODEL, "abc", settings)).text == "y"
    assert (fake.asked[-1]["prompt"], fake.asked[-1]["max_tokens"]) == (tokens, limit)


def test_of_a_text_that_is_too_long_the_end_is_taken_and_that_is_said(fake: Fake) -> None:
    tokens = list(range(300))
    fake.answer = lambda body: (200, ["y"] if "stream" in body else {"tokens": tokens, "max_model_len": 100})
    reply = listen(fake.url, None, lambda api: api.complete(MODEL, "abc", {"max_tokens": 30}))
    assert fake.asked[-1]["prompt"] == tokens[-70:]
    assert reply.remark is not None


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((503, {"error": {"message": "the server is stopping"}}), "The server is stopping."),
        ((500, "oops"), "The server answered with status 500."),
        ((200, ""), BROKEN_OFF),
        ((200, "data: {broken\n\n"), BROKEN_OFF),
    ],
)
def test_what_goes_wrong_is_a_sentence(fake: Fake, answer: Answer, told: str) -> None:
    fake.answer = lambda body: answer
    with pytest.raises(ClientError) as caught:
        chat(fake, turns(1))
    assert str(caught.value) == told


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(ClientError) as caught:
        call("http://127.0.0.1:9/v1", None, lambda api: api.models())
    assert str(caught.value) == UNREACHABLE


def test_ctrl_c_ends_the_reply_keeps_its_text_and_asks_for_its_cost(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        if "stream" in body:
            return 200, ["a", "b"]
        return 200, {"prompt_tokens": 3, "completion_tokens": 2, "cost_usd": 0.5, "id": body["path"]}

    def stop(text: str) -> None:
        if text == "b":
            raise KeyboardInterrupt

    fake.answer = answer
    reply = listen(fake.url, None, lambda api: api.chat(MODEL, turns(1), {}), stop)
    assert (reply.text, reply.finish_reason) == ("ab", "cancelled")
    assert reply.cost is None, "this server gave no id to ask with"


def test_bill_and_digest_are_asked_by_name(fake: Fake) -> None:
    fake.answer = lambda body: (200, body)
    assert call(fake.url, None, lambda api: api.bill()) == {"path": "/v1/bill"}
    assert call(fake.url, None, lambda api: api.bill("a/b c")) == {"path": "/v1/bill?model=a%2Fb%20c"}
    assert call(fake.url, None, lambda api: api.digest("org/m")) == {"path": "/v1/models/org/m/digest"}
