"""`--precision` has one spelling on every verb that runs a model, and its own place in a settings file."""

from pathlib import Path

import pytest

from tuition.cli.arguments import Common, parse
from tuition.cli.chat import Chat
from tuition.cli.generate import Generate
from tuition.cli.serve import Serve
from tuition.core.errors import SettingsError

VERBS = [(Serve, []), (Chat, ["m"]), (Generate, ["m", "x"])]


@pytest.mark.parametrize(("kind", "words"), VERBS)
def test_precision_is_spelled_without_its_table(
    kind: type[Common], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*options: str) -> Common:
        return parse(kind, [*words, *options], verb="test", description="")

    assert read("--precision", "int8").engine.precision == "int8"  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match=r"--engine\.precision"):
        read("--engine.precision", "int8")
    with pytest.raises(SettingsError, match="int4"):
        read("--precision", "int3")
    with pytest.raises(SystemExit):
        read("--precision", "int4", "--print-settings")
    path = tmp_path / "a.toml"
    path.write_text(capsys.readouterr().out)
    assert '[engine]\nprecision = "int4"' in path.read_text()
    assert read("--settings", str(path)) == read("--settings", str(path), "--precision", "int4")
