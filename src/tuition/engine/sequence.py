"""One request as the scheduler sees it: its tokens, how far they are computed, and its blocks."""

from collections.abc import Sequence as Items

import numpy as np

from tuition.engine.blocks import chain_digest
from tuition.engine.reply import Reply
from tuition.engine.request import Request

MIN_GROWTH = 64
"""Least number of tokens by which buffers grow."""


class Sequence:
    """Tokens 0..num_tokens are known; 0..num_computed have keys and values in the cache.

    `rows` tokens from num_computed on are computed in the present step; of those, the last `num_drafts` are
    drafts, which stand in `tokens` behind num_tokens. Only the scheduler changes a sequence.
    """

    __slots__ = (
        "admitted_ns",
        "arrival",
        "blocks",
        "first_logit",
        "names",
        "num_cached",
        "num_computed",
        "num_drafts",
        "num_logits",
        "num_once_computed",
        "num_prompt",
        "num_published",
        "num_scored",
        "num_tokens",
        "order",
        "reply",
        "request",
        "rows",
        "table",
        "tokens",
    )

    def __init__(self, request: Request, reply: Reply, arrival: int, root: bytes) -> None:
        """`root`: where the names of its blocks begin, see `blocks.root_digest`."""
        self.request, self.reply = request, reply
        self.arrival = arrival
        self.order = (0 if request.priority == "interactive" else 1, arrival)
        """Smaller goes first and is preempted last."""
        prompt = request.prompt
        self.num_prompt = self.num_tokens = len(prompt)
        self.tokens = np.empty(len(prompt) + min(request.max_tokens, MIN_GROWTH) + MIN_GROWTH, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.num_computed = 0
        self.num_once_computed = 0
        """Most tokens that were ever computed; computing one of them again is waste."""
        self.num_scored = 0
        """Prompt rows whose logprobs are done."""
        self.num_cached = 0
        self.admitted_ns: int | None = None
        self.blocks: list[int] = []
        self.table = np.full(8, -1, np.int32)
        self.names: list[bytes] = [root]
        """names[i + 1] is the name of full block i; names[0] the root of the chain."""
        self.num_published = 0
        self.rows = self.num_drafts = self.first_logit = self.num_logits = 0

    @property
    def remaining(self) -> int:
        """Known tokens that are not computed yet."""
        return self.num_tokens - self.num_computed

    @property
    def decoding(self) -> bool:
        """The prompt is computed, and exactly the newest token is not."""
        return self.num_computed >= self.num_prompt and self.num_tokens - self.num_computed == 1

    @property
    def needs_scores(self) -> bool:
        """Log-probabilities of its prompt were asked for, and not all are there."""
        return self.request.prompt_logprobs is not None and self.num_scored < self.num_prompt - 1

    def extend(self, token_ids: Items[int]) -> None:
        """Add generated tokens."""
        end = self.num_tokens + len(token_ids)
        if end > len(self.tokens):
            self.reserve(len(token_ids))
        self.tokens[self.num_tokens : end] = token_ids
        self.num_tokens = end

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens behind num_tokens."""
        if self.num_tokens + count > len(self.tokens):
            grown = np.empty(2 * len(self.tokens) + count, np.int32)
            grown[: self.num_tokens] = self.tokens[: self.num_tokens]
            self.tokens = grown

    def add_blocks(self, blocks: list[int]) -> None:
        """Extend the block table."""
        start = len(self.blocks)
        self.blocks += blocks
        if len(self.blocks) > len(self.table):
            grown = np.full(2 * len(self.blocks), -1, np.int32)
            grown[:start] = self.table[:start]
            self.table = grown
        self.table[start : len(self.blocks)] = blocks

    def drop_blocks(self) -> list[int]:
        """Forget every block and everything computed; the caller releases them."""
        blocks, self.blocks = self.blocks, []
        self.num_computed = self.num_published = 0
        return blocks

    def drop_blocks_behind(self, count: int) -> list[int]:
        """Forget the blocks behind the first `count`, which hold nothing; the caller releases them."""
        self.blocks, blocks = self.blocks[:count], self.blocks[count:]
        return blocks

    def name_blocks(self, count: int, block_size: int) -> list[bytes]:
        """Names of the first `count` full blocks, computed once each."""
        while len(self.names) <= count:
            start = (len(self.names) - 1) * block_size
            content = self.tokens[start : start + block_size].tobytes()
            self.names.append(chain_digest(self.names[-1], content))
        return self.names[1 : count + 1]
