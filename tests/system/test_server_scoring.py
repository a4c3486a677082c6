"""Log-likelihoods over HTTP are the engine's own, to the last digit, for whoever scores as lm-eval does."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from reliability.serve import tiny_server as tiny
from server_thread import start_server
from tuition.engine.request import Request, Sampling, TokenEvent, complete

TEXTS = ("To be, or not to be", "that is the question: the slings", "and arrows", "of outrageous fortune.")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = tiny.tiny_context(tmp_path_factory.mktemp("server"))
    yield made
    tiny.close_context(made)


@pytest.fixture(scope="module")
def http(context: Any) -> Iterator[httpx.Client]:
    with start_server(context) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


class Recorder:
    """The service of a model, with a note of what the engine said to each request."""

    def __init__(self, service: Any) -> None:
        self.service, self.said = service, list[list[TokenEvent]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)

    def submit(self, request: Request) -> Any:
        self.said.append([])
        return Recorded(self.service.submit(request), self.said[-1])


class Recorded:
    def __init__(self, stream: Any, said: list[TokenEvent]) -> None:
        self.stream, self.said, self.cancel = stream, said, stream.cancel

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        async for event in self.stream:
            self.said.append(event)
            yield event


def own_score(events: list[TokenEvent], num_context: int) -> tuple[float, bool]:
    """Log-likelihood of the prompt behind `num_context`, and whether each token was the most likely one."""
    told = (complete(events).prompt_logprobs or ())[num_context:]
    return sum(item.logprob or 0 for item in told), all(item.logprob == item.top[0][1] for item in told)


def lm_eval_payload(prompts: list[list[int]], model: str) -> dict[str, Any]:
    """The body that lm-eval's local-completions sends for log-likelihoods."""
    settings = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    return {"model": model, "prompt": prompts} | settings


def lm_eval_scores(reply: dict[str, Any], context_lengths: list[int]) -> list[tuple[float, bool]]:
    """As lm-eval reads the reply: it takes the last token for the generated one and drops it."""
    scores = []
    choices = sorted(reply["choices"], key=lambda choice: choice["index"])
    for choice, length in zip(choices, context_lengths, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(logprob == max(top.values()) for logprob, top in zip(logprobs, tops, strict=True))
        scores.append((sum(logprobs), greedy))
    return scores


@pytest.mark.parametrize("drawn", ["the end token", "another token"])
def test_lm_eval_gets_the_engines_own_figures(
    http: httpx.Client, context: Any, monkeypatch: pytest.MonkeyPatch, drawn: str
) -> None:
    model = context.models["tiny"]
    prompts = [model.tokenizer.encode(text) for text in TEXTS]
    prompts += [ids[:3] for ids in prompts]
    if drawn == "the end token":
        greedy, submit = Sampling(temperature=0), model.service.submit
        first = [submit(Request(f"first-{ids}", tuple(ids), 1, greedy)).result() for ids in prompts]
        monkeypatch.setattr(model, "stop_ids", tuple({one.token_ids[0] for one in first}))
    recorder = Recorder(model.service)
    monkeypatch.setattr(model, "service", recorder)
    for size in (1, len(prompts)):
        for at in range(0, len(prompts), size):
            batch = prompts[at : at + size]
            lengths = [len(ids) // 2 for ids in batch]
            reply = http.post("/v1/completions", json=lm_eval_payload(batch, "tiny")).json()
            for choice, ids in zip(reply["choices"], batch, strict=True):
                told = choice["logprobs"]
                assert {len(told[name]) for name in told} == {len(ids) + 1}
            said = recorder.said[-len(batch) :]
            wanted = [own_score(events, length) for events, length in zip(said, lengths, strict=True)]
            assert lm_eval_scores(reply, lengths) == wanted
            if drawn == "the end token":
                assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}
                assert {choice["text"] for choice in reply["choices"]} == {
                    model.tokenizer.decode(ids) for ids in batch
                }


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_tells_of_its_end_token(
    http: httpx.Client, context: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As many entries as completion tokens, in a stream too; the text does not hold the end."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "To be"}],
        "temperature": 0,
        "max_tokens": 9,
    }
    body |= {"logprobs": True, "top_logprobs": 1}
    free = http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    tokenizer = context.models["tiny"].tokenizer
    ids = {tokenizer.token_bytes(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    end = bytes(free[-1]["bytes"])
    monkeypatch.setattr(context.models["tiny"], "stop_ids", (ids[end],))
    recorder = Recorder(context.models["tiny"].service)
    monkeypatch.setattr(context.models["tiny"], "service", recorder)
    place = next(place for place, entry in enumerate(free) if bytes(entry["bytes"]) == end)
    if stream:
        entries = []
        for line in http.post("/v1/chat/completions", json=body | {"stream": True}).text.splitlines():
            if line.startswith("data: {"):
                for choice in httpx.Response(200, content=line[6:]).json()["choices"]:
                    entries += (choice["logprobs"] or {}).get("content", [])
    else:
        reply = http.post("/v1/chat/completions", json=body).json()
        entries = reply["choices"][0]["logprobs"]["content"]
        assert reply["usage"]["completion_tokens"] == len(entries)
        assert reply["choices"][0]["finish_reason"] == "stop"
    (said,) = recorder.said
    own = [(item.logprob, item.top[0][1]) for item in complete(said).logprobs]
    assert [(entry["logprob"], entry["top_logprobs"][0]["logprob"]) for entry in entries] == own
    assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in free[: place + 1]]
