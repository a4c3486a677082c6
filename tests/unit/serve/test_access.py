"""Deny by default: what passes, what does not, and that nothing listens beyond this machine without a key."""

from typing import Any

import pytest

from tuition.core.errors import SettingsError
from tuition.serve.access import SESSION_COOKIE, Access
from tuition.serve.errors import ApiError
from tuition.serve.settings import ServeSettings, check_exposure, is_loopback, read_api_key


def scope(path: str, **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "path": path, "headers": pairs, "scheme": "http"}


def passes(access: Access, asked: dict[str, Any]) -> bool:
    try:
        access.check(asked)  # type: ignore[arg-type]
    except ApiError:
        return False
    return True


@pytest.fixture
def locked() -> Access:
    access = Access(ServeSettings(), "the-key")
    access.admit_pages({"/"}, ("/_nicegui/",))
    return access


@pytest.fixture
def unlocked() -> Access:
    return Access(ServeSettings(), None)


PATHS = [
    "/v1/models",
    "/metrics",
    "/",
    "//health",
    "/health/",
    "/Health",
    "/health/../v1/models",
    "/_nicegui/x",
    "/v1",
]


@pytest.mark.parametrize("path", PATHS)
def test_only_health_and_ready_are_open(locked: Access, path: str) -> None:
    assert not passes(locked, scope(path))
    assert not passes(locked, scope(path, authorization="Bearer wrong"))
    assert not passes(locked, scope(path, authorization="the-key"))
    assert not passes(locked, scope(path, authorization="Basic the-key"))
    assert passes(locked, scope(path, authorization="Bearer the-key"))
    assert passes(locked, scope("/health"))
    assert passes(locked, scope("/ready"))


def test_a_host_name_does_not_open_anything(locked: Access) -> None:
    """The path decides, never a URL that is put together from headers (BadHost)."""
    assert not passes(locked, scope("/v1/models", host="localhost/health?"))


def test_a_session_opens_pages_and_nothing_else(locked: Access) -> None:
    cookie = f"a=b; {SESSION_COOKIE}={locked.new_session()}"
    assert passes(locked, scope("/", cookie=cookie, host="h"))
    assert passes(locked, scope("/_nicegui/x", cookie=cookie, host="h"))
    assert not passes(locked, scope("/v1/models", cookie=cookie))
    assert not passes(locked, scope("/", cookie=cookie + "0"))
    assert not passes(locked, scope("/", cookie=f"{SESSION_COOKIE}=9999999999.00"))
    assert not passes(Access(ServeSettings(), "the-key"), scope("/", cookie=cookie)), "of another process"


def test_an_expired_session_is_worthless(locked: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = f"{SESSION_COOKIE}={locked.new_session()}"
    monkeypatch.setattr("tuition.serve.access.time.time", lambda: 9e9)
    assert not passes(locked, scope("/", cookie=cookie))


def test_foreign_pages_and_names_cannot_reach_a_server_without_a_key(unlocked: Access) -> None:
    assert passes(unlocked, scope("/v1/models", host="127.0.0.1:8000"))
    assert passes(unlocked, scope("/v1/models", host="[::1]:8000"))
    assert passes(unlocked, scope("/v1/models", host="localhost"))
    assert not passes(unlocked, scope("/v1/models", host="evil.example"))
    assert not passes(unlocked, scope("/v1/models", host="localhost.evil.example:80"))
    assert not passes(unlocked, scope("/v1/models", host="localhost", origin="https://evil.example"))
    assert not passes(unlocked, scope("/v1/models", host="localhost", origin="null"))
    assert not passes(unlocked, scope("/v1/models", host="localhost", origin="http://["))
    assert passes(unlocked, scope("/", host="localhost:8000", origin="http://localhost:8000"))


def test_allowed_origins_and_hosts_pass() -> None:
    settings = ServeSettings(cors_origins=("https://chat.example",), allowed_hosts=("my-box",))
    access = Access(settings, None)
    assert passes(access, scope("/v1/models", host="my-box:80", origin="https://chat.example"))


def test_a_socket_of_another_origin_is_refused_even_with_a_cookie(locked: Access) -> None:
    cookie = f"{SESSION_COOKIE}={locked.new_session()}"
    asked = scope("/_nicegui/x", cookie=cookie, host="me:1", origin="https://evil.example") | {
        "type": "websocket"
    }
    assert not passes(locked, asked)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "my-box"])  # noqa: S104
def test_nothing_listens_beyond_this_machine_without_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="TUITION_API_KEY"):
        check_exposure(ServeSettings(host=host), None)
    check_exposure(ServeSettings(host=host), "a-key")


def test_loopback_needs_no_key() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        assert is_loopback(host)
        check_exposure(ServeSettings(host=host), None)
    assert not is_loopback("localhost.evil.example")


def test_a_key_that_no_client_could_send_is_refused_without_showing_it() -> None:
    assert read_api_key({}) is None
    assert read_api_key({"TUITION_API_KEY": "abc"}) == "abc"
    for key in ("", "two words", "schlüssel", "line\n"):
        with pytest.raises(SettingsError) as caught:
            read_api_key({"TUITION_API_KEY": key})
        assert "hidden" in str(caught.value)


def test_neither_context_nor_access_shows_the_key(locked: Access) -> None:
    assert "the-key" not in repr(locked)
