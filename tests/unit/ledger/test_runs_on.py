"""What a runner reads in a step decides what is shared in it."""

from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape

SHAPE = ModelShape(
    vocab_size=512, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=128,
    context_length=256,
)  # fmt: skip


def kv_bytes_of_a_decode(account: EngineAccount) -> int:
    work = SequenceWork("a", "decode", num_tokens=1, context_tokens=10, num_sampled=1)
    account.add(StepTrace(account.meter.start(), account.meter.start() + 1_000_000, (work,)))
    return account.close("a").kv_bytes


def test_the_cache_counts_with_the_bytes_that_the_runner_keeps() -> None:
    """Float32 keys and values are twice the bytes of bf16 ones."""
    machine = detect_machine()
    halves, floats = (EngineAccount(SHAPE, machine, open_meter(machine)) for _ in range(2))
    floats.runs_on(weight_bytes=400_000, kv_bytes_per_value=4)
    assert kv_bytes_of_a_decode(floats) == 2 * kv_bytes_of_a_decode(halves) > 0
