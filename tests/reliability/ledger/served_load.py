"""An engine under load, billed into real books, until somebody kills it or sends SIGTERM.

Requests join and leave at random, some are cancelled, the cache is too small for all of them (so sequences
are preempted), and periods are so short that kills fall between and inside them. Each life of it is one
process with an account of its own.
"""

import importlib.util
import random
import signal
import sys
import threading
import time
from pathlib import Path

from tuition.books.books import open_books
from tuition.core.request_record import RequestRecord
from tuition.core.workspace import Workspace
from tuition.engine.request import Completion, complete
from tuition.engine.service import EngineService
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request
from tuition.spec.machine import Machine

MACHINE = Machine("test", "cpu", 2, 1 << 34, 1e12, 1e10, 7.3, 31.7, 0.0837, False, 0.21, 1.3, 400.0)
CLIENTS = 8
DOUBLES = Path(__file__).resolve().parents[2] / "unit" / "engine" / "conftest.py"


def doubles():
    spec = importlib.util.spec_from_file_location("engine_doubles", DOUBLES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Load:
    """One life of the engine."""

    def __init__(self, root: Path, seed: int) -> None:
        self.kit, self.seed = doubles(), seed
        self.books = open_books(Workspace(root))
        self.rate_id = record_rate(self.books, MACHINE)
        loop = self.kit.make_loop(
            num_blocks=24, token_budget=16, max_batch=6, context_length=70, bursts=seed % 2 == 0,
            repetitive=True, speculation="auto" if seed % 3 else "off", clock=time.monotonic_ns,
        )  # fmt: skip
        self.loop = loop
        self.account = EngineAccount(loop.runner.shape, MACHINE, ModelledMeter(MACHINE))
        loop.busy = self.account.engine_marks()
        self.periods = Periods(self.books, self.account, self.rate_id, "m", beat_s=0.02, period_s=0.1).start()
        self.service = EngineService(loop, self.account.add)
        self.until = threading.Event()

    def client(self, number: int) -> None:
        chance = random.Random(self.seed * 100 + number)
        prefix = [chance.randrange(60) for _ in range(12)]
        for turn in range(1_000_000):
            if self.until.is_set():
                return
            if chance.random() < 0.1:
                time.sleep(chance.random() * 0.02)  # so that the engine is idle now and then
            prompt = prefix[: chance.randrange(12)] + [
                chance.randrange(60) for _ in range(chance.randrange(1, 20))
            ]
            name = f"{self.seed}-{number}-{turn}"
            request = self.kit.make_request(name, prompt, chance.randrange(0, 24))
            stream = self.service.submit(request)
            events, leaves_after = [], chance.randrange(1, 6) if chance.random() < 0.2 else None
            for event in stream:
                events.append(event)
                if len(events) == leaves_after:
                    stream.cancel()
            self.settle(complete(events), name)

    def settle(self, done: Completion, name: str) -> None:
        cost = self.account.close(name)
        row = RequestRecord(
            cost=cost, rate_id=self.rate_id, model="m", version=1, weights_digest=None, api_key_id=None,
            created_unix_ns=time.time_ns(), prompt_tokens=done.num_prompt_tokens,
            input_tokens=done.num_prompt_tokens, cached_tokens=done.num_cached_tokens,
            generated_tokens=done.num_generated, queue_ns=None, first_token_ns=None, total_ns=1,
            finish_reason=done.finish_reason,
        )  # fmt: skip
        record_request(self.books, row).result()

    def run(self) -> None:
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        signal.sigwait({signal.SIGTERM})
        self.until.set()
        for thread in threads:
            thread.join()
        self.service.stop()
        self.periods.close()
        self.books.close()
        print(self.loop.stats().num_preemptions, flush=True)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before there are threads: they inherit it
    Load(Path(sys.argv[1]), int(sys.argv[2])).run()
