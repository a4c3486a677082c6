"""Choices about the device, each with its reason."""

from pathlib import Path

import pytest
import torch

from tuition.core.errors import SettingsError
from tuition.runtime import device
from tuition.runtime.device import choose_device, choose_precision, set_threads, usable_cores
from tuition.runtime.seed import random_state, restore_random_state, seed_all
from tuition.spec import hardware
from tuition.spec.hardware import quota_cores

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("content", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("", None), ("50000 0", None)]
)
def test_the_quota_of_a_container_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, cores: float | None
) -> None:
    monkeypatch.setattr(hardware, "CPU_MAX", tmp_path / "cpu.max")
    assert quota_cores() is None, "there is no such file"
    (tmp_path / "cpu.max").write_text(content)
    assert quota_cores() == cores


def test_a_quota_below_the_cores_lowers_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("10000 100000")
    monkeypatch.setattr(hardware, "CPU_MAX", tmp_path / "cpu.max")
    assert usable_cores() == hardware.find_processor().num_cores == 1


def test_threads_are_set_as_asked() -> None:
    before = torch.get_num_threads()
    assert set_threads(1) == torch.get_num_threads() == 1
    set_threads(before)


def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    assert choose_device("cpu") == CPU
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="cpu: this machine and this torch have no cuda"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        (("avx2",), torch.float32, "has none of"),
        (("avx512_bf16", "amx_bf16"), torch.bfloat16, "has amx_bf16"),
        (("avx512_bf16",), torch.bfloat16, "has avx512_bf16"),
    ],
)
def test_bfloat16_is_taken_only_where_the_cpu_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], dtype: torch.dtype, reason: str
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: flags)
    chosen = choose_precision("auto", CPU)
    assert chosen.dtype is dtype
    assert reason in chosen.reason
    assert choose_precision("float32", CPU).dtype is torch.float32


def test_random_numbers_go_on_where_they_were() -> None:
    seed_all(3)
    state = random_state(CPU)
    first = torch.rand(4)
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(4), first)
