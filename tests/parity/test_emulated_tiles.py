"""The AMX path on machines without AMX: layout and arithmetic, not silicon and not speed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
BUILD = KERNELS / "build" / "tiles"


def cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return set(found[1].split()) if found else set()


def reason_to_skip() -> str | None:
    flags = cpu_flags()
    if "amx_tile" in flags:
        return "the matrix unit itself is here, and test_native.py runs on it"
    if "avx512_bf16" not in flags:
        return "what is around the tiles needs AVX-512 BF16, which this processor lacks"
    missing = [name for name in ("cmake", "c++") if shutil.which(name) is None]
    return f"building the driver needs {' and '.join(missing)}" if missing else None


@pytest.mark.timeout(900)  # half a minute of compiling, once; on a busy machine many times that
def test_emulated_tiles_give_the_bits_of_vectors_in_any_batch() -> None:
    """The driver compares with a plain reference, bit for bit with AVX-512, and any batch with lone rows."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    options = ["PYTHON=OFF", "DRIVER=ON", "EMULATE_TILES=ON"]
    configure = ["cmake", "-S", str(KERNELS), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([*configure, *(f"-DTUITION_{option}" for option in options)], check=True)
    subprocess.run(["cmake", "--build", str(BUILD), "--parallel", "2"], check=True)
    command = [str(BUILD / "driver"), "--quick", "--threads=2", "amx", "avx512"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "amx is emulated" in done.stdout
