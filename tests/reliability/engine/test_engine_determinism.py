"""N1: prompts alone and inside random batches, the real network in deterministic mode: 0 bit differences.

Orders, sizes, chunk borders, cached prefixes, preemption and guesses differ from batch to batch, and each of
them is counted, so that a run in which none happened proves nothing and fails.
"""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_runs import SilentTokenizer
from tuition.core.progress import SilentProgress
from tuition.core.records import SequenceWork
from tuition.engine.batch import Runner, StepBatch
from tuition.engine.request import Completion, Request, Sampling, complete
from tuition.engine.settings import EngineSettings
from tuition.engine.speculation import PromptLookup
from tuition.engine.step import StepLoop
from tuition.engine.torch_runner import TorchRunner
from tuition.model.decoder import Decoder
from tuition.model.families import FAMILIES
from tuition.model.folder import ModelFolder
from tuition.spec.shape import ModelShape

HAS_KERNELS = importlib.util.find_spec("tuition_kernels") is not None
if HAS_KERNELS:
    import tuition_kernels

    from tuition.engine.native_runner import NativeRunner
    from tuition.engine.native_weights import Formats, load_packed

needs_kernels = pytest.mark.skipif(
    not HAS_KERNELS,
    reason="NOT SHOWN for the runner that users get: tuition_kernels is not installed (make setup builds it)",
)
ISAS = tuition_kernels.available_isas() if HAS_KERNELS else ["auto"]
TORCH = ["torch float32", "torch bf16"]
NATIVE = [pytest.param(f"native {form}", marks=needs_kernels) for form in ("float32", "bf16", "int8", "int4")]

