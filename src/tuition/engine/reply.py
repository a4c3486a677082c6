"""One reply as it grows: the tokens chosen for it, its text, and whether it has ended. Knows no scheduler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tuition.core.records import FinishReason
from tuition.engine.draw_state import DrawState
from tuition.engine.request import Request, TokenLogprob
from tuition.engine.sampler import Draw, PoisonedLogitsError, draw, token_logprob
from tuition.engine.stop import ReplyText, TextStream


@dataclass(slots=True)
class Choice:
    """Tokens chosen for a reply in one step or burst."""

    token_ids: list[int]
    """At least one."""
    text: str
    """What they make safe to show."""
    reason: FinishReason | None
    """Why the reply ends with the last of them, if it does."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each, where that was asked for."""


class StreamingTokenizer(Protocol):
    """The part of a tokenizer that the engine needs."""

    def stream(self, skip_specials: bool = True, after: Sequence[int] = ()) -> TextStream: ...


class Reply:
    """What the loop keeps beside a sequence: its draws, its text, its prompt's scores, its times."""

    __slots__ = (
        "first_token_ns",
        "is_greedy",
        "num_generated",
        "scores",
        "state",
        "submitted_ns",
        "takes_bursts",
        "text",
    )

    def __init__(
        self,
        request: Request,
        tokenizer: StreamingTokenizer,
        submitted_ns: int,
        draw: Draw = draw,
    ) -> None:
        self.submitted_ns = submitted_ns
        self.first_token_ns: int | None = None
        self.num_generated = 0
        self.state = DrawState(request, draw)
        self.text = ReplyText(tokenizer.stream(after=request.prompt), request.stop)
        self.scores: list[TokenLogprob] | None = None
        if request.prompt_logprobs is not None:
            self.restart_scores(request)
        self.takes_bursts = self.state.takes_raw_rows and request.logprobs is None
        """A runner may draw several of its tokens in one call: nothing in Python needs its rows."""
        self.is_greedy = self.takes_bursts and self.state.is_greedy
        """The argmax of each row is all that it needs."""

    def restart_scores(self, request: Request) -> None:
        """Only the first token of the prompt is scored."""
        self.scores = [TokenLogprob(request.prompt[0], None)]

    def score_prompt(self, request: Request, logits: np.ndarray, first: int, last: int) -> None:
        """Take in prompt rows `first` to `last`: the row of position p tells how likely token p + 1 was.

        Shapes: logits (at least last - first, vocab).
        """
        if self.scores is not None and request.prompt_logprobs is not None:
            for position in range(first, last):
                row, token_id = logits[position - first], request.prompt[position + 1]
                self.scores.append(token_logprob(row, token_id, request.prompt_logprobs))

    def choose(
        self,
        request: Request,
        logits: np.ndarray,
        position: int,
        drafts: list[int],
        quick: list[int] | None,
    ) -> Choice:
        """One token for the first row, and one more for each draft that the draw before it confirmed.

        Shapes: logits (1 + drafts, vocab); `quick`: their argmaxes, where those are all it needs.
        Raises: PoisonedLogitsError, and whatever the tokenizer raises; the reply must then be ended.
        """
        choice, state = Choice([], "", None), self.state
        for index in range(1 + len(drafts)):
            row = logits[index]
            if quick is not None:
                token_id = quick[index]
                if not math.isfinite(row.item(token_id)):
                    raise PoisonedLogitsError(f"the largest logit is {row[token_id]}")
            else:
                token_id = state.draw(row, position + index)
            choice.token_ids.append(token_id)
            if request.logprobs is not None:
                choice.logprobs += (token_logprob(row, token_id, request.logprobs),)
            if token_id in state.stop_ids:
                choice.reason = "stop"
            else:
                choice.text += self.text.push(token_id)
                if self.text.stopped:
                    choice.reason = "stop"
                elif self.num_generated + index + 1 >= request.max_tokens:
                    choice.reason = "length"
            state.advance((token_id,))
            if choice.reason is not None or index == len(drafts) or token_id != drafts[index]:
                break
        self.num_generated += len(choice.token_ids)
        return choice

    def extend(self, request: Request, token_ids: list[int]) -> Choice:
        """Take in the tokens that a burst has drawn, up to the one that ends the reply; at least one.

        Raises: whatever the tokenizer raises; the reply must then be ended.
        """
        reason: FinishReason | None = None
        if token_ids[-1] in self.state.stop_ids:
            reason = "stop"
        elif self.num_generated + len(token_ids) >= request.max_tokens:
            reason = "length"
        spoken = token_ids[:-1] if reason == "stop" else token_ids
        text, count = self.text.push_until_stop(spoken)
        if self.text.stopped:
            reason, token_ids = "stop", spoken[:count]
        self.state.advance(token_ids)
        self.num_generated += len(token_ids)
        return Choice(token_ids, text, reason)
