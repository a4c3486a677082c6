"""Which tokens of which requests are computed next. No torch.

In: requests, cancellations.  Out: one `Plan` per step (a `StepBatch` and the sequences in it); `commit` takes
it back.

Rules, in this order: every decode gets its token; prompts that have begun share what is left of the token
budget; then waiting requests are admitted, interactive before batch, and among equals one of each salt (API
key) in turn. A prompt is admitted only when the cache can hold all of it. When a decode needs a block and
none is left, the last-come sequence of the lowest priority is preempted: it gives up its blocks, waits at the
head of its line, and is computed again (mostly from the prefix cache). Whoever came first is never preempted
by a later equal, and `submit` refuses what could not run alone; so everything admitted ends.
"""

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuition.core.errors import BusyError, RequestError
from tuition.core.records import SequenceWork
from tuition.engine.admission import validate
from tuition.engine.batch import StepBatch
from tuition.engine.blocks import BlockPool
from tuition.engine.reply import Reply
from tuition.engine.request import Request
from tuition.engine.sequence import Sequence
from tuition.engine.settings import EngineSettings
from tuition.engine.waiting import WaitingLine

SHARED_PREFILLS = 4
"""Prompts that advance side by side, so that a short one need not wait for a long one to end."""
SCORED_ROWS = 64
"""Most prompt rows per step and request whose logits are kept, each as long as the vocabulary."""


@dataclass(slots=True)
class Plan:
    """One step: the arrays for the runner, and whose rows they are."""

    batch: StepBatch
    sequences: list[Sequence]
    num_steps: int = 0
    """Decode steps that may be taken in one call, as `batch.BurstRunner` says; 0: one step of all kinds."""


