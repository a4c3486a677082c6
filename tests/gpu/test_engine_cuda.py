"""The torch runner on a GPU: recorded graphs, free shapes and the CPU say the same.

Run where there is a GPU: `pytest tests/gpu -m gpu`. Elsewhere every test here is skipped.
"""

import numpy as np
import pytest
import torch

from engine_runs import SilentTokenizer
from tuition.engine.request import Completion, Request, Sampling, complete
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.torch_runner import TorchRunner
from tuition.model.decoder import Decoder
from tuition.spec.shape import ModelShape

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPE = ModelShape(
    vocab_size=500, hidden_size=128, num_layers=3, num_heads=8, num_kv_heads=2, head_dim=16, mlp_size=256,
    context_length=512,
)  # fmt: skip


def make_loop(device: str, dtype: torch.dtype = torch.float32, **chosen) -> StepLoop:
    decoder = Decoder(SHAPE).initialize(0.2, torch.Generator().manual_seed(1)).to(device, dtype)
    settings = EngineSettings(**({"speculation": "off", "max_batch": 16} | chosen))
    return StepLoop(TorchRunner(decoder, settings, num_blocks=300), SilentTokenizer(), settings)


def requests(count: int) -> list[Request]:
    random = np.random.default_rng(3)
    sizes = random.integers(1, 120, count).tolist()
    prompts = [tuple(random.integers(0, 500, size).tolist()) for size in sizes]
    greedy = Sampling(temperature=0.0)
    return [Request(f"r{i}", prompt, 24, greedy, logprobs=2) for i, prompt in enumerate(prompts)]


def run(loop: StepLoop, asked: list[Request]) -> list[Completion]:
    events: dict[str, list] = {request.id: [] for request in asked}
    for request in asked:
        loop.submit(request)
    while loop.has_work:
        for event in loop.step()[0]:
            events[event.request_id].append(event)
    return [complete(events[request.id]) for request in asked]


def test_recorded_graphs_and_free_shapes_and_the_cpu_agree() -> None:
    graphs = make_loop("cuda")
    assert isinstance(graphs.runner, TorchRunner)
    assert graphs.runner.graphs is not None
    free = make_loop("cuda")
    assert isinstance(free.runner, TorchRunner)
    free.runner.graphs = None
    recorded = run(graphs, requests(12))
    assert graphs.runner.graphs.num_buckets >= 2
    for other in (run(free, requests(12)), run(make_loop("cpu"), requests(12))):
        for one, two in zip(recorded, other, strict=True):
            assert one.token_ids == two.token_ids
            got = [score.logprob for score in one.logprobs]
            assert got == pytest.approx([score.logprob for score in two.logprobs], abs=2e-3)  # other kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_deterministic_bits_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    asked = requests(8)
    alone = [run(make_loop("cuda", dtype, deterministic=True), [one])[0] for one in asked]
    together = run(make_loop("cuda", dtype, deterministic=True, token_budget=40), asked)
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == other.logprobs


def test_the_digest_is_the_same_on_every_device() -> None:
    assert make_loop("cuda").runner.weights_digest() == make_loop("cpu").runner.weights_digest()
