"""The step in three beats: the scheduler plans it, the runner computes it, drawn tokens are committed.

In: requests and cancellations.  Out: per step, `TokenEvent`s and one `StepTrace` for the ledger.

A request that fails fails alone: an error in its draws or its text ends only that request, and a step that
raises is run again in halves until the sequence that makes it raise stands alone. A row's logits do not
depend on its neighbours, so the others lose time and nothing else.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuition.core.busy import BusyMarks
from tuition.core.errors import BusyError, NotFoundError, SettingsError
from tuition.core.records import FinishReason, SequenceWork, StepTrace
from tuition.engine.batch import BurstRunner, Runner, VariantRunner
from tuition.engine.blocks import BlockPool
from tuition.engine.events import last_event, one_line, progress_event
from tuition.engine.pace import Pace
from tuition.engine.plan import Burst, Failure, Logits, Outcome, Plan, Tokens
from tuition.engine.reply import Choice, Reply, StreamingTokenizer
from tuition.engine.request import Request, TokenEvent
from tuition.engine.sampler import draw
from tuition.engine.scheduler import Scheduler
from tuition.engine.sequence import Sequence
from tuition.engine.settings import EngineSettings
from tuition.engine.speculation import TRIAL_STEPS, Drafter, PromptLookup, allowed_drafts, learn_from
from tuition.engine.variants import Variant
from tuition.model.folder import ModelFolder

log = logging.getLogger(__name__)


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
    """Requests in, events out, one step at a time. Only one thread calls it, where a method says no other."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: StreamingTokenizer,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        pace: Pace | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """`clock` gives monotonic ns. `pace`: of bursts, where the runner takes them; None: the usual one.

        `drafter`: None takes what `settings.speculation` says.
        """
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
        self.busy = BusyMarks()
        """When this loop worked; an account puts its own here, to compare them with the traces it is told."""
        self.swapped_digest: str | None = None
        """Of the weights in use once they were swapped; replies that end from then on carry it."""
        self._bound: list[str] = []
        """Variants that were made for the weights in use."""
        self._clock = clock
        self._bursts = runner if isinstance(runner, BurstRunner) else None
        self._draw = draw if self._bursts is None else self._bursts.draw
        self._pace = pace or Pace()
        if drafter is None and self.settings.speculation == "auto":
            drafter = PromptLookup()
        self._drafter = drafter
        self._drafts = None if drafter is None else allowed_drafts(drafter)
        self._events: list[TokenEvent] = []

    # ---- requests come and go

    def validate(self, request: Request) -> None:
        """Refuse what could never run; any thread may call it. Raises: RequestError, CapacityError."""
        self.scheduler.validate(request)

    def submit(self, request: Request, submitted_ns: int | None = None) -> None:
        """Take a request; later steps give its events. Raises: RequestError, CapacityError, BusyError."""
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
        """From any thread: whether a burst should end with the step at hand, because a request waits."""
        if self._bursts is not None:
            self._bursts.hurry(on)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute or return anything."""
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
        """Start with an empty cache. Raises: RuntimeError while requests are inside."""
        if self.scheduler.has_work:
            raise RuntimeError("the cache cannot be reset while requests are inside")
        self.scheduler.pool = BlockPool(self.runner.num_blocks, self.runner.block_size)

    # ---- weights are changed, between two steps

    def swap_weights(self, model: ModelFolder) -> StepTrace:
        """Compute with other weights from the next step on; returns the time it took, which is overhead.

        No request is dropped: a reply keeps the tokens that it has, its keys and values are computed again,
        and its next tokens are those of the new weights. Variants stay. Raises: ShapeError, ModelError,
        and SettingsError while there is a variant that was made for the present weights; the old weights and
        the cache then stay as they are.
        """
        if self._bound:
            wanted = "a model without adapters made for it; remove them first"
            raise SettingsError("swap_weights", got=f"a model with {', '.join(self._bound)}", wanted=wanted)
        start_ns = self._clock()
        self.runner.swap_weights(model)
        self.swapped_digest = self.runner.weights_digest()
        self.scheduler.restart()
        return StepTrace(start_ns, self._clock(), (), kind="load")

    def add_variant(self, name: str, variant: Variant) -> None:
        """Let requests name this variant of the weights. Raises: SettingsError, ShapeError."""
        if not isinstance(self.runner, VariantRunner):
            wanted = f"torch: {self.runner.name} computes no variants of its weights"
            raise SettingsError("runner", got=self.runner.name, wanted=wanted)
        if not name or name in self.scheduler.variants:
            raise SettingsError("variant", got=name, wanted="a new name")
        variant.check(self.runner.shape)
        self.runner.add_variant(name, variant)
        self.scheduler.variants = self.scheduler.variants | {name: variant.digest()}  # others read it
        if variant.base_digest is not None:
            self._bound.append(name)

    def remove_variant(self, name: str) -> None:
        """Forget a variant. Raises: NotFoundError; BusyError while requests use it."""
        if name not in self.scheduler.variants or not isinstance(self.runner, VariantRunner):
            raise NotFoundError("variant", name, sorted(self.scheduler.variants))
        if any(sequence.request.variant == name for sequence in self.scheduler.live):
            raise BusyError(f"requests use the variant {name!r}", retry_after_s=1)
        self.scheduler.variants = {one: d for one, d in self.scheduler.variants.items() if one != name}
        self._bound = [one for one in self._bound if one != name]
        self.runner.remove_variant(name)

    def take_events(self) -> list[TokenEvent]:
        """Events so far, taken out."""
        events, self._events = self._events, []
        return events

    # ---- the step

    def step(self) -> tuple[list[TokenEvent], StepTrace | None]:
        """Compute once: a step, or a burst of decodes. The trace is None when there was nothing to do."""
        start_ns = self._clock()
        num_decodes, drafter = len(self.scheduler.running), self._drafter
        drafting = drafter is not None and num_decodes > 0 and drafter.pays(num_decodes)
        most_steps = None if self._bursts is None else self._most_steps(num_decodes, drafting=drafting)
        plan = self.scheduler.plan(self._drafts if drafting else None, most_steps)
        if plan is None:
            return self.take_events(), None
        self.busy.begin(start_ns)
        try:
            outcome = self._run(plan)
            work = self._commit(outcome)
        except BaseException:  # its time has no trace, which the ledger's check tells
            self.busy.end(start_ns, self._clock())
            raise
        end_ns, num_steps = self._clock(), 1
        self.busy.end(start_ns, end_ns)
        if isinstance(outcome, Tokens):
            num_steps = len(outcome.values)
            self._pace.learn(num_steps, end_ns - start_ns)
        # a burst that was cut to one step is no measure of a plain step
        is_plain = num_steps > 1 or not isinstance(plan, Burst) or plan.num_steps == 1
        if drafter is not None and is_plain and len(work) == num_decodes:
            learn_from(drafter, work, num_steps, end_ns - start_ns)
        return self.take_events(), StepTrace(start_ns, end_ns, tuple(work), num_steps=num_steps)

    def _most_steps(self, num_decodes: int, *, drafting: bool) -> int | None:
        """Steps that a burst may take: few in a trial; None where single steps are asked for."""
        if self._pace.num_steps is None:
            return None
        if self._drafter is not None and not drafting and self._drafter.is_trial(num_decodes):
            return TRIAL_STEPS
        return self._pace.num_steps

    # ---- the second beat: the runner computes

    def _run(self, plan: Plan) -> Outcome:
        """Compute a plan. A burst that raises, or whose first logits are not finite, becomes a single step,
        which finds the request at fault.
        """
        if isinstance(plan, Burst) and self._bursts is not None:
            tokens = self._run_burst(self._bursts, plan)
            if len(tokens):
                return Tokens(plan, tokens)
        try:
            return Logits(plan, self.runner.forward(plan.batch))
        except Exception as error:
            return Failure(plan, error)

    def _run_burst(self, runner: BurstRunner, plan: Burst) -> np.ndarray:
        """Tokens, (steps, sequences) int32; no steps where the first must be taken alone."""
        states = [sequence.reply.state for sequence in plan.sequences]
        try:
            return runner.decode(plan.batch, plan.num_steps, states, self._pace.max_seconds)
        except Exception as error:
            log.error("a burst failed; a single step follows", exc_info=error)
            return np.empty((0, len(states)), np.int32)

    # ---- the third beat: tokens are drawn and committed

    def _commit(self, outcome: Outcome) -> list[SequenceWork]:
        """Give every sequence its tokens; returns what was computed for each."""
        if isinstance(outcome, Logits):
            return self._commit_logits(outcome.plan, outcome.values)
        if isinstance(outcome, Tokens):
            return self._commit_tokens(outcome.plan, outcome.values)
        return self._commit_failure(outcome.plan, outcome.error)

    def _commit_failure(self, plan: Plan, error: Exception) -> list[SequenceWork]:
        """Take a step that raises again in halves, down to the sequences that make it raise; those end."""
        if len(plan.sequences) == 1:
            sequence, message = plan.sequences[0], f"the model step failed: {one_line(error)}"
            return [self._fail(sequence, error, sequence.rows, message)]
        work = []
        for half in self.scheduler.halves(plan):
            work += self._commit(self._run(half))
        return work

    def _commit_tokens(self, plan: Burst, tokens: np.ndarray) -> list[SequenceWork]:
        """Give each sequence the tokens that the burst drew for it."""
        self.scheduler.took(plan, len(tokens))
        work = [self._extend(*one) for one in zip(plan.sequences, tokens.T.tolist(), strict=True)]
        if len(tokens) < plan.num_steps:
            self.scheduler.trim(plan)
        return work

    def _commit_logits(self, plan: Plan, logits: np.ndarray) -> list[SequenceWork]:
        """Draw tokens for every sequence of the step; one argmax over all rows where that is enough."""
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

    # ---- one sequence

    def _advance(self, sequence: Sequence, logits: np.ndarray, quick: list[int] | None) -> SequenceWork:
        """Score the sequence's prompt, draw its tokens, end it when it is done."""
        scheduler, reply = self.scheduler, sequence.reply
        end = sequence.num_computed + sequence.rows - sequence.num_drafts
        try:
            if reply.scores is not None and sequence.num_logits and sequence.needs_scores:
                self._score_prompt(sequence, logits)
            if end < sequence.num_tokens:  # more of the prompt is to come
                return scheduler.commit(sequence, sequence.rows)
            if sequence.request.max_tokens == 0:
                work = scheduler.commit(sequence, sequence.rows)
                self._end(sequence, "length")
                return work
            known, num_drafts = sequence.num_tokens, sequence.num_drafts
            drafts = sequence.tokens[known : known + num_drafts].tolist() if num_drafts else []
            choice = reply.choose(sequence.request, logits[-1 - num_drafts :], known, drafts, quick)
        except Exception as error:
            return self._fail(sequence, error, sequence.rows)
        return self._grow(sequence, choice, sequence.rows - num_drafts + len(choice.token_ids) - 1)

    def _score_prompt(self, sequence: Sequence, logits: np.ndarray) -> None:
        first = sequence.num_computed + sequence.rows - sequence.num_logits
        last = min(sequence.num_computed + sequence.rows, sequence.num_prompt - 1)
        sequence.reply.score_prompt(sequence.request, logits, first, last)
        self.scheduler.commit_scores(sequence, last)

    def _extend(self, sequence: Sequence, token_ids: list[int]) -> SequenceWork:
        """The tokens of a burst; those behind the end of the reply were computed for nothing."""
        try:
            choice = sequence.reply.extend(sequence.request, token_ids)
        except Exception as error:
            return self._fail(sequence, error, 0)
        return self._grow(sequence, choice, len(choice.token_ids))

    def _grow(self, sequence: Sequence, choice: Choice, num_stood: int) -> SequenceWork:
        """Commit chosen tokens, for which `num_stood` of the computed rows stand, and make their event."""
        reply = sequence.reply
        # the last token of a reply is never computed, so the sequence does not need it
        tokens = choice.token_ids if choice.reason is None else choice.token_ids[:-1]
        work = self.scheduler.commit(sequence, num_stood, tokens)
        if reply.first_token_ns is None:
            reply.first_token_ns = self._clock()
        if choice.reason is not None:
            self._end(sequence, choice.reason, choice=choice)
            return work
        self._events.append(progress_event(sequence, choice))
        return work

    def _fail(
        self, sequence: Sequence, error: Exception, num_stood: int, message: str | None = None
    ) -> SequenceWork:
        """End a sequence alone with an error; of its computed rows, all but `num_stood` are waste."""
        log.error("request %s failed", sequence.request.id, exc_info=error)
        work = self.scheduler.work(sequence, num_stood)
        self._end(sequence, "error", error=message or one_line(error))
        return work

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        choice: Choice | None = None,
        error: str | None = None,
    ) -> None:
        """Take the sequence out and make its last event."""
        self.scheduler.finish(sequence)
        self._events.append(last_event(sequence, reason, self._clock(), choice, error, self.swapped_digest))
