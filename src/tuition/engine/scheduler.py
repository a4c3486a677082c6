"""Which tokens of which requests are computed next. No torch.

In: requests, cancellations.  Out: one `Plan` per step; `commit` and `commit_burst` take its result back. Only
the scheduler changes sequences and blocks.

Rules, in this order: every decode gets its token; prompts that have begun share the rest of the token budget;
then waiting requests are admitted, interactive before batch, and among equals one of each salt (API key) in
turn. A prompt is admitted only when the cache can hold all of it. When a decode needs a block and none is
left, the most recently admitted sequence of the lowest priority is preempted: its blocks are released, it
waits at the head of its line, and it is computed again (mostly from the prefix cache). A sequence is never
preempted by a later one of its priority, and `submit` refuses what could not run alone; so everything that is
admitted ends.
"""

import time
from bisect import insort
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial

import numpy as np

from tuition.core.errors import BusyError, RequestError
from tuition.core.records import SequenceWork
from tuition.engine.admission import validate
from tuition.engine.blocks import BlockPool, root_digest
from tuition.engine.plan import BatchBuilder, Burst, Plan, Rows
from tuition.engine.reply import Reply
from tuition.engine.request import Request
from tuition.engine.sequence import Sequence
from tuition.engine.settings import EngineSettings
from tuition.engine.waiting import WaitingLine

SHARED_PREFILLS = 4
"""Prompts that advance together, so that a short one does not wait for the end of a long one."""
SCORED_ROWS = 64
"""Most prompt rows per step and request whose logits are kept, each as long as the vocabulary."""


Draft = Callable[[Sequence, int], np.ndarray]
"""From a sequence and the most tokens to guess, to drafts: (0..most,) int32."""


