"""The native runner against the torch decoder on every instruction set here, and against itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")

import tuition_kernels

from family_shapes import FAMILY_SHAPES
from tuition.core.progress import SilentProgress
from tuition.engine.batch import StepBatch
from tuition.engine.native_runner import NativeRunner
from tuition.engine.native_weights import Formats, PackedWeights, load_packed
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.families import FAMILIES
from tuition.model.folder import ModelFolder
from tuition.model.formats import GROUP
from tuition.model.quantize import dequantize, quantize
from tuition.spec.shape import ModelShape, RopeShape

ISAS = tuition_kernels.available_isas()
FORMATS = ["float32", "bf16", "int8", "int4", "int4min"]
BLOCK, NUM_BLOCKS, LENGTH = 32, 40, 300

EVERYTHING = ModelShape(
    vocab_size=101, hidden_size=72, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=16, mlp_size=90,
    context_length=640, qk_norm=True, qkv_bias=True, output_bias=True, mlp_bias=True, tied_head=False,
    sliding_window=37, window_layers=(1,),
)  # fmt: skip
SHAPES = {
    "every feature": EVERYTHING,
    "one kv head, head_dim 48": ModelShape(
        vocab_size=320, hidden_size=128, num_layers=2, num_heads=5, num_kv_heads=1, head_dim=48, mlp_size=192,
        context_length=640, norm_eps=1e-6,
        rope=RopeShape(theta=500_000.0, kind="llama3", factor=8.0, original_context=128),
    ),
    "as many kv heads, yarn": ModelShape(
        vocab_size=64, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, mlp_size=64,
        context_length=640, rope=RopeShape(kind="yarn", factor=4.0, original_context=160), qkv_bias=True,
    ),
    **FAMILY_SHAPES,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_decoder(shape: ModelShape) -> Decoder:
    generator = torch.Generator().manual_seed(5)
    decoder = Decoder(shape).initialize(0.1, generator).requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 1:  # norms and biases that do something
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            is_scale = name.endswith("norm.weight")
            parameter.copy_(noise + (1 - shape.norm_offset if is_scale else 0))
    return decoder


def folder_of(decoder: Decoder, path: Path = Path("nowhere")) -> ModelFolder:
    """A decoder in memory as if it were a folder."""
    tensors = dict(decoder.named_parameters())

    def no_tokenizer() -> None:
        raise AssertionError("no test asks for it")

    return ModelFolder(
        path=path, family=FAMILIES[0], shape=decoder.shape, manifest=None,
        format="memory", num_bytes=0, read_tensor=lambda name: tensors[name].detach(),
        read_tokenizer=no_tokenizer,  # type: ignore[arg-type]
    )  # fmt: skip


def pack(decoder: Decoder, format: str) -> PackedWeights:
    return load_packed(folder_of(decoder), Formats(format, format, ""), None, SilentProgress())


def make_runner(decoder: Decoder, packed: PackedWeights, isa: str = "auto") -> NativeRunner:
    return NativeRunner(decoder.shape, packed, num_blocks=NUM_BLOCKS, block_size=BLOCK, threads=2, isa=isa)


def rounded(decoder: Decoder, format: str) -> Decoder:
    """The decoder with the weights that the format can say."""
    copy = Decoder(decoder.shape).requires_grad_(False)
    copy.load_state_dict(decoder.state_dict())
    for parameter in copy.parameters():
        if parameter.dim() == 2 and format == "bf16":
            parameter.copy_(parameter.bfloat16())
        elif parameter.dim() == 2 and format != "float32":
            parameter.copy_(dequantize(quantize(parameter, format)))  # type: ignore[arg-type]
    return copy


@torch.inference_mode()
def torch_logits(decoder: Decoder, tokens: Sequence[int]) -> np.ndarray:
    hidden = decoder(torch.tensor([tokens]), DenseContext.of_length(len(tokens)))
    return decoder.logits(hidden)[0].numpy()


def in_groups(x: torch.Tensor) -> torch.Tensor:
    """Activations as the integer formats take them: -127..127 times a scale per row and 32 columns."""
    size = x.shape[-1]
    groups = torch.nn.functional.pad(x, (0, -size % GROUP)).unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, groups / scale, 0).round() * scale).flatten(-2)[..., :size]


class Sequences:
    """Token sequences over shuffled blocks, advanced by any counts; keeps the logits of every token."""

    def __init__(self, tokens: list[list[int]], seed: int = 0) -> None:
        self.tokens, self.done = tokens, [0] * len(tokens)
        self.logits: list[list[np.ndarray]] = [[] for _ in tokens]
        each = -(-max(map(len, tokens)) // BLOCK)
        blocks = np.random.default_rng(seed).permutation(NUM_BLOCKS)[: each * len(tokens)]
        self.tables = blocks.reshape(len(tokens), each).astype(np.int32)

    def advance(self, runner: NativeRunner, counts: dict[int, int]) -> None:
        chosen = [index for index, count in counts.items() if count]
        rows = [self.tokens[i][self.done[i] : self.done[i] + counts[i]] for i in chosen]
        starts = np.cumsum([0] + [len(row) for row in rows])
        positions = [np.arange(self.done[i], self.done[i] + counts[i]) for i in chosen]
        batch = StepBatch(
            token_ids=np.concatenate(rows).astype(np.int32),
            positions=np.concatenate(positions).astype(np.int32),
            starts=starts.astype(np.int32),
            context_lengths=np.array([self.done[i] for i in chosen], np.int32),
            block_tables=np.ascontiguousarray(self.tables[chosen]),
            logit_rows=np.arange(starts[-1], dtype=np.int32),
        )
        logits = runner.forward(batch)
        for index, first, last in zip(chosen, starts[:-1], starts[1:], strict=True):
            self.logits[index].append(logits[first:last].copy())
            self.done[index] += counts[index]

    def whole(self, index: int) -> np.ndarray:
        return np.concatenate(self.logits[index])


def draw_tokens(shape: ModelShape, count: int, length: int = LENGTH) -> list[list[int]]:
    return np.random.default_rng(3).integers(0, shape.vocab_size, (count, length)).tolist()


def alone(
    decoder: Decoder, packed: PackedWeights, tokens: list[list[int]], isa: str = "auto"
) -> list[np.ndarray]:
    """Logits of each sequence computed by itself, in one chunk."""
    results = []
    for index in range(len(tokens)):
        sequences = Sequences(tokens)
        sequences.advance(make_runner(decoder, packed, isa), {index: len(tokens[index])})
        results.append(sequences.whole(index))
    return results


@pytest.mark.parametrize("name", SHAPES)
def test_float32_is_the_torch_decoder(name: str) -> None:
    """Only the order of sums differs, on every instruction set."""
    decoder = make_decoder(SHAPES[name])
    tokens = draw_tokens(decoder.shape, 1)
    packed, want = pack(decoder, "float32"), torch_logits(decoder, tokens[0])
    for isa in ISAS:
        np.testing.assert_allclose(alone(decoder, packed, tokens, isa)[0], want, rtol=0, atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["every feature", "gemma3", "gpt2"])
def test_activations_of_any_size_are_those_of_torch(name: str, isa: str) -> None:
    """SiLU and GELU go to 0 on one side, where e^-x goes beyond float32."""
    decoder = make_decoder(SHAPES[name])
    inner = [layer.mlp.up if layer.mlp.gate is None else layer.mlp.gate for layer in decoder.layers]
    for matrix in inner:
        matrix.weight *= torch.logspace(0, 3, len(matrix.weight))[:, None]  # sums up to some thousand
    tokens = draw_tokens(decoder.shape, 1, 40)
    got, want = alone(decoder, pack(decoder, "float32"), tokens, isa)[0], torch_logits(decoder, tokens[0])
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize(("format", "bound"), [("float32", 1e-4), ("bf16", 2e-2), ("int8", 6e-2)])
@pytest.mark.parametrize("head_dim", [2, 8, 20, 24])
def test_heads_of_any_even_size_are_filled_up(head_dim: int, format: str, bound: float) -> None:
    """Zeros change nothing but, in int8, which weights share a scale."""
    shape = replace(EVERYTHING, head_dim=head_dim, qk_norm=False)
    decoder = make_decoder(shape)
    tokens = draw_tokens(shape, 1)
    want = torch_logits(decoder, tokens[0])
    got = alone(decoder, pack(decoder, format), tokens)[0]
    assert np.sqrt(np.mean((got - want) ** 2)) < bound * want.std()


@pytest.mark.parametrize(("name", "head_dim"), [("phi3", 26), ("gpt2", 12), ("granite", 20)])
def test_heads_of_families_are_filled_up(name: str, head_dim: int) -> None:
    """Where only a part of a head turns, where nothing does, and where the scale is not that of the head."""
    shape = replace(FAMILY_SHAPES[name], head_dim=head_dim)
    decoder = make_decoder(shape)
    tokens = draw_tokens(shape, 1)
    got = alone(decoder, pack(decoder, "float32"), tokens)[0]
    np.testing.assert_allclose(got, torch_logits(decoder, tokens[0]), rtol=0, atol=1e-3)


def test_a_head_that_is_normed_by_itself_is_not_filled_up() -> None:
    with pytest.raises(ValueError, match="head_dim"):
        pack(make_decoder(replace(EVERYTHING, head_dim=8)), "float32")


# bf16 rounds activations, keys, values, queries and weights of attention to 8 bits of mantissa; the integer
# formats round activations to 8 bits of the largest in 32, which on random weights is the coarser of the two.
@pytest.mark.parametrize(
    ("format", "bound"), [("bf16", 2e-2), ("int8", 4e-2), ("int4", 4e-2), ("int4min", 4e-2)]
)
@pytest.mark.parametrize("name", SHAPES)
def test_a_format_computes_what_its_rounded_weights_give(name: str, format: str, bound: float) -> None:
    decoder = make_decoder(SHAPES[name])
    tokens = draw_tokens(decoder.shape, 1)
    want = torch_logits(rounded(decoder, format), tokens[0])
    got = alone(decoder, pack(decoder, format), tokens)[0]
    assert np.sqrt(np.mean((got - want) ** 2)) < bound * want.std()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["int8", "int4", "int4min"])
def test_one_product_is_that_of_rounded_weights_and_activations(format: str, isa: str) -> None:
    """The head alone, with layers that add nothing: its sums are exact but for float32's order. A scale for a
    row instead of 32 columns, or any other rounding, is off by hundreds of times the bound.
    """
    decoder = make_decoder(EVERYTHING)
    for name, parameter in decoder.named_parameters():
        if "output" in name or "down" in name:
            parameter.zero_()
    tokens = draw_tokens(EVERYTHING, 1, 40)
    reference = rounded(decoder, format)
    with torch.inference_mode():
        hidden = reference(torch.tensor(tokens), DenseContext.of_length(40))
        want = reference.logits(in_groups(hidden))[0].numpy()
    got = alone(decoder, pack(decoder, format), tokens, isa)[0]
    assert np.median(np.abs(got - want)) < 1e-5 * want.std()  # now and then a tie is rounded the other way
    assert np.sqrt(np.mean((got - want) ** 2)) < 1e-3 * want.std()


@pytest.mark.parametrize("format", FORMATS)
def test_instruction_sets_with_fused_sums_give_the_same_bits(format: str) -> None:
    """AMX, AVX-512 and AVX2 sum in one order; plain C++ rounds twice where they fuse.

    AVX-512 BF16 multiplies pairs of bf16 in an order of its own, and all formats but float32 attend in bf16.
    A last bit that differs moves an activation of the integer formats across a rounding now and then, so all
    that can be said of these paths is that they differ by no more than the rounding itself.
    """
    decoder = make_decoder(EVERYTHING)
    tokens, packed = draw_tokens(EVERYTHING, 1), pack(decoder, format)
    results = {isa: alone(decoder, packed, tokens, isa)[0] for isa in ISAS}
    own_order = {"portable"} if format == "float32" else {"portable", "avx512bf16"}
    fused = [results[isa] for isa in ISAS if isa not in own_order]
    for other in fused[1:]:
        np.testing.assert_array_equal(fused[0], other)
    for isa in own_order & results.keys() if fused else ():
        assert np.sqrt(np.mean((results[isa] - fused[0]) ** 2)) < 0.02 * fused[0].std()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(format: str, isa: str) -> None:
    """Random mixtures of decodes and prefill chunks over other blocks change no bit of anybody's logits."""
    decoder = make_decoder(EVERYTHING)
    tokens, packed = draw_tokens(EVERYTHING, 4), pack(decoder, format)
    want = alone(decoder, packed, tokens, isa)
    rng = np.random.default_rng(11)
    sequences = Sequences(tokens, seed=9)
    runner = make_runner(decoder, packed, isa)
    while min(sequences.done) < LENGTH:
        left = [LENGTH - done for done in sequences.done]
        counts = {i: min(left[i], int(rng.choice([0, 1, 1, 1, 2, 3, 5, 17, 64, 130]))) for i in range(4)}
        if any(counts.values()):
            sequences.advance(runner, counts)
    for index in range(4):
        np.testing.assert_array_equal(sequences.whole(index), want[index])


