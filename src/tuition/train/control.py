"""A control text: it is scored before and after fine-tuning and shows what the model has forgotten.

In: a file that the user names, or else a fixed part of the manual of the running Python, which every
installation has.  Out: bits per byte of its documents.
"""

import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from tuition.core.errors import DataError
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.runtime.thread_pool import ThreadPool
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.change import Measured
from tuition.train.scoring import TokenBytes, score_documents, window_method

CONTROL = "control text"
DOCUMENT_BYTES = 2_048
"""Size of one document. Many short documents give a better standard error than few long ones."""
WINDOW, STRIDE = 1_024, 512


def control_texts(path: Path | None, num_bytes: int) -> tuple[str, ...]:
    """Texts of about `num_bytes` UTF-8 bytes together. Raises: DataError for a file that cannot be read."""
    if path is None:
        long = [text for _, text in sorted(topics.items()) if len(text.encode()) >= DOCUMENT_BYTES]
        return tuple(_beginning(text, DOCUMENT_BYTES) for text in long[: max(1, num_bytes // DOCUMENT_BYTES)])
    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", way_out="name a UTF-8 text file") from error
    if not whole.strip():
        raise DataError(path, "holds no text", way_out="name a text file for --control")
    raw = _beginning(whole, num_bytes).encode()
    parts = [raw[start : start + DOCUMENT_BYTES] for start in range(0, len(raw), DOCUMENT_BYTES)]
    return tuple(text for part in parts if (text := part.decode(errors="ignore")))


def _beginning(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


class Control:
    """A control text in the tokens of one model."""

    def __init__(self, texts: tuple[str, ...], tokenizer: Tokenizer, context_length: int) -> None:
        marks = [tokenizer.bos_id] if tokenizer.bos_id is not None else list(tokenizer.eos_ids[:1])
        ids = (tokenizer.encode(text, add_bos=False) for text in texts)
        documents = [np.asarray([*(marks or [0]), *text_ids], dtype=np.int64) for text_ids in ids]
        self._tokens = TokenBytes.of(tokenizer)
        self._documents = [document for document in documents if len(document) > 1]
        self._window = min(WINDOW, context_length)
        self.sizes = tuple(self._tokens.num_bytes(document) for document in self._documents)
        """Bytes of each document."""

    def measure(self, model: Decoder, precision: Precision, pool: ThreadPool) -> Measured:
        """Bits that the model needs for each document."""
        stride = min(STRIDE, self._window)
        scores = score_documents(
            model, self._documents, self._tokens,
            window=self._window, stride=stride, precision=precision, pool=pool,
        )  # fmt: skip
        bits = tuple(score.nats / math.log(2) for score in scores)
        method = window_method(self._window, stride, str(precision.dtype).removeprefix("torch."))
        num_tokens = sum(score.num_tokens for score in scores)
        return Measured(CONTROL, "bits per byte", method, bits, self.sizes, num_tokens)
