"""The real tree keeps the rules of ARCHITECTURE.md; the detectors are in rules.py."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from architecture import rules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tuition"
MOST_PRIVATE_REACHES = 5


def documents() -> list[Path]:
    """Every text a reader is led to; the lab log tells of what was once there."""
    found = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if path.exists() and path.name != "lab-log.md"]


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


@pytest.mark.parametrize(
    "detector",
    [
        rules.layer_faults,
        rules.size_faults,
        rules.parameter_faults,
        rules.hidden_import_faults,
        rules.init_faults,
        rules.docstring_faults,
        rules.name_faults,
        rules.unsafe_faults,
    ],
    ids=lambda detector: detector.__name__,
)
def test_the_package_has_no(detector: Callable[[Path], list[str]]) -> None:
    assert detector(PACKAGE) == []


@pytest.mark.parametrize("folder", ["tests", "bench", "requirements"])
def test_other_folders_keep_the_sizes(folder: str) -> None:
    assert rules.size_faults(ROOT / folder) == []
    assert rules.parameter_faults(ROOT / folder) == []


def test_the_native_sources_keep_the_sizes() -> None:
    assert rules.native_size_faults(ROOT / "kernels") == []


def test_tests_reach_hardly_any_private_member() -> None:
    reaches = rules.private_reaches(ROOT / "tests")
    assert len(reaches) <= MOST_PRIVATE_REACHES, "\n".join(reaches)


def test_documented_paths_exist() -> None:
    assert rules.documented_path_faults(ROOT, documents()) == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in documents():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert broken == []


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    assert rules.machine_path_faults(tracked_files()) == []


def test_no_weights_or_databases_are_tracked() -> None:
    heavy = {".safetensors", ".gguf", ".bin", ".pt", ".sqlite", ".so", ".whl"}
    found = [path for path in tracked_files() if path.suffix in heavy]
    assert found == []


def test_architecture_lists_every_package_in_its_layer() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(rules.LAYER), "a package that is in no layer"
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    told = {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)", names)}
    assert {name: told.get(name) for name in packages} == {name: rules.LAYER[name] for name in packages}
