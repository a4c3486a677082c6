"""What to teach, as settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tuition.core.errors import SettingsError, shown_path


class Files(Protocol):
    """Settings that name files and folders."""

    @property
    def paths(self) -> tuple[Path, ...]: ...

    @property
    def include(self) -> tuple[str, ...]: ...

    @property
    def exclude(self) -> tuple[str, ...]: ...

    @property
    def dataset_split(self) -> str: ...


@dataclass(frozen=True)
class DataSettings:
    """Which text is taught and which is held out."""

    paths: tuple[Path, ...] = ()
    """Text files, files of rows (.jsonl, .parquet, .json, .csv, .tsv), folders of text, .jsonl and .parquet
    files, or Hugging Face dataset folders."""
    demo: Literal["shakespeare", "stdlib"] | None = None
    """A demo corpus instead of paths: Shakespeare's plays, or the standard library of the running Python."""
    include: tuple[str, ...] = ()
    """In folders: only files that match one of these patterns, like `**/*.py`. Empty: the known
    extensions."""
    exclude: tuple[str, ...] = ()
    """In folders: no file that matches one of these patterns."""
    field: str = "text"
    """Where rows have fields (.jsonl, .csv, .parquet and so on): the one that holds the text."""
    title_field: str | None = None
    """Where rows have fields: the one that names a document. Default: file and line name it."""
    dataset_split: str = "train"
    """Of a Hugging Face dataset folder: the split to take."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Binary, broken or empty input: stop with an error, or skip it and count it."""
    heldout: tuple[str, ...] = ()
    """Titles of documents to hold out whole, with all copies of them. Empty: a share is held out by a hash of
    each document's text."""
    heldout_share: float = 0.05
    """Share of the text that is held out when no documents are named; copies count once. At most 65,536
    different documents are held out."""
    heldout_max_bytes: int = 32 * 2**20
    """The share is lowered so that about this many bytes are held out at most."""
    validation: tuple[str, ...] = ()
    """Titles of documents kept for choosing settings, with all copies of them; neither taught nor held out.
    """
    validation_share: float = 0.0
    """Share of the text kept for choosing settings, when no documents are named."""
    num_workers: int = 0
    """Processes that tokenize; 1 stays in this process, 0 chooses by the size of the corpus."""

    def __post_init__(self) -> None:
        for name in ("heldout_share", "validation_share"):
            share = getattr(self, name)
            if not 0 <= share <= 0.5:
                raise SettingsError(f"data.{name}", got=share, wanted="a share from 0 to 0.5")
        if not self.heldout and self.heldout_share == 0:
            raise SettingsError(
                "data.heldout_share", got=0, wanted="more than 0: something must be held out to measure with"
            )
        if self.heldout_max_bytes < 1:
            raise SettingsError("data.heldout_max_bytes", got=self.heldout_max_bytes, wanted="at least 1")
        if self.num_workers < 0:
            raise SettingsError("data.num_workers", got=self.num_workers, wanted="0 or more")
        if not self.field:
            raise SettingsError("data.field", got=self.field, wanted="the name of a field")
        if self.demo and self.paths:
            raise SettingsError(
                "data.paths",
                got=[str(path) for path in self.paths],
                wanted=f"none together with demo={self.demo}",
            )
        _check_paths("data.paths", self.paths)
        if both := set(self.heldout) & set(self.validation):
            raise SettingsError(
                "data.validation", got=sorted(both), wanted="other documents than heldout has"
            )


@dataclass(frozen=True)
class ExampleSettings:
    """Which examples are taught and which are held out: conversations, or prompts with their completions."""

    paths: tuple[Path, ...] = ()
    """Files of examples (.jsonl, .json, .csv, .tsv, .parquet), folders of them, or Hugging Face dataset
    folders."""
    form: Literal["auto", "messages", "conversations", "pairs", "instructions", "calls"] = "auto"
    """Which fields a row has. messages: role and content, with tools. conversations: from and value
    (ShareGPT). pairs: prompt and completion. instructions: instruction, input, output (Alpaca), or
    instruction, context, response (Dolly). calls: query, tools, answers (xLAM). auto: found from the fields
    of all rows, and printed."""
    prompt_field: str | None = None
    """Name of the field that holds the prompt, where no form fits; together with completion_field."""
    completion_field: str | None = None
    """Name of the field that holds the reply to be taught."""
    messages_field: str | None = None
    """Name of the field that holds the turns of a conversation, where it is not messages or conversations."""
    group_field: str | None = None
    """Name of a field like customer: examples with the same value go to the same part of the split."""
    template: Literal["auto", "none"] = "auto"
    """auto: prompts become turns of the model's chat template, if it has one. none: prompt and completion are
    taught as plain text, one after the other."""
    too_long: Literal["refuse", "cut", "leave-out"] = "refuse"
    """Examples longer than the context of the training: stop with an error; cut them at the end of a turn; or
    leave them out. What is cut or left out is counted."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Rows that do not fit their form: stop with an error, or skip them and count them."""
    heldout_paths: tuple[Path, ...] = ()
    """Files of examples to hold out, instead of a share of paths."""
    heldout_share: float = 0.1
    """Share of the examples that is held out, chosen by a hash of their content; copies count once."""
    heldout_max: int = 1_000
    """The share is lowered so that about this many examples are held out at most."""
    include: tuple[str, ...] = ()
    """In folders: only files that match one of these patterns, like `**/*.json`."""
    exclude: tuple[str, ...] = ()
    """In folders: no file that matches one of these patterns."""
    dataset_split: str = "train"
    """Of a Hugging Face dataset folder: the split to take."""

    def __post_init__(self) -> None:
        _check_paths("data.paths", self.paths)
        _check_paths("data.heldout_paths", self.heldout_paths)
        if not 0 < self.heldout_share <= 0.5:
            wanted = "a share from 0 to 0.5, more than 0: something must be held out to measure with"
            raise SettingsError("data.heldout_share", got=self.heldout_share, wanted=wanted)
        if self.heldout_max < 1:
            raise SettingsError("data.heldout_max", got=self.heldout_max, wanted="at least 1")
        if (self.prompt_field is None) != (self.completion_field is None):
            missing = "prompt_field" if self.prompt_field is None else "completion_field"
            wanted = "the name of a field: --data.prompt-field and --data.completion-field go together"
            raise SettingsError(f"data.{missing}", got=None, wanted=wanted)
        for name in ("prompt_field", "completion_field", "messages_field", "group_field"):
            if getattr(self, name) == "":
                raise SettingsError(f"data.{name}", got="", wanted="the name of a field")
        ways = [self.form != "auto", self.prompt_field is not None, self.messages_field is not None]
        if sum(ways) > 1:
            wanted = (
                "only one of --data.form, --data.messages-field, and --data.prompt-field with its partner"
            )
            raise SettingsError("data.form", got=self.form, wanted=wanted)


def _check_paths(name: str, paths: tuple[Path, ...]) -> None:
    """Raises: SettingsError for a path that could not be written into the settings of a run."""
    for path in paths:
        if shown_path(path) != str(path):
            wanted = "a path in UTF-8: rename it, or name the folder that it is in"
            raise SettingsError(name, got=shown_path(path), wanted=wanted)
