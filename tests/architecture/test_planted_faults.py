"""Every detector fails on a fault planted for it, and passes the same tree without."""

from collections.abc import Callable
from pathlib import Path

import pytest

from architecture import rules

Detector = Callable[[Path], list[str]]

FAULTS: list[tuple[str, Detector, str, str]] = [
    ("upwards", rules.layer_faults, "spec/a.py", "from tuition.engine.step import StepLoop"),
    ("sideways", rules.layer_faults, "spec/a.py", "import tuition.books.schema"),
    ("inside a function", rules.layer_faults, "core/a.py", "def f():\n    from tuition.cli import main"),
    ("package by from", rules.layer_faults, "core/a.py", "from tuition import ledger"),
    ("relative", rules.layer_faults, "spec/a.py", "from ..engine import step"),
    ("unknown package", rules.layer_faults, "attic/a.py", "x = 1"),
    ("long file", rules.size_faults, "core/a.py", "x = 1\n" * 401),
    ("long function", rules.size_faults, "core/a.py", "def f():\n" + "    x = 1\n" * 100),
    ("many parameters", rules.parameter_faults, "core/a.py", "def f(self, a, b, c, d, e, f, *, g, h): ..."),
    ("long C++ line", rules.native_size_faults, "src/a.cpp", "int x = 1;  // " + "a" * 110),
    ("long C++ file", rules.native_size_faults, "src/a.hpp", "int x;\n" * 401),
    ("private member", rules.private_reaches, "core/a.py", "thing._name()"),
    ("private import", rules.private_reaches, "core/a.py", "from json import _default_decoder"),
    ("private patch", rules.private_reaches, "core/a.py", "monkeypatch.setattr(thing, '_name', 1)"),
    ("long line", rules.size_faults, "core/a.py", "x = '" + "a" * 110 + "'"),
    ("hidden import", rules.hidden_import_faults, "core/a.py", "def f():\n    import json"),
    (
        "hidden in a method",
        rules.hidden_import_faults,
        "core/a.py",
        "class A:\n  def f(self):\n    import json",
    ),
    ("code in init", rules.init_faults, "core/__init__.py", '"""Core."""\nfrom tuition.core import units'),
    ("bare init", rules.init_faults, "core/__init__.py", ""),
    ("no docstring", rules.docstring_faults, "core/a.py", "x = 1"),
    ("empty name", rules.name_faults, "core/utils.py", '"""Things."""'),
    ("empty folder name", rules.name_faults, "core/helpers/a.py", '"""Things."""'),
    ("pickle", rules.unsafe_faults, "core/a.py", "import pickle"),
    ("pickle by from", rules.unsafe_faults, "core/a.py", "from pickle import loads"),
    ("hidden pickle", rules.unsafe_faults, "core/a.py", "def f():\n    import pickle as p"),
    ("torch.load", rules.unsafe_faults, "core/a.py", "import torch\ntorch.load('x')"),
    ("torch.load by from", rules.unsafe_faults, "core/a.py", "from torch import load"),
    ("export.load", rules.unsafe_faults, "core/a.py", "import torch\ntorch.export.load('x')"),
    ("eval", rules.unsafe_faults, "core/a.py", "eval('1')"),
    ("exec under a name", rules.unsafe_faults, "core/a.py", "run = exec"),
    ("yaml.load", rules.unsafe_faults, "core/a.py", "import yaml\nyaml.load('x')"),
    ("object arrays", rules.unsafe_faults, "core/a.py", "import numpy\nnumpy.load('x', allow_pickle=True)"),
    ("remote code", rules.unsafe_faults, "core/a.py", "f(trust_remote_code=flag)"),
    ("assert", rules.unsafe_faults, "core/a.py", "assert key == secret"),
]

CLEAN = {
    "core/__init__.py": '"""Core."""\n',
    "spec/a.py": '"""Fine."""\nfrom tuition.core import units\n\n\ndef f(m):\n    m.eval(); import pyarrow\n',
    "cli/train.py": '"""Fine."""\n\n\ndef f():\n    from tuition.engine import step\n',
    "__init__.py": '"""Face."""\n\n\ndef __getattr__(name):\n    raise AttributeError(name)\n',
}


def plant(tree: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree


@pytest.mark.parametrize(
    ("detector", "name", "text"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
def test_the_detector_sees(detector: Detector, name: str, text: str, tmp_path: Path) -> None:
    assert detector(plant(tmp_path, CLEAN)) == []
    assert detector(plant(tmp_path, {name: text})) != []


def test_a_documented_path_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    plant(tmp_path, {"src/tuition/engine/step.py": "", "docs/glossary.md": ""})
    page = tmp_path / "README.md"
    page.write_text(
        "See `engine/step`, `engine/step.py`, `engine/step.x`, `docs/glossary.md`, `a/b`, `config.json`."
    )
    assert rules.documented_path_faults(tmp_path, [page]) == []
    page.write_text("See `engine/leap`, `docs/poem.md` and `POEM.md`.")
    assert len(rules.documented_path_faults(tmp_path, [page])) == 3


def test_a_path_of_one_machine_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("in <home>/models, src/work/x, https://example.org/work/x, ~/.tuition")
    assert rules.machine_path_faults([page]) == []
    page.write_text("in " + "/".join(("", "work", "models")))
    assert len(rules.machine_path_faults([page])) == 1