class Scheduler:
    """Owns sequences and blocks. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        num_blocks: int,
        block_size: int,
        context_length: int,
        vocab_size: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.settings, self.context_length, self.vocab_size = settings, context_length, vocab_size
        self.pool = BlockPool(num_blocks, block_size)
        self.running: list[Sequence] = []
        """Sorted by order."""
        self.num_preemptions = 0
        self._lines = (WaitingLine(), WaitingLine())
        self._by_id: dict[str, Sequence] = {}
        self._clock = clock
        self._arrivals = 0
        self._reuse = settings.prefix_cache == "on"
        self._count = np.arange(max(context_length, settings.token_budget) + 2, dtype=np.int32)
        self._rows: list[Sequence] = []
        self._lone_starts = [np.array((0, n), np.int32) for n in range(2 + settings.draft_tokens)]

    # ---- requests come and go

    def validate(self, request: Request) -> None:
        """Refuse what could never run; reads constants only, so any thread may call it. Raises: as there."""
        validate(
            request,
            context=self.context_length,
            vocab_size=self.vocab_size,
            cache_tokens=self.pool.num_blocks * self.pool.block_size,
        )

    def submit(self, request: Request, reply: Reply) -> Sequence:
        """Put a request in its line. Raises: as `validate`; RequestError for an id in use; BusyError."""
        self.validate(request)
        if request.id in self._by_id:
            raise RequestError("id", f"{request.id} is in use")
        if len(self._by_id) >= self.settings.max_waiting + self.settings.max_batch:
            raise BusyError(f"{self.num_waiting:,} requests are waiting", retry_after_s=1)
        self._arrivals += 1
        sequence = Sequence(request, reply, self._arrivals)
        self._by_id[request.id] = sequence
        self._lines[sequence.order[0]].add(sequence)
        return sequence

    def find(self, request_id: str) -> Sequence | None:
        """The live sequence of this request, or None."""
        return self._by_id.get(request_id)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks at once."""
        if self._by_id.pop(sequence.request.id, None) is None:
            return
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._lines[sequence.order[0]].remove(sequence)
        self.pool.release(sequence.drop_blocks())

    @property
    def live(self) -> list[Sequence]:
        """Every sequence that waits or runs."""
        return list(self._by_id.values())

    @property
    def num_waiting(self) -> int:
        return self._lines[0].length + self._lines[1].length

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    # ---- the step

    def next_batch(
        self, draft: Callable[[Sequence, int], int] | None = None, most_steps: int = 0
    ) -> Plan | None:
        """Choose the rows of the next step, or of a burst of up to `most_steps`; None: nothing is to do.

        `draft(sequence, most)` may write up to `most` guesses behind sequence.tokens[num_tokens] and tells
        how many.
        """
        rows, running = self._rows, self.running
        rows.clear()
        budget = self.settings.token_budget
        spare = budget - len(running) - self.num_waiting  # drafts never take what somebody waits for
        place = 0
        while place < len(running):  # preemption shortens the list from its end
            sequence = running[place]
            place += 1
            if not sequence.decoding:
                continue
            if not self._has_room(sequence):
                break  # it was preempted itself, and so was everybody behind it
            sequence.rows, sequence.num_drafts = 1, 0
            if draft is not None and spare > 0:
                self._add_drafts(sequence, draft, spare)
                spare -= sequence.num_drafts
            rows.append(sequence)
            budget -= sequence.rows
        if len(rows) < len(running) or self._lines[0].length or self._lines[1].length:
            self._share_among_prompts(budget)
        if not rows:
            return None
        num_steps = self._steps_of(rows, most_steps) if most_steps else 0
        return Plan(self._arrays(rows), list(rows), num_steps)

    def part(self, sequences: list[Sequence]) -> Plan:
        """A smaller step of these sequences alone, with the rows that the present step gave them."""
        return Plan(self._arrays(sequences), sequences)

    def commit(self, sequence: Sequence, num_computed: int) -> None:
        """Take a step's result: `num_computed` of the rows stand; the rest were drafts that failed."""
        before = sequence.num_computed
        sequence.num_computed = computed = before + num_computed
        if computed > sequence.num_once_computed:
            sequence.num_once_computed = computed
        if self._reuse:
            full = computed // self.pool.block_size
            if full > sequence.num_published:
                names = sequence.name_blocks(full, self.pool.block_size)
                for index in range(sequence.num_published, full):
                    self.pool.publish(sequence.blocks[index], names[index])
                sequence.num_published = full

    def trim(self, sequence: Sequence) -> None:
        """Give back blocks that were taken ahead for a burst that ended early."""
        needed = sequence.num_computed // self.pool.block_size + 1
        if len(sequence.blocks) > needed:
            self.pool.release(sequence.drop_blocks_behind(needed))

    def work(self, sequence: Sequence, num_stood: int) -> SequenceWork:
        """What the sequence did in this step, before `commit`; `num_stood` of its rows stand."""
        wasted = sequence.rows - num_stood
        if sequence.num_computed < sequence.num_once_computed:  # computed again after preemption
            wasted += min(num_stood, sequence.num_once_computed - sequence.num_computed)
        return SequenceWork(
            sequence.request.id,
            "decode" if sequence.decoding else "prefill",
            sequence.rows,
            sequence.num_computed,
            sequence.num_logits,
            wasted,
        )

    def check(self) -> None:
        """Count blocks again. Raises: CacheIntegrityError."""
        self.pool.check(sequence.blocks for sequence in self._by_id.values())

    # ---- parts

    def _has_room(self, sequence: Sequence) -> bool:
        """Make sure that the next token has a block, preempting from the end; False: it went itself."""
        block_size = self.pool.block_size
        while sequence.num_computed // block_size >= len(sequence.blocks):
            blocks = self.pool.take(1)
            if blocks is not None:
                sequence.add_blocks(blocks)
                break
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _add_drafts(self, sequence: Sequence, draft: Callable[[Sequence, int], int], spare: int) -> None:
        request = sequence.request
        left = sequence.num_prompt + request.max_tokens - sequence.num_tokens - 1
        most = min(left, spare, self.settings.draft_tokens)
        if most <= 0:
            return
        sequence.reserve(most)
        count = draft(sequence, most)
        missing = -(-(sequence.num_tokens + count) // self.pool.block_size) - len(sequence.blocks)
        if missing > 0:
            blocks = self.pool.take(missing) if missing <= self.pool.num_free - len(self.running) else None
            if blocks is None:  # guesses are not worth a preemption
                count = min(count, len(sequence.blocks) * self.pool.block_size - sequence.num_tokens)
            else:
                sequence.add_blocks(blocks)
        sequence.num_drafts = count
        sequence.rows = 1 + count

    def _steps_of(self, rows: list[Sequence], most: int) -> int:
        """Steps that these can take without anybody's help: until the first must end or finds no block.

        0 where one of them reads its prompt, has guesses, or needs its rows in Python; or may end with any
        token while somebody waits for its place. Takes the blocks for all steps now, if enough stay free.
        """
        size, is_awaited = self.pool.block_size, self.num_waiting > 0
        for one in rows:
            if not (one.decoding and one.reply.takes_bursts) or one.num_drafts:
                return 0
            if is_awaited and one.request.stop:
                return 0
            most = min(most, one.num_prompt + one.request.max_tokens - one.num_tokens)
        missing = [-(-(one.num_computed + most) // size) - len(one.blocks) for one in rows]
        total = sum(count for count in missing if count > 0)
        if total > self.pool.num_free - len(self.running):
            return min(most, *(len(one.blocks) * size - one.num_computed for one in rows))
        if total:
            for one, count in zip(rows, missing, strict=True):
                if count > 0 and (blocks := self.pool.take(count)) is not None:
                    one.add_blocks(blocks)
        return most

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence.drop_blocks())
        self._lines[sequence.order[0]].add_preempted(sequence)
        self.num_preemptions += 1

    def _share_among_prompts(self, budget: int) -> None:
        """Cut chunks from begun prompts, admit new ones, and give what is left to whoever came first."""
        prompts = [sequence for sequence in self.running if not sequence.decoding]
        for sequence in prompts:
            sequence.rows = sequence.num_drafts = 0
        share = max(1, budget // max(1, min(len(prompts) + self.num_waiting, SHARED_PREFILLS)))
        for sequence in prompts:
            budget -= self._cut_chunk(sequence, min(share, budget))
        while budget > 0 and (sequence := self._admit_one()) is not None:
            budget -= self._cut_chunk(sequence, min(share, budget))
            prompts.append(sequence)
        for sequence in dict.fromkeys(prompts):  # one that was preempted may have been admitted again
            if sequence.blocks:  # else it was preempted by an admission
                budget -= self._cut_chunk(sequence, budget)
                if sequence.rows:
                    self._rows.append(sequence)

    def _cut_chunk(self, sequence: Sequence, most: int) -> int:
        """Lengthen the sequence's chunk by up to `most` rows; returns by how many."""
        got = max(0, min(self._chunk_limit(sequence) - sequence.rows, most))
        sequence.rows += got
        return got

    def _chunk_limit(self, sequence: Sequence) -> int:
        scoring = (
            sequence.request.prompt_logprobs is not None and sequence.num_scored < sequence.num_prompt - 1
        )
        return min(sequence.remaining, SCORED_ROWS) if scoring else sequence.remaining

    def _admit_one(self) -> Sequence | None:
        """Let the first of the waiting in, or nobody: who waits behind a long prompt does not overtake it."""
        line = self._lines[0] if self._lines[0].length else self._lines[1]
        sequence = line.first()
        if sequence is None or not self._make_place(sequence):
            return None
        line.pop()
        if sequence.admitted_ns is None:
            sequence.admitted_ns = self._clock()
        insort(self.running, sequence, key=lambda s: s.order)
        sequence.rows = sequence.num_drafts = 0
        return sequence

    def _make_place(self, sequence: Sequence) -> bool:
        """Give `sequence` blocks for all it knows; an interactive one may preempt batch ones."""
        pool = self.pool
        while True:
            names = sequence.name_blocks(self._most_cached(sequence), pool.block_size) if self._reuse else []
            cached = pool.find(names)
            missing = -(-sequence.num_tokens // pool.block_size) - len(cached)
            spare = pool.num_free - pool.num_kept_among(cached)
            reserve = sum(s.decoding for s in self.running)  # each may soon need one more
            fits = missing <= spare - reserve if self.running else missing <= spare
            if fits and len(self.running) < self.settings.max_batch:
                break
            victim = self.running[-1] if self.running else None
            if victim is None or victim.order[0] <= sequence.order[0]:
                return False
            if victim in self._rows:
                self._rows.remove(victim)
            self._preempt(victim)
        pool.hold(cached)
        taken = pool.take(missing)
        sequence.add_blocks(cached + (taken or []))
        sequence.num_computed = len(cached) * pool.block_size
        sequence.num_published = len(cached)
        known = sequence.num_once_computed
        if sequence.num_computed > known:  # spared by others' work; what is computed again later is waste
            sequence.num_cached += sequence.num_computed - known
            sequence.num_once_computed = sequence.num_computed
        return True

    def _most_cached(self, sequence: Sequence) -> int:
        """Full blocks that may come from the cache: never the last token, whose logits are wanted."""
        most = sequence.num_tokens - 1
        if sequence.request.prompt_logprobs is not None and sequence.num_scored < sequence.num_prompt - 1:
            most = min(most, sequence.num_scored)
        return most // self.pool.block_size

    def _arrays(self, rows: list[Sequence]) -> StepBatch:
        count = self._count
        if len(rows) == 1 and rows[0].decoding:  # nothing is copied for a lone decode
            one = rows[0]
            start, size = one.num_computed, one.rows
            one.first_logit, one.num_logits = 0, size
            return StepBatch(
                one.tokens[start : start + size],
                count[start : start + size],
                self._lone_starts[size],
                count[start : start + 1],
                one.table[None, : len(one.blocks)],
                count[:size],
            )
        starts = np.empty(len(rows) + 1, np.int32)
        contexts = np.empty(len(rows), np.int32)
        tables = np.full((len(rows), max(len(s.blocks) for s in rows)), -1, np.int32)
        tokens, positions, logits = [], [], []
        begin = num_logits = 0
        for index, sequence in enumerate(rows):
            start, size = sequence.num_computed, sequence.rows
            starts[index], contexts[index] = begin, start
            tables[index, : len(sequence.blocks)] = sequence.table[: len(sequence.blocks)]
            tokens.append(sequence.tokens[start : start + size])
            positions.append(count[start : start + size])
            wanted = self._wanted_rows(sequence)
            sequence.first_logit, sequence.num_logits = num_logits, size - wanted
            if wanted < size:
                logits.append(np.arange(begin + wanted, begin + size, dtype=np.int32))
            num_logits += size - wanted
            begin += size
        starts[-1] = begin
        return StepBatch(
            np.concatenate(tokens),
            np.concatenate(positions),
            starts,
            contexts,
            tables,
            np.concatenate(logits) if logits else np.empty(0, np.int32),
        )

    @staticmethod
    def _wanted_rows(sequence: Sequence) -> int:
        """First of the step's rows whose logits are wanted; they are wanted from there to the end."""
        request, start, end = sequence.request, sequence.num_computed, sequence.num_computed + sequence.rows
        if sequence.decoding:
            return 0
        if request.prompt_logprobs is not None and sequence.num_scored < sequence.num_prompt - 1:
            return min(max(0, sequence.num_scored - start), sequence.rows)
        last = end >= sequence.num_tokens and sequence.num_tokens < sequence.num_prompt + request.max_tokens
        return sequence.rows - 1 if last else sequence.rows