@pytest.mark.parametrize("format", ["float32", "bf16", "int8"])
@pytest.mark.parametrize("name", FAMILY_SHAPES)
def test_a_row_of_any_family_has_the_same_bits_alone_and_in_a_batch(name: str, format: str) -> None:
    """Norms behind a block and over all heads have barriers of their own, and single rows another way."""
    decoder = make_decoder(FAMILY_SHAPES[name])
    tokens, packed = draw_tokens(decoder.shape, 3, length=90), pack(decoder, format)
    want = alone(decoder, packed, tokens)
    sequences, runner = Sequences(tokens, seed=9), make_runner(decoder, packed)
    for counts in ((1, 0, 0), (1, 3, 0), (0, 40, 1), (88, 1, 1), (0, 46, 88)):
        sequences.advance(runner, dict(enumerate(counts)))
    for index in range(3):
        np.testing.assert_array_equal(sequences.whole(index), want[index])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["float32", "bf16"])
def test_a_row_has_the_same_bits_alone_where_weights_come_from_memory(format: str, isa: str) -> None:
    """A lone row reads them block after block once they are more than 32 MiB: the vocabulary is large."""
    decoder = make_decoder(replace(EVERYTHING, vocab_size=70_001))
    tokens, packed = draw_tokens(decoder.shape, 1, length=6), pack(decoder, format)
    assert len(packed.buffer) > 32 << 20
    want = alone(decoder, packed, tokens, isa)[0]
    sequences, runner = Sequences(tokens), make_runner(decoder, packed, isa)
    for _ in tokens[0]:
        sequences.advance(runner, {0: 1})
    np.testing.assert_array_equal(sequences.whole(0), want)


