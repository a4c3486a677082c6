"""What runs a decoder runs every family: paged steps of the torch engine, fixed shapes, teaching."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from family_shapes import FAMILY_SHAPES
from tuition.engine.batch import StepBatch
from tuition.engine.settings import EngineSettings
from tuition.engine.torch_graphs import DecodeGraphs
from tuition.engine.torch_runner import TorchRunner
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.model.save import save_model
from tuition.train.attention import training_context

LENGTH, BLOCK = 100, 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(name: str) -> Decoder:
    """Weights large enough that every part shows, vectors that do something."""
    shape, generator = FAMILY_SHAPES[name], torch.Generator().manual_seed(3)
    decoder = Decoder(shape).initialize(0.1, generator)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return decoder


def tokens(decoder: Decoder, length: int = LENGTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, decoder.shape.vocab_size, (1, length), generator=generator)


@torch.inference_mode()
def dense_logits(decoder: Decoder, ids: torch.Tensor) -> np.ndarray:
    return decoder.logits(decoder(ids, DenseContext.of_length(ids.shape[1])))[0].numpy()


def step(ids: torch.Tensor, first: int, last: int) -> StepBatch:
    return StepBatch(
        token_ids=ids[0, first:last].numpy().astype(np.int32),
        positions=np.arange(first, last, dtype=np.int32),
        starts=np.array([0, last - first], np.int32), context_lengths=np.array([first], np.int32),
        block_tables=np.random.default_rng(1).permutation(20)[None, :].astype(np.int32),
        logit_rows=np.arange(last - first, dtype=np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", FAMILY_SHAPES)
def test_paged_chunks_and_decodes_are_the_whole_row(name: str, deterministic: bool) -> None:
    decoder = fresh(name).requires_grad_(False)
    ids = tokens(decoder)
    settings = EngineSettings(block_size=BLOCK, max_batch=4, token_budget=64, deterministic=deterministic)
    runner = TorchRunner(decoder, settings, num_blocks=20)
    cuts = [0, 40, 41, 42, 90, 99, LENGTH]
    parts = [runner.forward(step(ids, *cut)).copy() for cut in pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(parts), dense_logits(decoder, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILY_SHAPES)
@torch.inference_mode()
def test_fixed_shapes_compute_the_whole_row(name: str) -> None:
    """As CUDA graphs replay them; recorded nowhere here, computed alike."""
    decoder = fresh(name).requires_grad_(False)
    ids = tokens(decoder, 60)
    settings = EngineSettings(block_size=BLOCK, max_batch=4, token_budget=64)
    runner = TorchRunner(decoder, settings, num_blocks=20)
    runner.forward(step(ids, 0, 59))
    last = DecodeGraphs(decoder, runner.cache, 4).compute(step(ids, 59, 60)).numpy()
    np.testing.assert_allclose(last[0], dense_logits(decoder, ids)[-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILY_SHAPES)
def test_every_parameter_learns_and_the_loss_falls(name: str) -> None:
    decoder = fresh(name)
    ids = tokens(decoder, 49).expand(2, -1)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        context = training_context(torch.arange(48)[None])
        logits = decoder.logits(decoder(ids[:, :-1], context))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        for parameter_name, parameter in decoder.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().max() > 0 or "key.bias" in parameter_name  # shifts all scores alike
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", FAMILY_SHAPES)
def test_gradients_are_those_of_float64(name: str) -> None:
    """The hand-written backward of norms and rotations, with offsets, spans and parts of heads."""
    single, double = fresh(name), fresh(name).double()
    ids = tokens(single, 30)
    gradients: list[dict[str, Any]] = []
    for decoder in (single, double):
        hidden = decoder(ids, DenseContext.of_length(30))
        decoder.logits(hidden).double().logsumexp(-1).sum().backward()
        gradients.append({key: value.grad.double() for key, value in decoder.named_parameters()})
    for key, wanted in gradients[1].items():
        error = (gradients[0][key] - wanted).norm() / (wanted.norm() + 1e-3)
        assert error < 1e-3, (key, error)


@pytest.mark.parametrize("name", FAMILY_SHAPES)
def test_a_taught_family_is_saved_and_read_back(name: str, tmp_path: Path) -> None:
    decoder = fresh(name).requires_grad_(False)
    save_model(tmp_path / "model", decoder, decoder.shape, None, dtype="float32")
    folder = open_model(tmp_path / "model")
    assert folder.shape == decoder.shape
    again, ids = load_decoder(folder), tokens(decoder)
    np.testing.assert_array_equal(dense_logits(again, ids), dense_logits(decoder, ids))
