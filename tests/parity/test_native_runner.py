"""The native runner around its kernels: precision, cache of packed weights, digests, refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")

from tuition.core.errors import CapacityError, ModelError, SettingsError
from tuition.engine import native_runner, native_weights
from tuition.engine.batch import StepBatch
from tuition.engine.native_runner import NativeRunner, refusal
from tuition.engine.native_weights import Formats, choose_formats, huge_buffer, load_packed
from tuition.engine.pace import Pace
from tuition.engine.request import Request, Sampling, complete
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.save import save_model
from tuition.plan.memory import weight_bytes
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(
    vocab_size=276, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=96,
    context_length=128,
)  # fmt: skip


class Listener:
    """Remembers what was said; a `Progress` of its own kind."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: str) -> None:
        self.say(text)

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    def task(self, label: str, total: float | None = None, unit: str = "") -> "Listener":
        self.lines.append(label)
        return self

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    tokenizer = train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)
    decoder = Decoder(SHAPE).initialize(0.1, torch.Generator().manual_seed(2))
    return save_model(tmp_path_factory.mktemp("native") / "model", decoder, SHAPE, tokenizer, dtype="float32")


def settings(**changes: object) -> EngineSettings:
    return replace(EngineSettings(cache_bytes="8MiB", max_batch=4, token_budget=64, threads=1), **changes)


def load(path: Path, cache: Path, listener: Listener | None = None, **changes: object) -> NativeRunner:
    return NativeRunner.load(
        open_model(path), settings(**changes), listener or Listener(), cache_folder=cache
    )


def one_step(runner: NativeRunner) -> np.ndarray:
    tokens = np.arange(5, 25, dtype=np.int32)
    return runner.forward(StepBatch(
        token_ids=tokens, positions=np.arange(20, dtype=np.int32), starts=np.array([0, 20], np.int32),
        context_lengths=np.array([0], np.int32), block_tables=np.array([[0]], np.int32),
        logit_rows=np.array([19], np.int32),
    )).copy()  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bf16", "int8", "int4", "auto"])
def test_weights_from_the_cache_compute_the_same(model_path: Path, tmp_path: Path, precision: str) -> None:
    first, second = Listener(), Listener()
    packed_now = load(model_path, tmp_path, first, precision=precision)
    from_cache = load(model_path, tmp_path, second, precision=precision)
    assert "pack weights" in first.lines
    assert "pack weights" not in second.lines
    np.testing.assert_array_equal(one_step(packed_now), one_step(from_cache))
    assert packed_now.weights_digest() == from_cache.weights_digest() == open_model(model_path).digest()


DRAWN = [
    Sampling(seed=5), Sampling(temperature=0.0), Sampling(temperature=0.7, top_k=40, seed=-3),
    Sampling(temperature=2.0, top_p=0.9, min_p=0.02, seed=2**63 - 1),
    Sampling(temperature=1.3, min_p=0.1, seed=2),
]  # fmt: skip


def replies(path: Path, cache: Path, order: list[int], max_batch: int, pace: Pace | None = None) -> dict:
    """Token ids of each of `DRAWN` in this order, and the most steps that a call took.

    No `pace`: the usual one, but a busy machine does not cut bursts short.
    """
    runner = load(path, cache, precision="float32", threads=2, max_batch=max_batch)
    loop = StepLoop(
        runner, open_model(path).tokenizer(), settings(max_batch=max_batch, speculation="off"),
        pace=pace or Pace(max_seconds=60.0),
    )  # fmt: skip
    for i in order:
        prompt = tuple(range(10 + i, 30 + 2 * i))
        loop.submit(Request(f"r{i}", prompt, 50, DRAWN[i], ignore_eos=True))
    events: dict[str, list] = {}
    most = 0
    while loop.has_work:
        told, trace = loop.step()
        most = max(most, trace.num_steps if trace else 0)
        for event in told:
            events.setdefault(event.request_id, []).append(event)
    return {name: complete(found).token_ids for name, found in events.items()} | {"most": most}


def test_drawn_replies_are_the_same_alone_in_a_batch_in_bursts_and_in_single_steps(
    model_path: Path, tmp_path: Path
) -> None:
    order = list(range(len(DRAWN)))
    together = replies(model_path, tmp_path, order, 4)
    alone = replies(model_path, tmp_path, order[::-1], 1)
    assert together.pop("most") > 30
    assert alone.pop("most") > 30
    single = replies(model_path, tmp_path, order, 4, Pace(max_steps=None))
    assert single.pop("most") == 1
    assert together == alone == single
    assert len(set(single.values())) == len(DRAWN)
    assert {len(tokens) for tokens in single.values()} == {50}


