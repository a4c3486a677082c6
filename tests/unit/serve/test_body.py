"""The JSON door: everything wrong with a body is the caller's error, and has a name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import RequestError
from tuition.serve.body import MAX_DEPTH, parse_body


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "wanted a JSON object"),
        (b"null", "wanted a JSON object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "too large for a float"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "too many digits"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": {"b": 1, "b": 2}}', "given twice"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", "nested deeper"),
        (b'{"a": ' + b"[" * 100_000, "nested deeper"),
        (b'{"a": ' + b'{"a": ' * 100_000, "nested deeper"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_a_bad_body_is_refused_by_name(raw: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_body(raw)


def test_a_key_given_twice_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(b'{"model": "m", "seed": 1, "seed": 2}')
    assert caught.value.field == "seed"


def test_a_body_of_many_keys_is_read_like_a_small_one() -> None:
    keys = {f"k{number}": number for number in range(20_001)}
    raw = json.dumps(keys)
    assert list(parse_body(raw.encode()).items()) == list(keys.items())
    with pytest.raises(RequestError, match="given twice") as caught:
        parse_body(raw.replace('"k7":', '"k3":').encode())
    assert caught.value.field == "k3"


def test_whole_surrogate_pairs_are_text() -> None:
    assert parse_body(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_depth_up_to_the_limit_passes() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert parse_body(json.dumps({"a": value}).encode()) == {"a": value}


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(), plain, max_size=5))
def test_what_json_can_say_comes_through_unchanged(value: dict[str, object]) -> None:
    assert parse_body(json.dumps(value, ensure_ascii=False).encode()) == value


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    try:
        assert isinstance(parse_body(raw), dict)
    except RequestError:
        pass
