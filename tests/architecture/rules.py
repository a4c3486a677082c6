"""The rules of the source tree as detectors: each takes a tree and returns its faults, one line per fault.

`test_rules.py` holds the real tree to them; `test_planted_faults.py` shows that each of them can fail.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    ("core",),
    ("spec", "books"),
    ("runtime", "ledger", "tokenizer"),
    ("model", "data", "plan"),
    ("registry",),
    ("train", "engine", "compress"),
    ("desk", "evals", "export"),
    ("serve", "client"),
    ("learn", "studio"),
    ("cli",),
)
LAYER = {package: level for level, packages in enumerate(LAYERS) for package in packages}

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_COLUMNS = 400, 70, 7, 110
PRAGMA = re.compile(r"\s*#\s*(?:noqa|type:|fmt:).*$")
"""A note to a tool at the end of a line, which may stand beyond the last column, as for ruff."""
FORBIDDEN_STEMS = {"utils", "util", "common", "helpers", "helper", "misc"}

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_NAMES = {"eval", "exec", "__import__"}
UNSAFE_ATTRIBUTES = {
    ("torch", "load"), ("torch", "export", "load"), ("torch", "jit", "load"), ("torch", "hub", "load"),
    ("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system"), ("builtins", "eval"), ("builtins", "exec"),
}  # fmt: skip
UNSAFE_KEYWORDS = {"allow_pickle", "trust_remote_code", "shell"}

OPTIONAL_PACKAGES = {"pyarrow", "pynvml", "tuition_kernels", "tensorboardX", "matplotlib", "opentelemetry",
                     "huggingface_hub"}  # fmt: skip
"""Libraries that may be imported inside a function: an extra, or a part that not every machine has."""
RARE_IMPORTS = {"tuition.books.migrate.migrate"}
"""Ours that may be imported inside a function: needed once in a workspace's life, and slow (Alembic)."""


def python_files(tree: Path) -> list[Path]:
    return sorted(path for path in tree.rglob("*.py") if "__pycache__" not in path.parts)


def parsed(path: Path) -> ast.Module:
    return parsed_text(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1024)
