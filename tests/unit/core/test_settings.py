"""Settings files: what is unknown or of the wrong kind is refused by name; what is written reads back."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.core.settings import from_table, read_settings, table_to_toml, to_table


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    steps: int | None = None
    exact: bool = False
    paths: tuple[Path, ...] = ()
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    pair: tuple[int, float] = (1, 2.0)


@given(
    st.builds(
        Outer,
        name=st.text(max_size=20),
        steps=st.none() | st.integers(-(2**60), 2**60),
        exact=st.booleans(),
        paths=st.lists(st.just(Path("a/b")) | st.just(Path("c d")), max_size=3).map(tuple),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False), kind=st.sampled_from(["a", "b"])),
        maybe=st.none() | st.builds(Inner),
    )
)
def test_toml_gives_the_settings_back(settings: Outer) -> None:
    assert from_table(Outer, tomllib.loads(table_to_toml(to_table(settings)))) == settings


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"nmae": "x"}, "did you mean name"),
        ({"inner": {"rat": 1.0}}, r"inner\.rat"),
        ({"maybe": {"rat": 1.0}}, r"did you mean maybe\.rate"),
        ({"steps": "3"}, "steps: got '3', wanted a whole number or left out"),
        ({"name": 3}, "name: got 3, wanted a text"),
        ({"inner": {"rate": "x"}}, r"inner\.rate: got 'x', wanted a number"),
        ({"paths": [3]}, "paths: got 3, wanted a path"),
        ({"paths": [""]}, "paths: got '', wanted a path"),
        ({"maybe": 3}, "maybe: got 3, wanted a table or left out"),
        ({"steps": 3.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"exact": 1}, "exact: got 1, wanted true or false"),
        ({"inner": {"kind": "c"}}, "'a' or 'b'"),
        ({"inner": 3}, "inner"),
        ({"paths": "a"}, "paths: got 'a', wanted a list of paths"),
        ({"pair": [1]}, "2 values"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(table: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        from_table(Outer, table)


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    assert from_table(Inner, {"rate": 2}).rate == 2.0


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for content in (b"name = ", b"\xff\xfe", b"a = 1\na = 2"):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"a\.toml"):
            read_settings(Outer, path)
    with pytest.raises(SettingsError, match=r"none\.toml"):
        read_settings(Outer, tmp_path / "none.toml")


def test_a_value_that_is_missing_is_named() -> None:
    from tuition.spec.settings import MachineSettings

    with pytest.raises(SettingsError, match=r"machine\.owned\.price_usd: nothing given"):
        from_table(MachineSettings, {"owned": {"life_years": 2.0}}, "machine.")
