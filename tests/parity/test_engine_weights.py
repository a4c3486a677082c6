"""Real runners with weights that are swapped in memory, and variants of weights in one step.

The reference of a variant is a decoder whose matrices are the sum: weight + up @ down.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine_runs import SilentTokenizer, merged, run
from tuition.core.errors import ModelError, ShapeError
from tuition.engine.engine import Engine
from tuition.engine.request import Completion, Request, Sampling, complete
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.torch_graphs import DecodeGraphs
from tuition.engine.torch_runner import TorchRunner
from tuition.engine.variants import LAST_PARTS, LowRank, Variant
from tuition.model.decoder import Decoder
from tuition.model.digest import weights_digest
from tuition.model.folder import ModelFolder
from tuition.model.memory import model_in_memory
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(
    vocab_size=276, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=96,
    context_length=128, sliding_window=20, window_layers=(0, 1),
)  # fmt: skip
REPLY = 12
has_kernels = importlib.util.find_spec("tuition_kernels") is not None
needs_kernels = pytest.mark.skipif(not has_kernels, reason="tuition_kernels is not installed (make setup)")
RUNNERS = ["torch", pytest.param("native", marks=needs_kernels)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)


def decoder_of(seed: int, shape: ModelShape = SHAPE) -> Decoder:
    return Decoder(shape).initialize(0.3, torch.Generator().manual_seed(seed)).requires_grad_(False)


def in_memory(decoder: Decoder, tokenizer: Tokenizer) -> ModelFolder:
    return model_in_memory(decoder.shape, dict(decoder.named_parameters()), lambda: tokenizer)


def settings(**changes) -> EngineSettings:
    fixed = {"precision": "float32", "device": "cpu", "threads": 1, "cache_bytes": "8MiB"}
    return EngineSettings(**(fixed | {"speculation": "off", "prefix_cache": "off"} | changes))


def variant_of(seed: int, only: tuple[str, ...] = LAST_PARTS) -> Variant:
    random = np.random.default_rng(seed)
    changes = {}
    for name, shape in SHAPE.tensor_shapes().items():
        if name.endswith(only):
            down = random.standard_normal((3, shape[1])).astype(np.float32)
            changes[name] = LowRank(down, random.standard_normal((shape[0], 3)).astype(np.float32) * 0.05)
    return Variant(changes)


VARIANTS = {
    "all": variant_of(1),
    "query": variant_of(2, ("query.weight",)),
    "mlp": variant_of(3, LAST_PARTS[4:]),
}


def asked(variants: list[str | None], **fields) -> list[Request]:
    random = np.random.default_rng(7)
    return [
        Request(
            f"r{i}", tuple(random.integers(0, 270, random.integers(3, 50)).tolist()), REPLY,
            Sampling(temperature=0.0 if i % 3 else 0.7, seed=i), logprobs=1, variant=variant, **fields,
        )
        for i, variant in enumerate(variants)
    ]  # fmt: skip


def loop_of(decoder: Decoder, *, variants: bool = True, graphs: bool = False, **changes) -> StepLoop:
    """`graphs`: the path of CUDA graphs, on the CPU without recording."""
    chosen = settings(**({"block_size": 8, "token_budget": 64, "max_batch": 16} | changes))
    runner = TorchRunner(decoder, chosen, num_blocks=160)
    if graphs:
        runner.graphs = DecodeGraphs(runner.decoder, runner.cache, 16)
    loop = StepLoop(runner, SilentTokenizer(), chosen)
    for name, variant in VARIANTS.items() if variants else ():
        loop.add_variant(name, variant)
    return loop


def logprobs_of(replies: list[Completion]) -> list[float]:
    return [score.logprob or 0.0 for reply in replies for score in reply.logprobs]


# ---- variants


WAYS = [
    {}, {"token_budget": 17}, {"speculation": "auto"}, {"deterministic": True}, {"prefix_cache": "on"},
    {"graphs": True},
]  # fmt: skip


@pytest.mark.parametrize("changes", WAYS, ids=lambda changes: " ".join(changes) or "plain")
def test_mixed_variants_equal_networks_with_the_sums_for_weights(changes: dict) -> None:
    base = decoder_of(1)
    requests = asked([None, *VARIANTS] * 3)
    found = run(loop_of(base, **changes), requests)
    for name in (None, *VARIANTS):
        network = base if name is None else merged(base, VARIANTS[name])
        mine = [i for i, request in enumerate(requests) if request.variant == name]
        plain = asked([None] * len(requests))
        want = run(loop_of(network, variants=False), [plain[i] for i in mine])
        assert [found[i].token_ids for i in mine] == [reply.token_ids for reply in want]
        # float32: the sum of two products against the product of a sum
        assert logprobs_of([found[i] for i in mine]) == pytest.approx(logprobs_of(want), abs=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_mixed_variants_in_one_batch_equal_each_alone_to_the_last_bit(dtype: torch.dtype) -> None:
    base = decoder_of(1).to(dtype)
    requests = asked([None, *VARIANTS] * 3)
    mixed = run(loop_of(base, deterministic=True), requests)
    for request, reply in zip(requests, mixed, strict=True):
        alone = run(loop_of(base, deterministic=True), [request])[0]
        assert (alone.token_ids, alone.logprobs) == (reply.token_ids, reply.logprobs)


def test_without_the_variants_of_others_a_step_is_as_before() -> None:
    base, requests = decoder_of(1), asked([None] * 6)
    with_hooks, without = (run(loop_of(base, variants=on), requests) for on in (True, False))
    assert [r.logprobs for r in with_hooks] == [r.logprobs for r in without]


def test_a_variant_that_is_removed_changes_nothing_any_more() -> None:
    base, requests = decoder_of(1), asked([None] * 4)
    want = run(loop_of(base, variants=False), requests)
    loop = loop_of(base)
    run(loop, asked(["all", "query", "mlp", None]))
    for name in VARIANTS:
        loop.remove_variant(name)
    assert [r.logprobs for r in run(loop, requests)] == [r.logprobs for r in want]
    assert loop.runner.weights_digest() == weights_digest(base.named_parameters())


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_program_names_a_variant_by_its_request(tokenizer: Tokenizer, kind: str) -> None:
    base = decoder_of(1)
    with Engine(in_memory(base, tokenizer), settings=settings(runner=kind)) as engine:
        engine.add_variant("all", VARIANTS["all"])
        changed = engine.generate([[1, 2, 3]], max_tokens=8, temperature=0, variant="all", ignore_eos=True)[0]
        plain = engine.generate([[1, 2, 3]], max_tokens=8, temperature=0, ignore_eos=True)[0]
    network = in_memory(merged(base, VARIANTS["all"]), tokenizer)
    with Engine(network, settings=settings(runner=kind)) as engine:
        want = engine.generate([[1, 2, 3]], max_tokens=8, temperature=0, ignore_eos=True)[0]
    assert changed.token_ids == want.token_ids != plain.token_ids


# ---- swaps


@pytest.mark.parametrize("precision", ["float32", "bf16", pytest.param("int8", marks=needs_kernels)])
@pytest.mark.parametrize("kind", RUNNERS)
def test_after_a_swap_a_runner_is_the_one_that_was_loaded_with_these_weights(
    tokenizer: Tokenizer, kind: str, precision: str
) -> None:
    """Bit for bit, with the digest of the new weights; the network that they came from stays as it is."""
    if (kind, precision) == ("torch", "int8"):
        pytest.skip("the torch runner has no int8")
    chosen = settings(runner=kind, precision=precision)
    old, new = decoder_of(1), decoder_of(2)
    requests = asked([None] * 4)
    with Engine(in_memory(new, tokenizer), settings=chosen) as engine:
        want, digest = run(engine.loop, requests), engine.runner.weights_digest()
    with Engine(in_memory(old, tokenizer), settings=chosen) as engine:
        before = run(engine.loop, requests)
        engine.swap_weights(in_memory(new, tokenizer))
        after = run(engine.loop, requests)
        assert engine.runner.weights_digest() == digest
        new.embedding.weight += 1.0  # what is taught on does not change what is served
        again = run(engine.loop, requests)
    assert [r.logprobs for r in after] == [r.logprobs for r in want] == [r.logprobs for r in again]
    assert [r.token_ids for r in before] != [r.token_ids for r in after]
    if (kind, precision) != ("torch", "bf16"):  # there the tensors in memory are the rounded ones
        assert digest == weights_digest(decoder_of(2).named_parameters())


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("fault", ["shape", "nan"])
def test_weights_that_cannot_be_used_are_refused_and_the_old_ones_stay(
    tokenizer: Tokenizer, kind: str, fault: str
) -> None:
    bad = decoder_of(2, replace(SHAPE, mlp_size=128) if fault == "shape" else SHAPE)
    if fault == "nan":
        bad.layers[1].mlp.down.weight[3, 5] = float("nan")
    requests = asked([None] * 3)
    with Engine(in_memory(decoder_of(1), tokenizer), settings=settings(runner=kind)) as engine:
        before, digest = run(engine.loop, requests), engine.runner.weights_digest()
        message = "swap_weights" if fault == "shape" else r"NaN or an infinity in layers\.1\.mlp\.down"
        with pytest.raises((ShapeError, ModelError), match=message):
            engine.swap_weights(in_memory(bad, tokenizer))
        assert engine.runner.weights_digest() == digest
        assert [r.logprobs for r in run(engine.loop, requests)] == [r.logprobs for r in before]


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_swap_in_the_middle_of_replies_goes_on_as_a_prompt_of_their_tokens_would(
    tokenizer: Tokenizer, kind: str
) -> None:
    chosen = settings(runner=kind)
    requests = asked([None] * 5)
    events: dict[str, list] = {request.id: [] for request in requests}
    with Engine(in_memory(decoder_of(1), tokenizer), settings=chosen) as engine:
        loop = engine.loop
        for request in requests:
            loop.submit(request)
        for _ in range(5):
            for event in loop.step()[0]:
                events[event.request_id].append(event)
        kept = {name: [t for event in found for t in event.token_ids] for name, found in events.items()}
        engine.swap_weights(in_memory(decoder_of(2), tokenizer))
        while loop.has_work:
            for event in loop.step()[0]:
                events[event.request_id].append(event)
            loop.check()
    assert all(0 < len(tokens) < REPLY for tokens in kept.values())
    with Engine(in_memory(decoder_of(2), tokenizer), settings=chosen) as engine:
        for request in requests:
            tokens = kept[request.id]
            rest = Request("rest", (*request.prompt, *tokens), REPLY - len(tokens), request.sampling)
            want = run(engine.loop, [rest])[0]
            assert list(complete(events[request.id]).token_ids) == [*tokens, *want.token_ids]


def test_a_model_in_memory_needs_exactly_its_tensors(tokenizer: Tokenizer) -> None:
    tensors = dict(decoder_of(1).named_parameters())
    tensors.pop("norm.weight")
    with pytest.raises(ShapeError, match="exactly the tensors"):
        model_in_memory(SHAPE, tensors, lambda: tokenizer)
