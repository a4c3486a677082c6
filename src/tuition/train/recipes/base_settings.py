"""Settings of every recipe that begins from a model. Frozen, documented by field, no torch: the command line
is derived from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tuition.core.errors import SettingsError
from tuition.model.adapter_settings import AdapterSettings
from tuition.train.settings import check_numbers, wants

From = Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")]
"""`from` is a word of Python, so the field is called `base`."""
MOST_ALPHA = 1_000_000
"""Far above any that is used; products with much larger ones leave float32."""


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The model to begin from, what of it is taught, and what is kept."""

    base: From = None
    """The model to begin from: a registered name, name@version, a model folder, a GGUF file, or
    hf:ORG/NAME[:FILE][@REVISION] on the hub. An adapter is taught further, beside its base."""
    adapter: Literal["auto", "lora", "none"] = "auto"
    """lora: the base stays as it is, and a small adapter is taught, saved by itself and served beside its
    base. none: all weights are taught, and the result is a model of its own. auto: none for bases of up to
    500 million parameters, lora for larger ones."""
    lora: AdapterSettings = field(default_factory=AdapterSettings)
    """The adapter."""
    frozen: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    """How the base is held while an adapter is taught; int8 takes the least memory and rounds the most."""
    save_as: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved model; float32 is exactly what was evaluated."""
    control: Path | None = None
    """A text file that shows what is forgotten: it is scored before and after. Left out: a part of the
    manual of the running Python, in English."""
    control_bytes: int | None = None
    """Bytes of the control text that are scored; 0: none. Left out: 24,576, or fewer where a budget is short.
    """

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.base is not None:
            self.require_base()
        wants(self.lora.alpha <= MOST_ALPHA, "lora.alpha", self.lora.alpha, f"at most {MOST_ALPHA:,}")
        if self.adapter == "none":
            self.require_no_adapter()
        num_bytes = self.control_bytes
        wants(num_bytes is None or num_bytes >= 0, "control_bytes", num_bytes, "0 or more")
        if self.control is not None:
            wants(num_bytes != 0, "control_bytes", 0, "more than 0, or no --control")

    def require_base(self) -> str:
        """The model to begin from. Raises: SettingsError where none is named."""
        if not self.base:
            wanted = "the model to begin from: a registered name or a path"
            raise SettingsError("from", got=self.base, wanted=wanted)
        return self.base

    def require_no_adapter(self) -> None:
        """Raises: SettingsError for a setting of an adapter that is given where all weights are taught."""
        wanted = "--adapter lora beside it: all weights are taught"
        for name, default in vars(AdapterSettings()).items():
            value = getattr(self.lora, name)
            wants(value == default, f"lora.{name}", value, wanted)
        wants(self.frozen == "bfloat16", "frozen", self.frozen, wanted)