def parsed_text(text: str) -> ast.Module:
    """The syntax tree; every text is parsed once in a test run."""
    return ast.parse(text)


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Every dotted name imported anywhere below `node`, with its line; `from a import b` gives `a.b`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from ((f"{base}.{alias.name}", child.lineno) for alias in child.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def package_of(path: Path, package: Path) -> str | None:
    """The package (folder of the first level) of a file; None for files beside the packages."""
    parts = path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else None


def layer_faults(package: Path) -> list[str]:
    """Imports of the same or a higher layer, from an unknown package, or relative."""
    faults = []
    for path in python_files(package):
        own = package_of(path, package)
        if own is None:
            continue
        if own not in LAYER:
            faults.append(f"{path}: package {own} is in no layer: see LAYERS")
            continue
        for name, line in imports(parsed(path)):
            if name.startswith("."):
                faults.append(f"{path}:{line}: relative import {name}")
            if not name.startswith("tuition.") or (other := name.split(".")[1]) == own:
                continue
            if other in LAYER and LAYER[other] >= LAYER[own]:
                faults.append(f"{path}:{line}: {own} (layer {LAYER[own]}) imports {other} ({LAYER[other]})")
    return faults


def size_faults(tree: Path) -> list[str]:
    """Files, functions and lines that are too long."""
    faults = text_size_faults(python_files(tree))
    for path in python_files(tree):
        for function in functions(parsed(path)):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MOST_FUNCTION_LINES:
                faults.append(f"{path}:{function.lineno}: {function.name} has {length} lines")
    return faults


def parameter_faults(tree: Path) -> list[str]:
    """Functions with too many parameters."""
    return [
        f"{path}:{function.lineno}: {function.name} has {count} parameters"
        for path in python_files(tree)
        for function in functions(parsed(path))
        if (count := num_parameters(function)) > MOST_PARAMETERS
    ]


def native_size_faults(tree: Path) -> list[str]:
    """C++ files and lines that are too long; what a build has written is left out."""
    files = sorted([*tree.rglob("*.cpp"), *tree.rglob("*.hpp")])
    return text_size_faults([path for path in files if "build" not in path.relative_to(tree).parts])


def text_size_faults(files: list[Path]) -> list[str]:
    faults = []
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MOST_LINES:
            faults.append(f"{path}: {len(lines)} lines")
        faults += [
            f"{path}:{number}: {len(line)} columns"
            for number, line in enumerate(lines, 1)
            if len(PRAGMA.sub("", line)) > MOST_COLUMNS and " " in line.strip(" #")
        ]
    return faults


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller fills; `self` and `cls` are not among them."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len(named) - bool(named and named[0].arg in {"self", "cls"})


def private_reaches(tree: Path) -> list[str]:
    """Places that reach a private member of something else: `thing._name`, `from x import _name`."""
    reaches = []
    for path in python_files(tree):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                    reaches.append(f"{path}:{node.lineno}: {node.attr}")
            elif isinstance(node, ast.ImportFrom):
                reaches += [f"{path}:{node.lineno}: {a.name}" for a in node.names if is_private(a.name)]
            elif isinstance(node, ast.Call) and dotted(node.func)[-1:] == ("setattr",):
                named = [a for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                last = [str(a.value).rpartition(".")[2] for a in named]
                reaches += [f"{path}:{node.lineno}: {name}" for name in last if is_private(name)]
    return reaches


def is_private(name: str) -> bool:
    return (
        name.startswith("_")
        and not name.startswith("__")
        and name not in {"_native", "_replace", "_exit", "_"}
    )


def hidden_import_faults(package: Path) -> list[str]:
    """Imports inside functions, other than in cli/ and of optional libraries."""
    faults = []
    for path in python_files(package):
        if package_of(path, package) == "cli":
            continue
        for function in functions(parsed(path)):
            faults += [
                f"{path}:{line}: {function.name} imports {name}"
                for name, line in imports(function)
                if name.split(".")[0] not in OPTIONAL_PACKAGES and name not in RARE_IMPORTS
            ]
    return faults


def init_faults(package: Path) -> list[str]:
    """`__init__.py` files that hold more than a docstring; the package's own may offer its names lazily."""
    faults = []
    for path in python_files(package):
        if path.name != "__init__.py":
            continue
        body = parsed(path).body
        if not body or not (isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)):
            faults.append(f"{path}: no docstring")
        elif len(body) > 1 and path.parent != package:
            faults.append(f"{path}:{body[1].lineno}: more than a docstring")
    return faults


def docstring_faults(package: Path) -> list[str]:
    """Modules that do not say what they are."""
    return [f"{path}: no docstring" for path in python_files(package) if not ast.get_docstring(parsed(path))]


def name_faults(package: Path) -> list[str]:
    """Files and folders whose names say nothing."""
    return [
        str(path)
        for path in sorted(package.rglob("*"))
        if path.stem.lower() in FORBIDDEN_STEMS and "__pycache__" not in path.parts
    ]


def dotted(node: ast.AST) -> tuple[str, ...]:
    """`torch.export.load` as its parts; empty for anything that is not a plain chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (*([node.id] if isinstance(node, ast.Name) else []), *reversed(parts))


def unsafe_faults(package: Path) -> list[str]:
    """Ways to run what came in as data (pickle, eval, loaders that execute), and `assert` as a guard."""
    faults = []
    for path in python_files(package):
        tree = parsed(path)
        for name, line in imports(tree):
            parts = tuple(name.split("."))
            if parts[0] in UNSAFE_MODULES or parts in UNSAFE_ATTRIBUTES:
                faults.append(f"{path}:{line}: imports {name}")
        for node in ast.walk(tree):
            at = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Assert):
                faults.append(f"{at}: assert (python -O removes it)")
            elif isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
                faults.append(f"{at}: {node.id}")
            elif isinstance(node, ast.Attribute) and dotted(node) in UNSAFE_ATTRIBUTES:
                faults.append(f"{at}: {'.'.join(dotted(node))}")
            elif isinstance(node, ast.keyword) and node.arg in UNSAFE_KEYWORDS and not is_false(node.value):
                faults.append(f"{path}:{node.value.lineno}: {node.arg}")
    return faults


def is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


PATH_IN_TEXT = re.compile(r"`([A-Za-z0-9_.{}*<>-]+(?:/[A-Za-z0-9_.{}*<>-]+)*/?)`")
TOP_FOLDERS = {"src", "tests", "docs", "kernels", "bench", "requirements", ".ci"}
FILE_SUFFIXES = {".py", ".md", ".toml", ".txt", ".csv", ".json", ".cpp", ".h", ".cu"}
GENERATED = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tuition.json",
    "settings.toml",
    "demo.txt",
}
"""Files in a model's or a run's folder: made by the program, not part of the tree."""


def documented_path_faults(root: Path, documents: list[Path]) -> list[str]:
    """Backticked paths that lead nowhere: from the root, or package/file (package/file.name)."""
    package = root / "src" / "tuition"
    faults = []
    for document in documents:
        for text in PATH_IN_TEXT.findall(document.read_text(encoding="utf-8")):
            first = text.split("/")[0]
            if any(mark in text for mark in "{}*<>") or Path(text).name in GENERATED:
                continue
            rooted = "/" in text and (first in TOP_FOLDERS or first in LAYER)
            named_file = "/" not in text and Path(text).suffix in FILE_SUFFIXES and first[0] != "."
            if (rooted or named_file) and not leads_somewhere(text, root, package):
                faults.append(f"{document.name}: `{text}`")
    return faults


def leads_somewhere(text: str, root: Path, package: Path) -> bool:
    stripped = text.rstrip("/")
    spellings = {stripped, f"{stripped}.py", f"{stripped.rpartition('.')[0]}.py"}
    places = [root, package] if "/" in stripped else [root, root / "docs"]
    return any((place / spelling).exists() for place in places for spelling in spellings)


MACHINE_PATH = re.compile(
    r"(?:^|[^A-Za-z0-9_./])/(?:"
    + "|".join(("work", "farm", "root", "home", "Users", "opt"))
    + r")/[A-Za-z0-9_.-]+"
)


def machine_path_faults(files: list[Path]) -> list[str]:
    """Absolute paths of somebody's machine in text files."""
    faults = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        faults += [
            f"{path}:{number}: {found.group().strip()}"
            for number, line in enumerate(lines, 1)
            if (found := MACHINE_PATH.search(line))
        ]
    return faults
