"""Write what a release installs: release.txt with a hash for every file of every package, and sizes.json.

Run after a change of pyproject.toml or constraints.txt (`make lock`). torch and its CUDA libraries are left
out: its build depends on the machine: install torch first, then
`pip install --no-deps --require-hashes -r requirements/release.txt`.
"""

import json
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import install

HERE = Path(__file__).resolve().parent
INDEX = "https://pypi.org/simple/"
JSON_PAGE = "application/vnd.pypi.simple.v1+json"
TIMEOUT_S = 60


def main() -> int:
    torch = {item["metadata"]["name"] for item in resolved([install.pinned("torch")])}
    core = pins(resolved([install.pinned("torch"), *install.wanted([])]))
    test = pins(resolved([install.pinned("torch"), *install.wanted(["test"])]))
    data = dict(line.split("==") for line in install.data_packages())
    with ThreadPoolExecutor(16) as pool:
        every = test | data
        files = dict(zip(every, pool.map(files_of, every, every.values()), strict=True))
    head = [
        "# The packages of a release with the SHA-256 of each file. Written by requirements/lock.py.",
        "# torch is not listed: its build depends on the machine.",
    ]
    lines = [locked(name, core[name], files[name]) for name in sorted(core, key=str.lower)]
    (HERE / "release.txt").write_text("\n".join(head + lines) + "\n")
    sizes = {
        "core": sum(usual_size(files[name]) for name in core if name not in torch),
        "test": sum(usual_size(files[name]) for name in test if name not in core),
        "data": sum(usual_size(files[name]) for name in data),
    }
    (HERE / "sizes.json").write_text(json.dumps(sizes, indent=2) + "\n")
    print(f"{len(core)} packages locked; bytes to download beside torch: {sizes}")
    return 0


def resolved(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install into an empty environment. Raises: SystemExit when pip cannot resolve it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        install.pip(
            "install", "-qq", "--dry-run", "--ignore-installed", "--report", str(report),
            "--constraint", str(install.CONSTRAINTS), *requirements,
        )  # fmt: skip
        return json.loads(report.read_text())["install"]


def pins(items: list[dict[str, Any]]) -> dict[str, str]:
    """Name -> version, without torch and without the NVIDIA libraries its CUDA builds bring."""
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in items}
    foreign = ("nvidia-", "triton", "cuda-")
    kept = {"nvidia-ml-py"}
    return {n: v for n, v in found.items() if n in kept or (n != "torch" and not n.startswith(foreign))}


def files_of(name: str, version: str) -> list[dict[str, Any]]:
    """The index's rows (filename, size, hashes) for one version. Raises: ValueError if it has none."""
    request = urllib.request.Request(f"{INDEX}{name}/", headers={"Accept": JSON_PAGE})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        rows = json.load(answer)["files"]
    spelled = name.lower().replace("-", "_").replace(".", "_")
    found = []
    for row in rows:
        stem = row["filename"].lower().replace("-", "_").replace(".", "_")
        if stem.startswith(f"{spelled}_{version.replace('.', '_').replace('-', '_')}_") and not row.get(
            "yanked"
        ):
            found.append(row)
    if not found:
        raise ValueError(f"{name}=={version}: the index lists no file")
    return found


def locked(name: str, version: str, rows: list[dict[str, Any]]) -> str:
    """One requirement with all its hashes."""
    hashes = sorted({row["hashes"]["sha256"] for row in rows})
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{value}" for value in hashes)])


def usual_size(rows: list[dict[str, Any]]) -> int:
    """Bytes of the file that Linux x86-64 with Python 3.11 takes; the largest when none fits by name."""
    wheels = [row for row in rows if row["filename"].endswith(".whl")]
    for marks in (("cp311-cp311", "manylinux", "x86_64"), ("abi3", "manylinux", "x86_64"), ("none-any",)):
        fitting = [row["size"] for row in wheels if all(mark in row["filename"] for mark in marks)]
        if fitting:
            return max(fitting)
    return max(row["size"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
