"""Train a byte-level BPE tokenizer.

In: texts, once through.  Out: a `Tokenizer` that can write every text. How long it takes grows with the
sample, so callers give a bounded one (`data.sample.sample_texts`).
"""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from tuition.core.errors import SettingsError
from tuition.core.progress import Progress, SilentProgress
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where no token may cross: words keep the sign before them, digits stand alone, punctuation takes the line's
end along.

Source: Qwen2's tokenizer.json, which other runtimes know under the name `qwen2`.
"""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: tuple[str, ...] = (END_OF_TEXT,),
    *,
    chat_template: str | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn the most frequent pieces of `texts`. The first special token ends a document and begins the next
    one.

    A small text may hold fewer pieces than `vocab_size`. Raises: SettingsError.
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise SettingsError(
            "vocab_size", got=vocab_size, wanted=f"at least {smallest}: every byte and the special tokens"
        )
    if not special_tokens or len(set(special_tokens)) != len(special_tokens) or not all(special_tokens):
        raise SettingsError(
            "special_tokens", got=special_tokens, wanted="at least one, all different and none empty"
        )
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_counted(texts, progress or SilentProgress()), trainer)
    settings = FolderSettings(
        bos_token=special_tokens[0], eos_token=special_tokens[0], add_bos=False, chat_template=chat_template
    )
    return Tokenizer(core, settings, origin="trained tokenizer")


def _counted(texts: Iterable[str], progress: Progress) -> Iterator[str]:
    with progress.task("learn tokens", None, "B") as task:
        for text in texts:
            yield text
            task.advance(len(text.encode("utf-8", "replace")))
