"""Settings of the server, and the rule that nothing listens to the network without a key."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tuition.core.errors import SettingsError

API_KEY_VARIABLE = "TUITION_API_KEY"


@dataclass(frozen=True)
class ServeSettings:
    """Where the server listens, and what one call may ask for."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs an API key in the environment (TUITION_API_KEY)."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    drain_seconds: float = 30.0
    """After SIGTERM or Ctrl-C, how long replies under way may still take, seconds."""
    max_body_bytes: int = 4 << 20
    """Largest request body, bytes."""
    default_max_tokens: int | None = None
    """Most tokens of a chat reply whose call names no limit; None: to the end of the context."""
    max_choices: int = 16
    """Largest n of one prompt."""
    max_sequences: int = 256
    """Most prompts x n in one call."""
    max_adapters: int = 32
    """Most adapters that are served at a time."""
    books_timeout_seconds: float = 30.0
    """How long a finished reply waits for its row in the books before the call fails with 503, seconds."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call this server, like https://chat.example.org; '*' allows all."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that clients may use besides loopback names; only checked while there is no API key."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SettingsError("port", got=self.port, wanted="0 to 65535")
        for name in ("drain_seconds", "books_timeout_seconds"):
            value = getattr(self, name)
            if not 0 <= value <= 86_400:
                raise SettingsError(name, got=value, wanted="0 to 86400 seconds")
        for name in ("max_body_bytes", "default_max_tokens", "max_choices", "max_sequences", "max_adapters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(name, got=value, wanted="at least 1")
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise SettingsError(
                    "cors_origins", got=origin, wanted="an origin like https://chat.example.org"
                )

    @property
    def is_loopback(self) -> bool:
        """Only programs on this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True for `localhost` and for loopback addresses.

    Other names may resolve to anything and are not trusted.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_api_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The API key from TUITION_API_KEY; None when the variable is not set.

    Raises: SettingsError if it is set to something that a client could not send.
    """
    key = (os.environ if environment is None else environment).get(API_KEY_VARIABLE)
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            API_KEY_VARIABLE, got="(hidden)", wanted="printable ASCII without spaces, at least one character"
        )
    return key


def check_exposure(settings: ServeSettings, api_key: str | None) -> None:
    """Refuse to listen beyond this machine without a key. Raises: SettingsError."""
    if api_key is None and not settings.is_loopback:
        raise SettingsError(
            "host",
            got=settings.host,
            wanted=f"127.0.0.1, or an API key in the environment ({API_KEY_VARIABLE})",
        )
