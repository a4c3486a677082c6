"""The events of a reply, made from its sequence after each step.

In: a sequence and what was chosen for it.  Out: `TokenEvent`.
"""

import logging

from tuition.core.records import FinishReason
from tuition.engine.reply import Choice
from tuition.engine.request import Timing, TokenEvent
from tuition.engine.sequence import Sequence

log = logging.getLogger(__name__)


def progress_event(sequence: Sequence, choice: Choice) -> TokenEvent:
    """The reply goes on: its new tokens, and its prompt's scores with the first of them."""
    reply = sequence.reply
    scores, reply.scores = reply.scores, None
    return TokenEvent(
        sequence.request.id,
        tuple(choice.token_ids),
        choice.text,
        choice.logprobs,
        None if scores is None else tuple(scores),
        None,
        sequence.num_prompt,
        sequence.num_cached,
        reply.num_generated,
    )


def last_event(
    sequence: Sequence,
    reason: FinishReason,
    now_ns: int,
    choice: Choice | None,
    error: str | None,
    weights_digest: str | None,
) -> TokenEvent:
    """The reply has ended: its last tokens if it got any in this step, and the text that was held back."""
    reply, text = sequence.reply, "" if choice is None else choice.text
    if reason != "error":
        try:
            text += reply.text.finish()
        except Exception as problem:
            log.error("request %s failed at its end", sequence.request.id, exc_info=problem)
            reason, error = "error", one_line(problem)
    done = reply.scores is not None and reason in ("stop", "length")
    return TokenEvent(
        request_id=sequence.request.id,
        token_ids=() if choice is None else tuple(choice.token_ids),
        text=text,
        logprobs=() if choice is None else choice.logprobs,
        prompt_logprobs=tuple(reply.scores or ()) if done else None,
        finish_reason=reason,
        num_prompt_tokens=sequence.num_prompt,
        num_cached_tokens=sequence.num_cached,
        num_generated=reply.num_generated,
        timing=Timing(
            submitted_ns=reply.submitted_ns,
            admitted_ns=sequence.admitted_ns or now_ns,
            first_token_ns=reply.first_token_ns,
            finished_ns=now_ns,
        ),
        error=error,
        variant=sequence.request.variant,
        weights_digest=weights_digest,
    )


def one_line(error: BaseException) -> str:
    """An exception as an event carries it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
