"""How an engine runs: precision, sizes, and what it may do to be fast. No torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tuition.core.errors import SettingsError
from tuition.core.units import parse_bytes

Precision = Literal["auto", "float32", "bf16", "int8", "int4"]
RunnerKind = Literal["auto", "torch", "native"]
DeviceKind = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs. The defaults suit one machine that serves a few people."""

    precision: Annotated[Precision, tyro.conf.arg(prefix_name=False)] = "auto"
    """Number format of the weights; auto takes the runner's fastest one of good quality, and prints which."""
    runner: RunnerKind = "auto"
    """What executes the network; auto takes native on a CPU with AVX2 or better for which tuition_kernels is
    installed, if it supports the model, else torch."""
    device: DeviceKind = "auto"
    """Where to compute; auto prefers cuda, then mps, then cpu. The native runner computes on the cpu only."""
    max_batch: int = 64
    """Most requests computed in one step."""
    token_budget: int = 512
    """Most tokens computed in one step; long prompts are cut, so that decodes never wait for a whole one."""
    block_size: int = 16
    """Tokens in one block of the cache."""
    cache_bytes: str = "auto"
    """Memory for keys and values, like 2GiB; auto follows from the free memory, and is printed at start."""
    max_waiting: int = 1024
    """Most requests that wait to be computed; further ones are refused as busy."""
    prefix_cache: Literal["on", "off"] = "on"
    """Reuse computed blocks among prompts with the same beginning and the same salt (a server's: its key)."""
    speculation: Literal["auto", "off"] = "auto"
    """Draft tokens from the text so far and keep those that are drawn; auto stops where it saves no time."""
    draft_tokens: int = 6
    """Most tokens drafted at once."""
    deterministic: bool = False
    """Same tokens and logprob bits alone and in any batch, on one machine and thread count. The native runner
    always does so; the torch runner gets slower."""
    threads: int | None = None
    """CPU threads. Default: one per core this process may use."""

    def __post_init__(self) -> None:
        for name, low in (("max_batch", 1), ("block_size", 1), ("max_waiting", 0), ("draft_tokens", 1)):
            if getattr(self, name) < low:
                raise SettingsError(name, got=getattr(self, name), wanted=f"at least {low}")
        if self.token_budget < self.max_batch:
            raise SettingsError(
                "token_budget",
                got=self.token_budget,
                wanted=f"at least max_batch ({self.max_batch}), one token for each",
            )
        if self.threads is not None and self.threads < 1:
            raise SettingsError("threads", got=self.threads, wanted="at least 1, or none for every core")
        if self.cache_bytes != "auto":
            parse_bytes(self.cache_bytes, "cache_bytes")

    def cache_limit(self) -> int | None:
        """Bytes asked for the cache, or None for auto."""
        return None if self.cache_bytes == "auto" else parse_bytes(self.cache_bytes, "cache_bytes")