VOCAB = 37
TORCH_SHAPE = ModelShape(
    vocab_size=VOCAB, hidden_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=10, mlp_size=70,
    context_length=96, sliding_window=20, window_layers=(1,),
)  # fmt: skip
NATIVE_SHAPE = ModelShape(
    vocab_size=VOCAB, hidden_size=72, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=90,
    context_length=384, sliding_window=50, window_layers=(1,),
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One network in one precision; `open(settings, num_blocks)` gives a runner with an empty cache."""

    block_size: int
    open: Callable[[EngineSettings, int], Runner]


@cache
def subject(kind: str, isa: str = "auto") -> Subject:
    """`torch bf16`, `native int8`: the weights are packed once."""
    runner, precision = kind.split()
    shape = TORCH_SHAPE if runner == "torch" else NATIVE_SHAPE
    decoder = Decoder(shape).initialize(0.3, torch.Generator().manual_seed(2)).requires_grad_(False)
    if runner == "torch":
        decoder = decoder.to(torch.float32 if precision == "float32" else torch.bfloat16)
        return Subject(8, lambda settings, blocks: TorchRunner(decoder, settings, num_blocks=blocks))
    head = "int8" if precision == "int4" else precision
    packed = load_packed(as_folder(decoder), Formats(precision, head, "asked for"), None, SilentProgress())
    return Subject(
        32,
        lambda settings, blocks: NativeRunner(
            shape, packed, num_blocks=blocks, block_size=settings.block_size, threads=2, isa=isa
        ),
    )


def as_folder(decoder: Decoder) -> ModelFolder:
    tensors = dict(decoder.named_parameters())
    return ModelFolder(
        path=Path("nowhere"), family=FAMILIES[0], shape=decoder.shape, manifest=None,
        format="memory", num_bytes=0, read_tensor=lambda name: tensors[name].detach(),
        read_tokenizer=SilentTokenizer,  # type: ignore[arg-type]
    )  # fmt: skip


class OneBitOff:
    """The planted fault: the first row of a step moves by its last bit when there are several sequences."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def forward(self, batch: StepBatch) -> np.ndarray:
        logits = self._runner.forward(batch).copy()
        if len(batch.context_lengths) > 1 and len(logits):
            logits[0] = np.nextafter(logits[0], np.float32(np.inf))
        return logits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class AlwaysDrafts(PromptLookup):
    """Drafts at every chance, whatever it costs."""

    def pays(self, num_decodes: int) -> bool:
        return True


def make_loop(
    of: Subject, *, num_blocks: int = 64, deterministic: bool = True, faulty: bool = False, **chosen
) -> StepLoop:
    settings = EngineSettings(**({"block_size": of.block_size} | chosen), deterministic=deterministic)
    runner = of.open(settings, num_blocks)
    return StepLoop(
        OneBitOff(runner) if faulty else runner,  # type: ignore[arg-type]
        SilentTokenizer(),
        settings,
        drafter=AlwaysDrafts() if settings.speculation == "auto" else None,
    )


def prompts(count: int, block_size: int) -> list[Request]:
    """Up to four blocks in common at the beginning; every third repeats its end, so that guesses stand."""
    random, block = np.random.default_rng(8), block_size
    shared = random.integers(0, VOCAB, 4 * block).tolist()
    asked = []
    for i in range(count):
        own = random.integers(0, VOCAB, random.integers(1, 4 * block - 2)).tolist()
        prompt = shared[: random.integers(4 * block + 1)] + own
        if i % 3 == 0:
            prompt += own[-5:] * 2
        sampling = Sampling(temperature=0.0 if i % 2 else 1.0, seed=i, top_p=0.95)
        asked.append(
            Request(f"r{i}", tuple(prompt), int(random.integers(4, 3 * block)), sampling, logprobs=3)
        )
    return asked


class Count(Counter[str]):
    """What was compared, what differed, and what happened on the way."""

    def take(self, work: SequenceWork, prompt: int) -> None:
        self["guesses"] += work.num_tokens - 1 if work.phase == "decode" else 0
        self["confirmed"] += work.num_tokens - 1 - work.num_wasted if work.phase == "decode" else 0
        self["chunks"] += work.phase == "prefill" and work.context_tokens + work.num_tokens < prompt

    @property
    def differences(self) -> tuple[int, int]:
        return self["tokens"], self["bits"]

    def line(self, name: str) -> str:
        return (
            f"{name}: {self['replies']} replies in random batches, {self['tokens']} with other tokens, "
            f"{self['bits']} with other logprob bits; {self['chunks']} cut prompts, {self['preemptions']} "
            f"preemptions, {self['cached']} tokens from the prefix cache, {self['confirmed']} of "
            f"{self['guesses']} guesses confirmed"
        )


def run(loop: StepLoop, asked: list[Request], count: Count) -> dict[str, Completion]:
    events: dict[str, list] = {request.id: [] for request in asked}
    length = {request.id: len(request.prompt) for request in asked}
    before = loop.scheduler.num_preemptions
    for request in asked:
        loop.submit(request)
    while loop.has_work:
        told, trace = loop.step()
        for event in told:
            events[event.request_id].append(event)
        for work in trace.work if trace else ():
            count.take(work, length[work.request_id])
    count["preemptions"] += loop.scheduler.num_preemptions - before
    return {name: complete(found) for name, found in events.items()}


def compare(of: Subject, num_prompts: int, num_batches: int, *, faulty: bool = False, **fixed) -> Count:
    """Each prompt alone, in a fresh engine, and then in random company."""
    asked = prompts(num_prompts, of.block_size)
    alone: dict[str, Completion] = {}
    for one in asked:
        alone |= run(make_loop(of, prefix_cache="off", speculation="off", **fixed), [one], Count())
    random, count = np.random.default_rng(1), Count()
    loop = None
    for batch in range(num_batches):
        if loop is None or batch % 5 == 0:  # some batches meet the cache of those before
            loop = make_loop(
                of,
                faulty=faulty,
                num_blocks=int(random.choice([12, 20, 64])),
                token_budget=of.block_size * int(random.choice([1, 3, 8, 32])),
                max_batch=int(random.choice([2, 5, 8])),
                speculation=str(random.choice(["off", "auto"])),
                **fixed,
            )
        chosen = random.permutation(num_prompts)[: random.integers(2, 9)]
        for name, reply in run(loop, [asked[i] for i in chosen], count).items():
            assert reply.finish_reason == alone[name].finish_reason == "length", reply.error
            count["replies"] += 1
            count["cached"] += reply.num_cached_tokens
            count["tokens"] += reply.token_ids != alone[name].token_ids
            count["bits"] += reply.logprobs != alone[name].logprobs
    return count


def expect_all_of_it(count: Count) -> None:
    for what in ("chunks", "preemptions", "cached", "guesses", "confirmed"):
        assert count[what] > 0, f"no {what}: nothing is shown about it"


@pytest.mark.parametrize("kind", [*TORCH, *NATIVE])
def test_no_bit_depends_on_the_batch(kind: str) -> None:
    count = compare(subject(kind), 6, 9)
    print(count.line(f"N1 {kind}"))
    assert count["replies"] > 30
    expect_all_of_it(count)
    assert count.differences == (0, 0)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("kind", [*TORCH, *NATIVE])
def test_fifty_prompts_in_two_hundred_batches(kind: str) -> None:
    count = compare(subject(kind), 50, 200)
    print(count.line(f"N1 {kind}"))
    expect_all_of_it(count)
    assert count.differences == (0, 0)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("kind", NATIVE)
def test_no_bit_depends_on_the_batch_on_lesser_instruction_sets(kind: str, isa: str) -> None:
    count = compare(subject(kind, isa), 12, 40)
    print(count.line(f"N1 {kind} {isa}"))
    expect_all_of_it(count)
    assert count.differences == (0, 0)


@pytest.mark.parametrize("kind", ["torch float32", pytest.param("native int8", marks=needs_kernels)])
def test_the_comparison_finds_a_last_bit_that_depends_on_the_batch(kind: str) -> None:
    """The control: a planted fault in one row of each step of several sequences."""
    count = compare(subject(kind), 8, 4, faulty=True)
    assert count["bits"] > 0


def test_the_comparison_sees_the_default_mode_differ() -> None:
    """The control: without the mode, last bits depend on the batch, and this test finds them."""
    count = compare(subject("torch float32"), 8, 6, deterministic=False)
    print(count.line("N2 torch float32"))
    assert count["bits"] > 0
    assert count["tokens"] <= max(1, count["replies"] // 100)
