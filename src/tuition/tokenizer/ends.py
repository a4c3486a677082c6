"""Tokens that end a text or a turn, in addition to those that a model's files name.

A model that generates one of these has finished. Many files name only one of several, or none.
Source: llama.cpp, src/llama-vocab.cpp, `special_eog_ids`.
"""

from collections.abc import Mapping

END_TOKENS = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
     "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
     "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
     "<｜end▁of▁sentence｜>", "[e~["}
)  # fmt: skip

_PARTS_OF_A_TURN = (({"<|return|>", "<|call|>"}, "<|end|>"), ({"<|calls|>", "<|flush|>"}, "<|end|>"),
                    ({"<|tool_response>"}, "</s>"), ({"<|plamo:eos|>"}, "</s>"))  # fmt: skip
"""Where all tokens of the set exist, the other token ends only a part of a turn, or is text."""


def known_ends(added: Mapping[str, int]) -> list[int]:
    """The ids that end a reply among a tokenizer's added tokens (content -> id), ascending."""
    parts = {token for together, token in _PARTS_OF_A_TURN if together <= added.keys()}
    return sorted(token_id for token, token_id in added.items() if token in END_TOKENS - parts)
