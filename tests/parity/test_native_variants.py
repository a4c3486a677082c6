"""Variants on the native runner: many in one step beside their base, each as its merged model alone.

The kernels' own sums are held to double precision, and their bits to the last one, by the C++ driver.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine_runs import merged, run
from family_shapes import FAMILY_SHAPES
from tuition.core.errors import BusyError, SettingsError
from tuition.engine.engine import Engine
from tuition.engine.request import Completion, Request, Sampling
from tuition.engine.settings import EngineSettings
from tuition.engine.variants import LAST_PARTS, LowRank, Variant
from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder
from tuition.model.memory import model_in_memory
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

pytest.importorskip("tuition_kernels")

SHAPE = ModelShape(
    vocab_size=276, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=96,
    context_length=160, sliding_window=20, window_layers=(0, 1),
)  # fmt: skip
SHAPES = {
    "plain": SHAPE,
    "heads that are filled up": replace(SHAPE, head_dim=10),
    "normed heads": replace(SHAPE, qk_norm=True, tied_head=False),
    "biases": replace(SHAPE, qkv_bias=True),
    "without a gate": replace(FAMILY_SHAPES["gpt2"], vocab_size=276, context_length=160),
    "normed behind": replace(FAMILY_SHAPES["gemma3"], vocab_size=276, context_length=160),
}
REPLY = 24
NAMES = tuple(f"v{i}" for i in range(8))
WAYS = [
    {}, {"token_budget": 17}, {"speculation": "auto"}, {"prefix_cache": "on"}, {"threads": 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)


def decoder_of(seed: int, shape: ModelShape = SHAPE) -> Decoder:
    return Decoder(shape).initialize(0.3, torch.Generator().manual_seed(seed)).requires_grad_(False)


def variant_of(seed: int, shape: ModelShape = SHAPE) -> Variant:
    """Of other ranks and other matrices for each seed."""
    random, changes = np.random.default_rng(seed), {}
    only = LAST_PARTS if seed % 3 else LAST_PARTS[seed % 4 :: 2]
    for name, (outputs, inputs) in ((n, s) for n, s in shape.tensor_shapes().items() if n.endswith(only)):
        rank = 1 + (seed * 5) % 18
        down = random.standard_normal((rank, inputs)).astype(np.float32)
        changes[name] = LowRank(down, random.standard_normal((outputs, rank)).astype(np.float32) * 0.05)
    return Variant(changes)


def folder(decoder: Decoder, tokenizer: Tokenizer) -> ModelFolder:
    return model_in_memory(decoder.shape, dict(decoder.named_parameters()), lambda: tokenizer)


def opened(decoder: Decoder, tokenizer: Tokenizer, *names: str, **changes) -> Engine:
    fixed = {"runner": "native", "precision": "float32", "threads": 1, "cache_bytes": "8MiB", "max_batch": 16}
    chosen = EngineSettings(**(fixed | {"speculation": "off", "prefix_cache": "off"} | changes))
    engine = Engine(folder(decoder, tokenizer), settings=chosen)
    for name in names:
        engine.add_variant(name, variant_of(int(name[1:]), decoder.shape))
    return engine


def asked(variants: list[str | None], temperature: float = 0.0) -> list[Request]:
    random = np.random.default_rng(7)
    return [
        Request(
            f"r{i}", tuple(random.integers(0, 270, random.integers(3, 60)).tolist()), REPLY,
            Sampling(temperature=temperature, seed=i), logprobs=1, variant=variant,
        )
        for i, variant in enumerate(variants)
    ]  # fmt: skip


def plain(request: Request) -> Request:
    return replace(request, variant=None)


def logprobs_of(reply: Completion) -> list[float]:
    return [score.logprob or 0.0 for score in reply.logprobs]


@pytest.mark.parametrize("changes", WAYS, ids=lambda changes: " ".join(changes) or "as it is")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_eight_variants_in_a_batch_of_sixteen_answer_as_their_merged_models_alone(
    tokenizer: Tokenizer, shape: ModelShape, changes: dict
) -> None:
    base = decoder_of(1, shape)
    requests = asked([*NAMES, *NAMES[:6], None, None])
    with opened(base, tokenizer, *NAMES, **changes) as engine:
        found = run(engine.loop, requests)
    for request, reply in zip(requests, found, strict=True):
        name = request.variant
        network = base if name is None else merged(base, variant_of(int(name[1:]), shape))
        with opened(network, tokenizer) as engine:
            want = run(engine.loop, [plain(request)])[0]
        assert reply.token_ids == want.token_ids
        # float32: the sum of two products against the product of a sum
        assert logprobs_of(reply) == pytest.approx(logprobs_of(want), abs=2e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16", "int8", "int4"])
def test_a_reply_has_the_same_bits_alone_in_a_batch_and_in_bursts(
    tokenizer: Tokenizer, precision: str
) -> None:
    requests = asked([None, "v1", "v2", "v3", "v1", None, "v3"], temperature=0.7)
    with opened(decoder_of(1), tokenizer, "v1", "v2", "v3", precision=precision) as engine:
        mixed = run(engine.loop, requests)
        alone = [run(engine.loop, [request])[0] for request in requests]
        bursts = run(engine.loop, [replace(request, logprobs=None) for request in requests])
    assert [(r.token_ids, r.logprobs) for r in mixed] == [(r.token_ids, r.logprobs) for r in alone]
    assert [r.token_ids for r in bursts] == [r.token_ids for r in mixed]
    with opened(decoder_of(1), tokenizer, precision=precision) as engine:
        without = run(engine.loop, [plain(requests[0]), plain(requests[5])])
    assert [r.logprobs for r in without] == [mixed[0].logprobs, mixed[5].logprobs]


def prompt_scores(engine: Engine, variant: str | None) -> np.ndarray:
    request = replace(asked([variant] * 9)[8], prompt_logprobs=0, max_tokens=0)
    scores = run(engine.loop, [request])[0].prompt_logprobs or ()
    return np.array([score.logprob for score in scores if score.logprob is not None])


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["v1", "v2", "v4"])
def test_a_variant_of_a_packed_base_is_as_near_as_its_merged_model_when_packed(
    tokenizer: Tokenizer, precision: str, name: str
) -> None:
    """To the merged model in float32: what the variant adds is not rounded with the base."""
    base, network = decoder_of(1), merged(decoder_of(1), variant_of(int(name[1:])))
    with opened(network, tokenizer) as engine:
        exact = prompt_scores(engine, None)
    with opened(network, tokenizer, precision=precision) as engine:
        packed = np.abs(prompt_scores(engine, None) - exact).mean()
    with opened(base, tokenizer, name, precision=precision) as engine:
        beside = np.abs(prompt_scores(engine, name) - exact).mean()
    assert len(exact) > 20
    assert beside < 1.3 * packed  # about 50 tokens: the two means differ by chance


def test_the_prefix_cache_keeps_variants_and_their_base_apart(tokenizer: Tokenizer) -> None:
    prompt = tuple(range(100))
    with opened(decoder_of(1), tokenizer, "v1", "v2", prefix_cache="on") as engine:
        one = Request("r", prompt, 8, Sampling(temperature=0))
        same = [replace(one, variant=name) for name in (None, "v1", "v2")]
        rounds = [[run(engine.loop, [request])[0] for request in same] for _ in range(2)]
        engine.remove_variant("v1")
        engine.add_variant("v1", variant_of(5))  # another one under the same name
        other = run(engine.loop, [replace(one, variant="v1")])[0]
    assert [reply.num_cached_tokens > 0 for reply in rounds[0]] == [False] * 3
    assert [reply.num_cached_tokens > 0 for reply in rounds[1]] == [True] * 3
    assert other.num_cached_tokens == 0
    assert [reply.token_ids for reply in rounds[0]] == [reply.token_ids for reply in rounds[1]]
    assert all(a.token_ids != b.token_ids for a, b in itertools.combinations(rounds[0], 2))


def test_a_swap_of_the_base_keeps_variants(tokenizer: Tokenizer) -> None:
    requests = asked(["v1", None, "v2"])
    with opened(decoder_of(1), tokenizer, "v1", "v2") as engine:
        run(engine.loop, requests)
        engine.swap_weights(folder(decoder_of(2), tokenizer))
        swapped = run(engine.loop, requests)
    with opened(decoder_of(2), tokenizer, "v1", "v2") as engine:
        want = run(engine.loop, requests)
    assert [r.logprobs for r in swapped] == [r.logprobs for r in want]


def test_a_variant_goes_and_its_place_is_used_again(tokenizer: Tokenizer) -> None:
    with opened(decoder_of(1), tokenizer, "v1", "v2") as engine:
        before = run(engine.loop, asked(["v2", None]))
        engine.loop.submit(asked(["v1"])[0])
        with pytest.raises(BusyError, match="requests use the variant 'v1'"):
            engine.remove_variant("v1")
        while engine.loop.has_work:
            engine.loop.step()
        engine.remove_variant("v1")
        engine.add_variant("v3", variant_of(3))
        after = run(engine.loop, asked(["v2", None]))
        third = run(engine.loop, asked(["v3"]))
    with opened(decoder_of(1), tokenizer, "v3") as engine:
        assert [r.logprobs for r in run(engine.loop, asked(["v3"]))] == [r.logprobs for r in third]
    assert [r.logprobs for r in after] == [r.logprobs for r in before]


def test_kernels_without_variants_are_named_with_the_way_out(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tuition_kernels

    class Older:
        def __init__(self, *arguments: object, **named: object) -> None:
            self.isa, self.cache_bytes = "avx2", 0

    monkeypatch.setattr(tuition_kernels, "Model", Older)
    with (
        opened(decoder_of(1), tokenizer) as engine,
        pytest.raises(SettingsError, match=r"compute no variants.*pip install \./kernels"),
    ):
        engine.add_variant("v1", variant_of(1))
