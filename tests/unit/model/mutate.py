"""Run in a process of its own: damage model files at random and load them under a limit of memory.

Arguments: a folder and a GGUF file to start from, the number of mutations, a seed, a folder to work in, and
whether the tokenizer's files are damaged as well. What still opens is packed for the native runner, in each
precision in turn, and computes a step; where tuition_kernels is not installed, its tensors are read.
Prints one JSON line. Anything but success or a TuitionError ends the process with a traceback.
"""

import importlib.util
import json
import math
import random
import resource
import shutil
import struct
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tuition.core.errors import TuitionError
from tuition.core.progress import SilentProgress
from tuition.engine.batch import StepBatch
from tuition.engine.settings import EngineSettings
from tuition.model.folder import ModelFolder, open_model

HAS_KERNELS = importlib.util.find_spec("tuition_kernels") is not None
if HAS_KERNELS:
    from tuition.engine.native_runner import NativeRunner, refusal

HEADROOM = 64 * 2**20
SLOWEST_S = 2.0
PRECISIONS = ("float32", "bf16", "int8", "int4")
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
WEIGHTS = tuple(struct.pack("<f", value) for value in (math.nan, math.inf, -3e38, 1e-42))
GENTLE = 0.4
"""Share of the damage that leaves a file openable more often than not, so that what comes after is tried."""
JSON_VALUES = ("null", "-1", "0", "1e308", "NaN", "true", '"x"', "[]", "{}", "99999999999999999999",
               "[[[[]]]]", "0.5", '"../../etc/passwd"')  # fmt: skip


def damage(content: bytes, rng: random.Random, is_text: bool) -> bytes:
    """One to four changes, most near the front, where lengths and names are; or one that may well be opened:
    another digit in a text, four other bytes among the weights.
    """
    data = bytearray(content)
    if rng.random() < GENTLE:
        digits = [place for place, byte in enumerate(data) if is_text and 48 <= byte <= 57]
        if digits:
            data[rng.choice(digits)] = 48 + rng.randrange(10)
        else:
            at = rng.randrange(len(data) // 2, len(data) - 4)
            data[at : at + 4] = rng.choice((rng.randbytes(4), *WEIGHTS))
        return bytes(data)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        front = min(len(data), 4_096 if rng.random() < 0.8 else len(data))
        at = rng.randrange(front)
        kind = rng.randrange(8)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 5:
            data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 6:
            data[at : at + 4] = rng.randbytes(4)
        elif is_text:
            end = next((i for i in range(at, len(data)) if data[i] in b",}]"), len(data))
            start = max(data.rfind(b":", 0, at), 0) + 1
            data[start:end] = rng.choice(JSON_VALUES).encode()
        else:
            digit = next((i for i in range(at, min(at + 200, len(data))) if 48 <= data[i] <= 57), at)
            data[digit] = 48 + rng.randrange(10)
    return bytes(data)


def address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def use(path: Path, precision: str) -> str:
    """Do everything that a load does, and the first step; says how far it went."""
    model = open_model(path)
    if sys.argv[6] == "with-tokenizer":
        model.tokenizer().encode("to be or not to be")
    settings = EngineSettings(
        precision=precision, cache_bytes="1MiB", max_batch=1, token_budget=16, threads=1
    )  # type: ignore[arg-type]
    if HAS_KERNELS and refusal(model.shape, settings) is None:
        compute(model, settings)
        return "computed"
    for _, tensor in model.tensors():
        tensor.to(torch.float32)
    return "opened"


def compute(model: ModelFolder, settings: EngineSettings) -> None:
    """Pack the weights and compute one step. No folder can be made inside a file: nothing is kept."""
    runner = NativeRunner.load(model, settings, SilentProgress(), cache_folder=Path(__file__))
    length = min(16, model.shape.context_length)
    count = np.arange(length, dtype=np.int32)
    logits = runner.forward(StepBatch(
        token_ids=count * 7919 % model.shape.vocab_size, positions=count,
        starts=np.array([0, length], np.int32), context_lengths=np.zeros(1, np.int32),
        block_tables=np.zeros((1, 1), np.int32), logit_rows=count[-1:],
    ))  # fmt: skip
    if logits.shape != (1, model.shape.vocab_size):
        raise AssertionError(f"logits of shape {logits.shape}")
    runner.close()


def main() -> None:
    folder, gguf, work = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[5])
    rng = random.Random(int(sys.argv[4]))
    torch.set_num_threads(1)
    copy = work / "folder"
    shutil.copytree(folder, copy)
    names = ["model.safetensors", "config.json", "generation_config.json"]
    if sys.argv[6] == "with-tokenizer":
        names += ["tokenizer.json", "tokenizer_config.json"]
    originals = {copy / name: (copy / name).read_bytes() for name in names}
    originals[work / "model.gguf"] = gguf.read_bytes()
    largest = sum(map(len, originals.values()))
    (work / "model.gguf").write_bytes(originals[work / "model.gguf"])
    for precision in PRECISIONS:  # once whole: what is loaded once for all is no part of the limit
        use(copy, precision)
        use(work / "model.gguf", precision)
    limit = address_space() + 2 * largest + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts = {"computed": 0, "opened": 0, "refused": 0, "slowest_s": 0.0}
    for number in range(int(sys.argv[3])):
        path = list(originals)[number % len(originals)]
        path.write_bytes(damage(originals[path], rng, path.suffix == ".json"))
        began = time.process_time()
        try:
            precision = PRECISIONS[number // len(originals) % len(PRECISIONS)]
            counts[use(copy if path.parent == copy else path, precision)] += 1
        except TuitionError:
            counts["refused"] += 1
        took = time.process_time() - began
        counts["slowest_s"] = max(counts["slowest_s"], took)
        if took > SLOWEST_S:
            raise SystemExit(f"mutation {number} of {path.name} took {took:.1f} s")
        path.write_bytes(originals[path])
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