def test_blocks_of_earlier_sequences_leave_no_trace() -> None:
    """NaN keys and values of a poisoned request must not reach whoever gets its blocks next."""
    decoder = make_decoder(EVERYTHING)
    tokens = draw_tokens(EVERYTHING, 1)
    packed = pack(decoder, "bf16")
    runner = make_runner(decoder, packed)
    want = alone(decoder, packed, tokens)[0]
    part = {name: (offset, size) for name, _, _, _, offset, size in packed.config.parts()}
    offset, size = part["layers.0.qkv_bias"]
    bias = packed.buffer[offset : offset + size].view(np.float32)
    kept = bias.copy()
    bias[:] = np.nan
    Sequences(tokens).advance(runner, {0: LENGTH})
    bias[:] = kept
    sequences = Sequences(tokens)
    for count in (1, 30, 1, 40, 200, 28):
        sequences.advance(runner, {0: count})
    np.testing.assert_array_equal(sequences.whole(0), want)


def test_only_wanted_rows_are_returned() -> None:
    decoder = make_decoder(EVERYTHING)
    tokens, packed = draw_tokens(EVERYTHING, 1), pack(decoder, "int8")
    want = alone(decoder, packed, tokens)[0]
    runner = make_runner(decoder, packed)
    for rows in ([], [0], [LENGTH - 1], [3, 4, 99]):
        batch = StepBatch(
            token_ids=np.array(tokens[0], np.int32), positions=np.arange(LENGTH, dtype=np.int32),
            starts=np.array([0, LENGTH], np.int32), context_lengths=np.array([0], np.int32),
            block_tables=Sequences(tokens).tables, logit_rows=np.array(rows, np.int32),
        )  # fmt: skip
        np.testing.assert_array_equal(runner.forward(batch), want[rows])


def test_a_batch_that_does_not_fit_is_refused() -> None:
    decoder = make_decoder(EVERYTHING)
    runner = make_runner(decoder, pack(decoder, "float32"))
    good = {"token_ids": [1], "positions": [0], "starts": [0, 1], "context_lengths": [0], "logit_rows": [0]}
    for field, value in (
        ("token_ids", [101]), ("positions", [1]), ("starts", [0, 2]), ("context_lengths", [640]),
        ("logit_rows", [1]), ("block_tables", [[NUM_BLOCKS]]),
    ):  # fmt: skip
        fields = good | {"block_tables": [[0]]} | {field: value}
        with pytest.raises(ValueError, match=r"got .* wanted"):
            runner.forward(StepBatch(**{name: np.array(data, np.int32) for name, data in fields.items()}))
