"""The step: which tokens, their logits, the choice. Everything else in this room serves these three beats.

In: requests and cancellations.  Out: per step, `TokenEvent`s and one `StepTrace` for the ledger.

A request that fails fails alone: an error in its sampling or its text ends only that request, and a step that
raises is run again in halves until the sequence that makes it raise stands alone. A row's logits do not
depend on its neighbours, so the others lose time and nothing else.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuition.core.records import FinishReason, SequenceWork, StepTrace
from tuition.core.units import NS_PER_S
from tuition.engine.batch import BurstRunner, Runner
from tuition.engine.blocks import BlockPool
from tuition.engine.reply import Choice, Reply, StreamingTokenizer
from tuition.engine.request import Request, Timing, TokenEvent
from tuition.engine.sampler import draw
from tuition.engine.scheduler import Plan, Scheduler
from tuition.engine.sequence import Sequence
from tuition.engine.settings import EngineSettings
from tuition.engine.speculation import TRIAL_STEPS, PromptLookup

log = logging.getLogger(__name__)

BURST_STEPS = 128
"""Most decode steps in one call of the runner: enough that Python between calls is little beside them."""
BURST_S = 0.016
"""No step of a burst begins later than this after the first: readers get words sixty times a second."""
NO_STEPS = np.empty((0, 0), np.int32)


@dataclass(frozen=True, slots=True)
class LoopStats:
    """How full the loop is."""

    num_waiting: int
    num_running: int
    num_blocks: int
    num_free_blocks: int
    num_kept_blocks: int
    """Of the free ones, blocks whose content a later prompt may use."""
    num_preemptions: int


class StepLoop:
    """Requests in, events out, one step at a time. One thread owns it.

    `clock` gives monotonic ns.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: StreamingTokenizer,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.runner, self.tokenizer = runner, tokenizer
        self.settings = settings or EngineSettings()
        self.scheduler = Scheduler(
            self.settings,
            num_blocks=runner.num_blocks,
            block_size=runner.block_size,
            context_length=runner.shape.context_length,
            vocab_size=runner.shape.vocab_size,
            clock=clock,
        )
        self._clock = clock
        self._bursts = runner if isinstance(runner, BurstRunner) else None
        self._draw = draw if self._bursts is None else self._bursts.draw
        self._step_s = 0.0
        """What a step of the last burst took."""
        self._lookup = PromptLookup() if self.settings.speculation == "auto" else None
        self._events: list[TokenEvent] = []

    # ---- requests come and go

    def validate(self, request: Request) -> None:
        """Refuse what could never run; any thread may call it. Raises: RequestError, CapacityError."""
        self.scheduler.validate(request)

    def submit(self, request: Request, submitted_ns: int | None = None) -> None:
        """Take a request; later steps tell of it. Raises: RequestError, CapacityError, BusyError."""
        reply = Reply(request, self.tokenizer, submitted_ns or self._clock(), self._draw)
        self.scheduler.submit(request, reply)

    def cancel(self, request_id: str) -> bool:
        """Free the request's blocks now; its last event comes with the next step. False: it is not here."""
        sequence = self.scheduler.find(request_id)
        if sequence is None:
            return False
        self._end(sequence, "cancelled")
        return True

    def hurry(self, on: bool) -> None:
        """From any thread: whether a burst should end with the step at hand, because somebody waits."""
        if self._bursts is not None:
            self._bursts.hurry(on)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do or tell anything."""
        return self.scheduler.has_work or bool(self._events)

    def stats(self) -> LoopStats:
        """How full the loop is; only reads, so any thread may call it."""
        pool = self.scheduler.pool
        return LoopStats(
            self.scheduler.num_waiting,
            len(self.scheduler.running),
            pool.num_blocks,
            pool.num_free,
            pool.num_kept,
            self.scheduler.num_preemptions,
        )

    def check(self) -> None:
        """Count the cache's blocks again. Raises: CacheIntegrityError."""
        self.scheduler.check()

    def reset_cache(self) -> None:
        """Begin the cache's books anew. Raises: RuntimeError while requests are inside."""
        if self.scheduler.has_work:
            raise RuntimeError("the cache cannot be reset while requests are inside")
        self.scheduler.pool = BlockPool(self.runner.num_blocks, self.runner.block_size)

    def take_events(self) -> list[TokenEvent]:
        """Events so far, taken out."""
        events, self._events = self._events, []
        return events

    # ---- the step

    def step(self) -> tuple[list[TokenEvent], StepTrace | None]:
        """Compute once: a step, or a burst of decodes. The trace is None when there was nothing to do."""
        start_ns = self._clock()
        num_decodes = len(self.scheduler.running)
        guessing = self._lookup is not None and num_decodes > 0 and self._lookup.pays(num_decodes)
        most_steps = self._most_steps(num_decodes, guessing)
        plan = self.scheduler.next_batch(PromptLookup.draft if guessing else None, most_steps)
        if plan is None:
            return self.take_events(), None
        chosen = NO_STEPS
        try:
            chosen = self._burst(plan)
            logits = None if len(chosen) else self.runner.forward(plan.batch)
        except Exception as error:
            num_steps, work = 1, self._retry_in_halves(plan, error)
        else:
            if logits is None:
                num_steps, work = len(chosen), self._accept_burst(plan, chosen)
            else:
                num_steps, work = 1, self._accept(plan, logits)
        end_ns = self._clock()
        if len(chosen):
            self._step_s = (end_ns - start_ns) / num_steps / NS_PER_S
        if self._lookup is not None and len(work) == num_decodes and (num_steps > 1 or plan.num_steps < 2):
            self._learn(self._lookup, work, num_steps, end_ns - start_ns)
        return self.take_events(), StepTrace(start_ns, end_ns, tuple(work), num_steps=num_steps)

    def _most_steps(self, num_decodes: int, guessing: bool) -> int:
        """Steps that a burst may take: none without them, few in a trial, and what fits into its time."""
        if self._bursts is None:
            return 0
        if self._lookup is not None and not guessing and self._lookup.is_trial(num_decodes):
            return TRIAL_STEPS
        return BURST_STEPS if BURST_STEPS * self._step_s <= BURST_S else 2 + int(BURST_S / self._step_s)

    def _burst(self, plan: Plan) -> np.ndarray:
        """Tokens of a burst, (steps, sequences) int32; no rows where a step must be taken and looked at.

        A burst that raises gives none: the step decides whose fault it is.
        """
        if self._bursts is None or plan.num_steps == 0:
            return NO_STEPS
        replies = [sequence.reply for sequence in plan.sequences]
        settings, seeds = replies[0].settings_array, replies[0].seed_array
        if len(replies) > 1:
            settings = np.concatenate([reply.settings_array for reply in replies])
            seeds = np.concatenate([reply.seed_array for reply in replies])
        stops = [reply.stop_array for reply in replies]
        try:
            return self._bursts.decode(plan.batch, plan.num_steps, stops, settings, seeds, BURST_S)
        except Exception as error:
            log.error("a burst failed; a single step follows", exc_info=error)
            return NO_STEPS

    def _learn(self, lookup: PromptLookup, work: list[SequenceWork], num_steps: int, took_ns: int) -> None:
        computed = wasted = 0
        for one in work:
            if one.phase != "decode":
                return
            computed += one.num_tokens
            wasted += one.num_wasted
        if num_steps > 1:  # plain steps: what each took counts
            computed, wasted, took_ns = len(work), 0, took_ns // num_steps
        lookup.learn(len(work), computed - len(work), computed - wasted, took_ns, num_steps)

    def _accept_burst(self, plan: Plan, chosen: np.ndarray) -> list[SequenceWork]:
        """Give each sequence the tokens that it has drawn, and the pool the blocks that were not needed."""
        work = [self._extend(*one) for one in zip(plan.sequences, chosen.T.tolist(), strict=True)]
        if len(chosen) < plan.num_steps:
            for sequence in plan.sequences:
                self.scheduler.trim(sequence)
        return work

    def _accept(self, plan: Plan, logits: np.ndarray) -> list[SequenceWork]:
        """Choose tokens for every sequence of the step and give the scheduler its rows back."""
        choices: list[int] | None = None
        if len(plan.sequences) > 1 and all(s.reply.is_greedy for s in plan.sequences):
            choices = logits.argmax(axis=1).tolist() if len(logits) else []
        work = []
        for sequence in plan.sequences:
            mine = logits[sequence.first_logit : sequence.first_logit + sequence.num_logits]
            quick = None
            if choices is not None and sequence.num_logits:
                end = sequence.first_logit + sequence.num_logits
                quick = choices[end - 1 - sequence.num_drafts : end]
            work.append(self._advance(sequence, mine, quick))
        return work

    def _retry_in_halves(self, plan: Plan, error: Exception) -> list[SequenceWork]:
        """Find the sequences that make the step raise; end those, keep the rest."""
        if len(plan.sequences) == 1:
            sequence = plan.sequences[0]
            log.error("request %s made the step raise", sequence.request.id, exc_info=error)
            work = self.scheduler.work(sequence, sequence.rows)
            self._end(sequence, "error", error=f"the model step failed: {_one_line(error)}")
            return [work]
        middle = len(plan.sequences) // 2
        work = []
        for part in (plan.sequences[:middle], plan.sequences[middle:]):
            half = self.scheduler.part(part)
            try:
                logits = self.runner.forward(half.batch)
            except Exception as again:
                work += self._retry_in_halves(half, again)
            else:
                work += self._accept(half, logits)
        return work

    # ---- one sequence

    def _advance(self, sequence: Sequence, logits: np.ndarray, quick: list[int] | None) -> SequenceWork:
        """Take the sequence's rows back: score its prompt, choose its tokens, end it when it is done."""
        scheduler, reply = self.scheduler, sequence.reply
        end = sequence.num_computed + sequence.rows - sequence.num_drafts
        try:
            if (
                sequence.num_logits
                and reply.scores is not None
                and sequence.num_scored < sequence.num_prompt - 1
            ):
                self._score_prompt(sequence, logits)
            if end < sequence.num_tokens:  # more of the prompt is to come
                work = scheduler.work(sequence, sequence.rows)
                scheduler.commit(sequence, sequence.rows)
                return work
            if sequence.request.max_tokens == 0:
                work = scheduler.work(sequence, sequence.rows)
                scheduler.commit(sequence, sequence.rows)
                self._end(sequence, "length")
                return work
            return self._choose(sequence, logits[-1 - sequence.num_drafts :], quick)
        except Exception as error:
            log.error("request %s failed", sequence.request.id, exc_info=error)
            work = scheduler.work(sequence, sequence.rows)
            self._end(sequence, "error", error=_one_line(error))
            return work

    def _score_prompt(self, sequence: Sequence, logits: np.ndarray) -> None:
        first = sequence.num_computed + sequence.rows - sequence.num_logits
        last = min(sequence.num_computed + sequence.rows, sequence.num_prompt - 1)
        sequence.reply.score_prompt(sequence.request, logits, first, last)
        sequence.num_scored = last

    def _choose(self, sequence: Sequence, logits: np.ndarray, quick: list[int] | None) -> SequenceWork:
        """One token for the newest row, and one more for each draft that the draw before it confirmed."""
        scheduler, reply, request = self.scheduler, sequence.reply, sequence.request
        num_drafts, known = sequence.num_drafts, sequence.num_tokens
        drafts = sequence.tokens[known : known + num_drafts].tolist() if num_drafts else []
        choice = reply.choose(request, logits, known, drafts, quick)
        num_stood = sequence.rows - num_drafts + len(choice.token_ids) - 1
        work = scheduler.work(sequence, num_stood)
        self._grow(sequence, choice, num_stood)
        return work

    def _extend(self, sequence: Sequence, token_ids: list[int]) -> SequenceWork:
        """The tokens of a burst; what nobody is told of was computed for nothing."""
        scheduler, reply = self.scheduler, sequence.reply
        sequence.rows = sequence.num_logits = len(token_ids)
        try:
            choice = reply.extend(sequence.request, token_ids)
        except Exception as error:
            log.error("request %s failed", sequence.request.id, exc_info=error)
            work = scheduler.work(sequence, 0)
            self._end(sequence, "error", error=_one_line(error))
            return work
        work = scheduler.work(sequence, len(choice.token_ids))
        self._grow(sequence, choice, len(choice.token_ids))
        return work

    def _grow(self, sequence: Sequence, choice: Choice, num_stood: int) -> None:
        """Add chosen tokens to their sequence, of whose computed rows `num_stood` stand, and tell of them."""
        reply = sequence.reply
        sequence.extend(choice.token_ids if choice.reason is None else choice.token_ids[:-1])
        self.scheduler.commit(sequence, num_stood)
        if reply.first_token_ns is None:
            reply.first_token_ns = self._clock()
        if choice.reason is not None:
            self._end(sequence, choice.reason, choice=choice)
            return
        scores, reply.scores = reply.scores, None
        self._events.append(
            TokenEvent(
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
        )

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        choice: Choice | None = None,
        error: str | None = None,
    ) -> None:
        """Take the sequence out and make its last event; text that was held back is shown now."""
        self.scheduler.finish(sequence)
        reply, text = sequence.reply, "" if choice is None else choice.text
        if reason != "error":
            try:
                text += reply.text.finish()
            except Exception as problem:
                log.error("request %s failed at its end", sequence.request.id, exc_info=problem)
                reason, error = "error", _one_line(problem)
        now = self._clock()
        done = reply.scores is not None and reason in ("stop", "length")
        scores = tuple(reply.scores or ()) if done else None
        self._events.append(
            TokenEvent(
                request_id=sequence.request.id,
                token_ids=() if choice is None else tuple(choice.token_ids),
                text=text,
                logprobs=() if choice is None else choice.logprobs,
                prompt_logprobs=scores,
                finish_reason=reason,
                num_prompt_tokens=sequence.num_prompt,
                num_cached_tokens=sequence.num_cached,
                num_generated=reply.num_generated,
                timing=Timing(
                    submitted_ns=reply.submitted_ns,
                    admitted_ns=sequence.admitted_ns or now,
                    first_token_ns=reply.first_token_ns,
                    finished_ns=now,
                ),
                error=error,
            )
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
