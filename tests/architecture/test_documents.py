"""What the documents show works: commands exist with their options, settings are read, Python runs.

Convention: a ```python block is compiled and its imports are made; one after `<!-- run -->` is run whole.
A line of a ```sh block that begins with `tuition` is held against that verb's options.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tuition.cli import main as program
from tuition.core.settings import from_table
from tuition.spec.settings import MachineSettings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(<!-- run -->\n+)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[tuple[str, bool, str]]:
    """(document, whether it is to be run, text) of every block in this language."""
    return [
        (path.name, bool(run), text)
        for path in DOCUMENTS
        for run, kind, text in BLOCK.findall(path.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands() -> list[tuple[str, list[str]]]:
    """Every `tuition` command of the documents, as words without quotes and redirections."""
    found = []
    for name, _, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = re.sub(r'"[^"]*"', "TEXT", line.split("#")[0]).split()
            while words and "=" in words[0]:  # VARIABLE=value
                words.pop(0)
            if words and words[0] == "tuition":
                found.append((name, words[1:]))
    return found


def help_of(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        program.main([*words, "--help"])
    return capsys.readouterr().out


def command_faults(found: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Commands whose verb or option does not exist."""
    faults, known = [], {}
    for name, words in found:
        if not words or words[0] not in program.VERBS:
            faults.append(f"{name}: no verb in: tuition {' '.join(words)}")
            continue
        actions = {"models": ("list", "show", "add", "merge", "remove"), "machine": ("show", "probe")}
        actions["bill"] = ("statement", "run", "request", "check")
        actions["data"] = ("show", "make")
        verb = (words[0], *(words[1:2] if words[1:2] and words[1] in actions.get(words[0], ()) else ()))
        if verb[0] in actions and len(verb) == 1:
            verb = (verb[0], {"models": "list", "bill": "statement", "machine": "show"}[verb[0]])
        if "--from" in words:  # it chooses the recipe, and with it the options
            verb += tuple(words[(at := words.index("--from")) : at + 2])
        if verb not in known:
            known[verb] = help_of(verb, capsys)
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        faults += [
            f"{name}: {' '.join(verb)} has no {option}"
            for option in options
            if not re.search(rf"{re.escape(option)}[ ,\n]", known[verb])
        ]
    return faults


def test_documented_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands()
    assert len(found) >= 10
    assert command_faults(found, capsys) == []


def test_a_command_that_does_not_exist_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    planted = [
        ("a.md", ["teach"]),
        ("a.md", ["bill", "--frmat", "json"]),
        ("a.md", ["train", "--budge", "1h"]),
    ]
    assert len(command_faults(planted, capsys)) == 3


def test_documented_settings_are_read() -> None:
    found = blocks("toml")
    assert found
    for _, _, text in found:
        table = tomllib.loads(text)
        from_table(MachineSettings, table["machine"])


def test_documented_python_compiles_and_its_imports_work() -> None:
    found = blocks("python")
    assert found
    lines = []
    for name, _, text in found:
        tree = ast.parse(text, filename=name)
        lines += [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [text for _, run, text in blocks("python") if run])
def test_documented_python_runs(text: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_the_program_writes_into_the_documents_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "write.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
