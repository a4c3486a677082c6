"""The torch engine against the transformers library, and against itself in other batches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from engine_runs import run
from tuition.engine.request import Completion, Request, Sampling
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.torch_graphs import DecodeGraphs
from tuition.engine.torch_runner import TorchRunner
from tuition.model.folder import open_model
from tuition.model.load import load_decoder

VOCAB = 300


class SilentStream:
    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


class SilentTokenizer:
    def stream(self, skip_specials: bool = True, after: object = ()) -> SilentStream:
        return SilentStream()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _save(folder: Path, model: torch.nn.Module) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=160, initializer_range=0.3, eos_token_id=None,
        bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return _save(tmp_path_factory.mktemp("llama"), model), model


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MistralForCausalLM]:
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=160, initializer_range=0.3, eos_token_id=None,
        bos_token_id=None, sliding_window=11, head_dim=8,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    return _save(tmp_path_factory.mktemp("mistral"), model), model


def make_loop(
    folder: Path, *, num_blocks: int | None = 80, dtype: torch.dtype = torch.float32, **settings
) -> StepLoop:
    chosen = EngineSettings(
        **({"block_size": 8, "max_batch": 8, "token_budget": 64, "speculation": "off"} | settings)
    )
    decoder = load_decoder(open_model(folder), dtype)
    return StepLoop(TorchRunner(decoder, chosen, num_blocks=num_blocks), SilentTokenizer(), chosen)


def prompts(count: int) -> list[tuple[int, ...]]:
    random = np.random.default_rng(5)
    return [tuple(random.integers(0, VOCAB, size).tolist()) for size in random.integers(1, 70, count)]


def greedy(count: int, max_tokens: int = 16, **fields) -> list[Request]:
    return [
        Request(f"r{i}", prompt, max_tokens, Sampling(temperature=0.0), **fields)
        for i, prompt in enumerate(prompts(count))
    ]


KNOWN: dict[tuple[str, tuple[int, ...], int], list[int]] = {}


def reference(family: str, model, prompt: tuple[int, ...], count: int) -> list[int]:
    if (family, prompt, count) not in KNOWN:
        whole = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                whole,
                attention_mask=torch.ones_like(whole),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        KNOWN[family, prompt, count] = out[0, len(prompt) :].tolist()
    return KNOWN[family, prompt, count]


@pytest.mark.parametrize("family", ["llama", "windowed"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"token_budget": 9}, {"speculation": "auto"}, {"deterministic": True}, {"num_blocks": 22}],
    ids=["plain", "small chunks", "guesses", "deterministic", "preemption"],
)
def test_greedy_text_equals_transformers(family: str, settings: dict, request: pytest.FixtureRequest) -> None:
    folder, model = request.getfixturevalue(family)
    loop = make_loop(folder, **settings)
    asked = greedy(7)
    for done, one in zip(run(loop, asked), asked, strict=True):
        assert list(done.token_ids) == reference(family, model, one.prompt, one.max_tokens)
    if "num_blocks" in settings:
        assert loop.stats().num_preemptions > 0


def test_logprobs_equal_transformers(llama) -> None:
    folder, model = llama
    request = Request("r", prompts(3)[2], 6, Sampling(temperature=0.0), logprobs=5, prompt_logprobs=2)
    done = run(make_loop(folder), [request])[0]
    whole = [*request.prompt, *done.token_ids]
    with torch.inference_mode():
        want = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    scores = [*(done.prompt_logprobs or ()), *done.logprobs]
    for place, score in enumerate(scores[1:], 1):
        assert score.token_id == whole[place]
        assert score.logprob == pytest.approx(float(want[place - 1, whole[place]]), abs=1e-4)  # order of sums
        assert score.top[0][0] == int(want[place - 1].argmax())


def test_fixed_shapes_compute_what_free_shapes_do(llama) -> None:
    """The path of CUDA graphs, run on the CPU without recording."""
    folder, _ = llama
    plain = run(make_loop(folder), greedy(9))
    loop = make_loop(folder)
    runner = loop.runner
    assert isinstance(runner, TorchRunner)
    runner.graphs = DecodeGraphs(runner.decoder, runner.cache, 8)
    assert [done.token_ids for done in run(loop, greedy(9))] == [done.token_ids for done in plain]
    assert runner.graphs.num_buckets >= 2


@pytest.mark.parametrize(
    ("dtype", "layout"), [(torch.float32, "alone"), (torch.bfloat16, "packed")], ids=["float32", "bf16"]
)
def test_deterministic_bits_do_not_depend_on_the_batch(llama, dtype: torch.dtype, layout: str) -> None:
    """Alone, among others, in other chunks, preempted, from cached prefixes, with guesses: the same bits."""
    folder, _ = llama

    def replies(requests: list[Request], **settings) -> list[Completion]:
        loop = make_loop(folder, dtype=dtype, deterministic=True, **settings)
        assert isinstance(loop.runner, TorchRunner)
        assert loop.runner.layout == "packed"  # the try at start found this machine's products to be alike
        loop.runner.layout = layout
        found = run(loop, requests)
        if settings.get("speculation") == "auto":
            found = run(loop, requests)  # once more, with every prefix in the cache
            assert sum(done.num_cached_tokens for done in found) > 0
        return found

    asked = [
        Request(f"r{i}", prompt, 12, Sampling(temperature=0.0 if i % 2 else 0.8, seed=i), logprobs=3)
        for i, prompt in enumerate(prompts(5))
    ]
    alone = [replies([one])[0] for one in asked]
    for settings in (
        {"token_budget": 11},
        {"num_blocks": 20},
        {"speculation": "auto", "token_budget": 40},
        {"block_size": 16, "max_batch": 3},
    ):
        for one, other in zip(alone, replies(asked, **settings), strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == other.logprobs  # floats compared with ==: every bit


def test_the_digest_in_memory_is_the_digest_on_disk(llama) -> None:
    folder, _ = llama
    runner = make_loop(folder).runner
    assert runner.weights_digest() == open_model(folder).digest()


def test_poison_left_in_a_block_is_never_read(llama) -> None:
    """A block that held not-a-number for somebody else does not harm its next owner."""
    folder, _ = llama
    clean = run(make_loop(folder), greedy(9))
    loop = make_loop(folder)
    runner = loop.runner
    assert isinstance(runner, TorchRunner)
    for tensor in (*runner.cache.keys, *runner.cache.values):
        tensor[: runner.cache.zero_slot] = float("nan")
    assert [done.token_ids for done in run(loop, greedy(9))] == [done.token_ids for done in clean]


def test_a_request_that_makes_the_step_raise_fails_alone(llama) -> None:
    """S11 on the real runner: the seven others finish with unchanged tokens."""
    folder, _ = llama
    asked = greedy(8, 6)
    want = [done.token_ids for done in run(make_loop(folder), asked)]
    loop = make_loop(folder, token_budget=512)
    forward, poison = loop.runner.forward, asked[5].prompt

    def raising(batch):
        for begin, end in zip(batch.starts[:-1], batch.starts[1:], strict=True):
            if tuple(batch.token_ids[begin:end].tolist()) == poison:
                raise RuntimeError("poison")
        return forward(batch)

    loop.runner.forward = raising  # type: ignore[method-assign]
    done = run(loop, asked)
    assert done[5].finish_reason == "error"
    spared = [i for i in range(8) if i != 5]
    assert [done[i].token_ids for i in spared] == [want[i] for i in spared]