class Scheduler:
    """Owns sequences and blocks. Not thread-safe: only the engine's thread calls it."""

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
        self.variants: dict[str, bytes] = {}
        """Variants of the weights that requests may name, and the digest of each."""
        self.num_preemptions = 0
        self._lines = (WaitingLine(), WaitingLine())
        self._by_id: dict[str, Sequence] = {}
        self._clock = clock
        self._arrivals = 0
        self._reuse = settings.prefix_cache == "on"
        self._builder = BatchBuilder(max(context_length, settings.token_budget), settings.draft_tokens)
        self._rows: list[Sequence] = []

    # ---- requests come and go

    def validate(self, request: Request) -> None:
        """Refuse what could never run; changes nothing, so any thread may call it. Raises: as there."""
        validate(
            request,
            variants=self.variants.keys(),
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
        variant = b"" if request.variant is None else self.variants[request.variant]
        root = root_digest(request.cache_salt, variant)
        sequence = Sequence(request, reply, self._arrivals, root)
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

    def plan(self, draft: Draft | None = None, burst: int | None = None) -> Plan | None:
        """The next step; None: there is nothing to do.

        `draft`: guesses tokens of decodes, None for no guesses. `burst`: most steps of one, None for none.
        """
        rows, running = self._rows, self.running
        rows.clear()
        budget = self.settings.token_budget
        spare = budget - len(running) - self.num_waiting  # drafts never take rows that a request waits for
        place = 0
        # every decode gets its token; preemption shortens the list from its end
        while place < len(running):
            sequence = running[place]
            place += 1
            if not sequence.decoding:
                continue
            if not self._has_room(sequence):
                break  # it was preempted itself, and everything behind it before
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
        if self.variants:  # sequences of a variant must be neighbours
            rows.sort(key=lambda s: s.request.variant or "")
        num_steps = None if burst is None else self._burst_steps(rows, burst)
        batch = self._builder.build(rows, has_variants=bool(self.variants))
        return Rows(batch, list(rows)) if num_steps is None else Burst(batch, list(rows), num_steps)

    def halves(self, plan: Plan) -> tuple[Rows, Rows]:
        """The same rows as two steps."""
        middle = len(plan.sequences) // 2
        first, second = plan.sequences[:middle], plan.sequences[middle:]
        build = partial(self._builder.build, has_variants=bool(self.variants))
        return Rows(build(first), first), Rows(build(second), second)

    def commit(self, sequence: Sequence, num_stood: int, token_ids: Items[int] = ()) -> SequenceWork:
        """Take a step's result; returns what was done.

        `num_stood` of the sequence's rows stand (the others were drafts that failed); `token_ids` are new.
        """
        work = self.work(sequence, num_stood)
        if token_ids:
            sequence.extend(token_ids)
        sequence.num_computed = computed = sequence.num_computed + num_stood
        if computed > sequence.num_once_computed:
            sequence.num_once_computed = computed
        if self._reuse:
            full = computed // self.pool.block_size
            if full > sequence.num_published:
                names = sequence.name_blocks(full, self.pool.block_size)
                for index in range(sequence.num_published, full):
                    self.pool.publish(sequence.blocks[index], names[index])
                sequence.num_published = full
        return work

    def commit_scores(self, sequence: Sequence, num_scored: int) -> None:
        """The first `num_scored` rows of the prompt are scored."""
        sequence.num_scored = num_scored

    def took(self, plan: Burst, num_steps: int) -> None:
        """Of this burst, `num_steps` were taken; each sequence's `commit` follows, then `trim`."""
        for sequence in plan.sequences:
            sequence.rows = sequence.num_logits = num_steps

    def trim(self, plan: Burst) -> None:
        """Release blocks that were taken ahead for steps that were not taken."""
        for sequence in plan.sequences:
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

    def restart(self) -> None:
        """Other weights compute from now on, so nothing in the cache is of use.

        Running sequences keep their tokens, wait at the head of their lines, and are computed again. Prompt
        scores that are not complete begin again, so that no reply has scores of two models.
        """
        for sequence in reversed(self.running.copy()):
            self._set_aside(sequence)
        for sequence in self._by_id.values():
            if sequence.reply.scores is not None:
                sequence.num_scored = 0
                sequence.reply.restart_scores(sequence.request)
        self.pool = BlockPool(self.pool.num_blocks, self.pool.block_size)

    def check(self) -> None:
        """Count blocks again. Raises: CacheIntegrityError."""
        self.pool.check(sequence.blocks for sequence in self._by_id.values())

    # ---- parts

    def _has_room(self, sequence: Sequence) -> bool:
        """Give the next token a block, preempting from the end; False: the sequence was preempted itself."""
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

    def _add_drafts(self, sequence: Sequence, draft: Draft, spare: int) -> None:
        request = sequence.request
        left = sequence.num_prompt + request.max_tokens - sequence.num_tokens - 1
        most = min(left, spare, self.settings.draft_tokens)
        if most <= 0:
            return
        drafts = draft(sequence, most)
        count, known = len(drafts), sequence.num_tokens
        sequence.reserve(count)
        sequence.tokens[known : known + count] = drafts
        missing = -(-(known + count) // self.pool.block_size) - len(sequence.blocks)
        if missing > 0:
            blocks = self.pool.take(missing) if missing <= self.pool.num_free - len(self.running) else None
            if blocks is None:  # drafts are not worth a preemption
                count = min(count, len(sequence.blocks) * self.pool.block_size - known)
            else:
                sequence.add_blocks(blocks)
        sequence.num_drafts = count
        sequence.rows = 1 + count

    def _burst_steps(self, rows: list[Sequence], most: int) -> int | None:
        """Steps that these can take in one call: until the first must end or has no block.

        None where one of them reads its prompt, has drafts, or needs its rows in Python; or may end with any
        token while a request waits for its place. Takes the blocks for all steps now, if enough stay free.
        """
        size, is_awaited = self.pool.block_size, self.num_waiting > 0
        for one in rows:
            if not (one.decoding and one.reply.takes_bursts) or one.num_drafts:
                return None
            if is_awaited and one.request.stop:
                return None
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
        self._set_aside(sequence)
        self.num_preemptions += 1

    def _set_aside(self, sequence: Sequence) -> None:
        """Release a running sequence's blocks and let it wait at the head of its line."""
        self.running.remove(sequence)
        self.pool.release(sequence.drop_blocks())
        self._lines[sequence.order[0]].add_preempted(sequence)

    def _share_among_prompts(self, budget: int) -> None:
        """Cut chunks from begun prompts, admit new ones, and give what is left to the earliest."""
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
        return min(sequence.remaining, SCORED_ROWS) if sequence.needs_scores else sequence.remaining

    def _admit_one(self) -> Sequence | None:
        """Admit the first waiting sequence, or none: nothing overtakes a long prompt that waits."""
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
        if sequence.needs_scores:
            most = min(most, sequence.num_scored)
        return most // self.pool.block_size
