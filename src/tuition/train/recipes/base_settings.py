"""Settings of every recipe that begins from a model. Frozen, documented by field, no torch: the command line
is derived from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tuition.model.adapter_settings import AdapterSettings
from tuition.train.settings import check_numbers, wants

From = Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")]
"""`from` is a word of Python, so the field is called `base`."""


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The model to begin from, what of it is taught, and what is kept."""

    base: From = None
    """The model to begin from: a registered name, name@version, a model folder or a GGUF file. An adapter is
    taught further, beside its base."""
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
        num_bytes = self.control_bytes
        wants(num_bytes is None or num_bytes >= 0, "control_bytes", num_bytes, "0 or more")
        if self.control is not None:
            wants(num_bytes != 0, "control_bytes", 0, "more than 0, or no --control")
