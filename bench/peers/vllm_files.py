"""Folders that vLLM opens in fewer than 16 bits: W8A8 (compressed-tensors) and 4 bits (GPTQ's layout).

In: a `BenchModel`.  Out: `.peers/models/NAME/vllm-int8` and `vllm-int4`, rounded to nearest. Embedding and
head stay in bfloat16, since vLLM has no smaller ones: its bits are more than ours, and the table says so.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peers.files import BenchModel

GROUP = 32
"""Columns that share a scale in 4 bits, as in Q4_0."""

_W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel",
                        "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token",
                                  "dynamic": True},
        }
    },
}  # fmt: skip
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
         "lm_head": False}  # fmt: skip


def folder(model: BenchModel, precision: str) -> Path:
    """What vLLM opens in our `precision`. Raises: NoModelError when the model cannot be had."""
    if precision == "bf16":
        return model.folder()
    pack, config = {"int8": (w8a8, _W8A8), "int4": (gptq, _GPTQ)}[precision]
    target = model.home / f"vllm-{precision}"
    if not (target / "config.json").exists():
        print(f"{model.name}: writing {target.name}", flush=True)
        _write(model.folder(), target, pack, config)
    return target


def _write(
    source: Path, target: Path, pack: Callable[[str, Tensor], dict[str, Tensor]], config: dict[str, Any]
) -> None:
    """A copy of `source` with every linear layer packed; config.json last, as the mark that all is there."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "tuition.json"):
            shutil.copy(path, target)
    packed: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            layer = name.endswith("_proj.weight")
            packed |= pack(name.removesuffix(".weight"), tensor.float()) if layer else {name: tensor}
    save_file(packed, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    own = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(own | {"quantization_config": config}, indent=2))


def w8a8(name: str, weight: Tensor) -> dict[str, Tensor]:
    """One scale for each output row. `weight`: (out, in) float32."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-10) / 127
    rounded = (weight / scale).round().clamp(-127, 127).to(torch.int8)
    return {f"{name}.weight": rounded, f"{name}.weight_scale": scale.to(torch.bfloat16)}


def gptq(name: str, weight: Tensor) -> dict[str, Tensor]:
    """4 bits around a zero of 8, in groups of input columns; eight inputs to an int32, the lowest first.

    `weight`: (out, in) float32. Source: AutoGPTQ's layout, in which zeros are kept less one.
    """
    rows, width = weight.shape
    groups = weight.reshape(rows, width // GROUP, GROUP)
    scale = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-10) / 8
    values = ((groups / scale).round() + 8).clamp(0, 15).to(torch.int64).reshape(rows, width)
    zeros = torch.full((width // GROUP, rows), 7, dtype=torch.int64)
    return {
        f"{name}.qweight": _packed(values.T.contiguous()),                   # (in / 8, out)
        f"{name}.qzeros": _packed(zeros.T.contiguous()).T.contiguous(),      # (groups, out / 8)
        f"{name}.scales": scale[..., 0].T.contiguous().to(torch.bfloat16),   # (groups, out)
        f"{name}.g_idx": torch.arange(width, dtype=torch.int32) // GROUP,
    }  # fmt: skip


def _packed(values: Tensor) -> Tensor:
    """Eight rows of 4-bit values to a row of int32: (rows, columns) int64 -> (rows / 8, columns)."""
    rows, width = values.shape
    shifts = torch.arange(0, 32, 4).reshape(1, 8, 1)
    whole = (values.reshape(rows // 8, 8, width) << shifts).sum(dim=1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)
