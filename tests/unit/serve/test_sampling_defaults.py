"""Own fields of a call come first, then the defaults of the model, then of the engine."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tuition.core.errors import RequestError
from tuition.engine.request import Sampling, sampling_of
from tuition.model.generation import GenerationDefaults
from tuition.serve.app import create_app

TINY = Path(__file__).parents[2] / "reliability" / "serve" / "tiny_server.py"
DEFAULTS = GenerationDefaults(
    temperature=0.25,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    repetition_penalty=1.1,
    max_new_tokens=7,
    origin="a test",
)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    if "tiny_server" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny_server", TINY)
        sys.modules["tiny_server"] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(sys.modules["tiny_server"])  # type: ignore[union-attr]
    tiny = sys.modules["tiny_server"]
    made = tiny.tiny_context(tmp_path, script=tiny.Script(["to be"]))
    made.models["tiny"].defaults = DEFAULTS
    yield made
    tiny.close_context(made)


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({}, {"temperature": 0.25, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}),
        ({"temperature": 0}, {"temperature": 0.0, "top_p": 0.9}),
        ({"temperature": 1, "top_p": 1, "top_k": 0}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
        (
            {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
            {"top_k": 0, "min_p": 0, "repetition_penalty": 1},
        ),
        ({"temperature": None, "top_p": 0}, {"temperature": 0.25, "top_p": 0}),
        ({"presence_penalty": 1.5, "seed": 3}, {"presence_penalty": 1.5, "seed": 3, "temperature": 0.25}),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_what_a_call_leaves_out_is_as_the_model_wants(
    context: Any, path: str, asked: dict[str, Any], drawn: dict[str, Any]
) -> None:
    prompt = (
        {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    )
    with TestClient(create_app(context), base_url="http://localhost") as http:
        assert http.post(path, json={"model": "tiny"} | prompt | asked).status_code == 200
    request = context.models["tiny"].service.requests[-1]
    assert {name: getattr(request.sampling, name) for name in drawn} == drawn
    assert request.max_tokens == (16 if "prompt" in prompt else 7)


def test_the_defaults_are_told(context: Any) -> None:
    with TestClient(create_app(context), base_url="http://localhost") as http:
        told = http.get("/v1/models/tiny").json()["sampling_defaults"]
    assert told["temperature"] == 0.25
    assert told["origin"] == "a test"


def test_without_defaults_the_engine_decides() -> None:
    assert sampling_of({"top_p": None}, GenerationDefaults()) == Sampling()


def test_a_value_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="top_p"):
        sampling_of({"top_p": 2}, DEFAULTS)