def test_minima_are_counted_before_a_model_is_loaded(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in four bits with minima is a ninth larger than one without."""
    monkeypatch.setattr(native_runner, "available_memory", lambda: weight_bytes(SHAPE, "int4"))
    formats = Formats("int4min", "int8", "a test")
    with pytest.raises(CapacityError, match="this model in int4min") as caught:
        NativeRunner.load(open_model(model_path), settings(), cache_folder=tmp_path, formats=formats)
    assert caught.value.need == weight_bytes(SHAPE, "int4min")


def test_other_rules_of_rounding_use_no_kept_file(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout stays and the bytes change, so a file of the old rules would be served as if it were new."""
    load(model_path, tmp_path, precision="int4")
    monkeypatch.setattr(native_weights, "ROUNDING_VERSION", native_weights.ROUNDING_VERSION + 1)
    listener = Listener()
    load(model_path, tmp_path, listener, precision="int4")
    assert "pack weights" in listener.lines


def test_a_damaged_cache_is_found_and_made_again(model_path: Path, tmp_path: Path) -> None:
    want = one_step(load(model_path, tmp_path, precision="int8"))
    (kept,) = tmp_path.glob("packed-*")
    weights = kept / "weights.bin"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    listener = Listener()
    np.testing.assert_array_equal(one_step(load(model_path, tmp_path, listener, precision="int8")), want)
    assert any("damaged" in line for line in listener.lines)
    assert "pack weights" in listener.lines
    weights.write_bytes(damaged[:100])  # cut short
    np.testing.assert_array_equal(one_step(load(model_path, tmp_path, precision="int8")), want)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000])
def test_a_label_that_is_none_is_packed_again(model_path: Path, tmp_path: Path, text: str) -> None:
    load(model_path, tmp_path, precision="int8")
    (kept,) = tmp_path.glob("packed-*")
    (kept / "packed.json").write_text(text)
    listener = Listener()
    load(model_path, tmp_path, listener, precision="int8")
    assert "pack weights" in listener.lines


@pytest.mark.parametrize("field", ["source_digest", "packed_digest", "num_bytes", "label_digest"])
def test_a_damaged_label_is_found(model_path: Path, tmp_path: Path, field: str) -> None:
    """Otherwise the runner would vouch for tensors that it does not serve."""
    load(model_path, tmp_path, precision="int8")
    (kept,) = tmp_path.glob("packed-*")
    label = json.loads((kept / "packed.json").read_text())
    label[field] = label[field] + 1 if field == "num_bytes" else label[field][::-1]
    (kept / "packed.json").write_text(json.dumps(label))
    listener = Listener()
    again = load(model_path, tmp_path, listener, precision="int8")
    assert any("damaged" in line for line in listener.lines)
    assert again.weights_digest() == open_model(model_path).digest()


def huge_bytes_at(address: int) -> int:
    """AnonHugePages of the mapping that holds `address`, from smaps."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if (span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)) is not None:
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no mapping holds {address:x}")


def test_weights_lie_in_huge_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system gives no transparent huge pages")
    buffer = huge_buffer(5 * 2**20 + 64)
    assert buffer.ctypes.data % 2**21 == 0
    assert not buffer.any()
    buffer[:] = 1
    assert huge_bytes_at(buffer.ctypes.data) >= 6 * 2**20  # the last page too


def test_other_weights_under_the_same_name_are_packed_anew(model_path: Path, tmp_path: Path) -> None:
    tokenizer = open_model(model_path).tokenizer()
    other = Decoder(SHAPE).initialize(0.1, torch.Generator().manual_seed(3))
    path = save_model(tmp_path / "model", other, SHAPE, tokenizer, dtype="float32")
    cache = tmp_path / "cache"
    first = load(model_path, cache, precision="int8")
    second = load(path, cache, precision="int8")
    assert second.weights_digest() == open_model(path).digest() != first.weights_digest()


def test_a_bit_that_flips_in_memory_is_found(model_path: Path, tmp_path: Path) -> None:
    packed = load_packed(open_model(model_path), Formats("bf16", "bf16", ""), tmp_path, Listener())
    runner = NativeRunner(SHAPE, packed, num_blocks=2, threads=1)
    runner.weights_digest()
    packed.buffer[1000] ^= 4
    with pytest.raises(ModelError, match="changed since they were packed"):
        runner.weights_digest()


def test_an_unwritable_cache_is_said_and_not_needed(model_path: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    listener = Listener()
    one_step(load(model_path, blocked, listener, precision="int8"))
    assert any("not kept" in line for line in listener.lines)


def test_auto_says_why(model_path: Path) -> None:
    formats = choose_formats(open_model(model_path), "auto")
    assert formats.body == formats.head == "int8"
    assert formats.reason.startswith("auto: int8")


def test_an_unknown_precision_is_refused(model_path: Path) -> None:
    with pytest.raises(SettingsError, match="int8"):
        choose_formats(open_model(model_path), "fp4")


def test_shapes_that_the_kernels_lack_are_refused_with_a_reason() -> None:
    assert refusal(SHAPE, settings()) is None
    odd = replace(SHAPE, head_dim=24, qk_norm=True)
    assert "head_dim: got 24, wanted a multiple of 16" in str(refusal(odd, settings()))


def test_describe_names_what_computes_and_how_much(model_path: Path, tmp_path: Path) -> None:
    runner = load(model_path, tmp_path, precision="int4")
    assert runner.name.startswith("native int4 with an int8 head (")
    assert "of weights; cache for" in runner.describe()
    assert runner.block_size % 32 == 0
    runner.close()
    with pytest.raises(ValueError, match="closed"):
        runner.weights_digest()


@pytest.mark.parametrize("worth", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, worth: float) -> None:
    tokenizer = train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)
    decoder = Decoder(SHAPE).initialize(0.1, torch.Generator().manual_seed(2))
    decoder.layers[1].attention.query.weight.data[3, 5] = worth
    path = save_model(tmp_path / "model", decoder, SHAPE, tokenizer, dtype="float32")
    for precision in ("float32", "bf16", "int8", "int4"):
        with pytest.raises(ModelError, match=re.escape("layers.1.attention.query.weight")):
            load(path, tmp_path / "cache", precision=precision)
