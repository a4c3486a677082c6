"""The demo's receipts and statements: one line for each receipt, one sentence for each model.

In: sheets of the ledger.  Out: text. `tuition bill` shows all figures.
"""

from tuition.core.units import format_count, format_duration
from tuition.ledger.render import how_energy, how_money, totals_line
from tuition.ledger.sheets import ModelStatement, RequestReceipt, TrainingReceipt


def training_line(receipt: TrainingReceipt) -> str:
    """What a training run did, its newest score, and its cost."""
    score = ""
    if receipt.scores:
        newest = receipt.scores[-1]
        error = "" if newest.stderr is None else f" +- {newest.stderr:.3f}"
        score = f"; held-out {newest.value:.3f}{error} {newest.unit}"
    how = _how(how_energy(receipt.energy_method, *receipt.machines), how_money(*receipt.machines))
    return (
        f"[receipt: {receipt.num_steps:,} steps, {format_count(receipt.num_tokens)} tokens{score}; "
        f"{totals_line(receipt.total)}{how}]"
    )


def request_line(receipt: RequestReceipt) -> str:
    """What a request read and wrote, and its cost."""
    first = receipt.first_token_ns
    told = "" if first is None else f", first token after {format_duration(first / 1e9)}"
    how = _how(how_energy(receipt.cost.energy_method, receipt.machine), how_money(receipt.machine))
    return (
        f"[receipt: {receipt.prompt_tokens} tokens in, {receipt.generated_tokens} out{told}; "
        f"{totals_line(receipt.total)}{how}]"
    )


def statement_line(model: ModelStatement) -> str:
    """Fixed and variable cost of one model."""
    taught = "not taught here" if model.fixed is None else f"taught for {totals_line(model.fixed)}"
    used = (
        f"{model.num_requests} requests with {model.num_tokens:,} tokens for {totals_line(model.causal)}, "
        f"with idle time and loading {totals_line(model.loaded)}"
    )
    crossover = model.crossover()
    even = (
        "" if crossover is None else f"; use costs as much as teaching after {format_count(crossover)} tokens"
    )
    return f"{model.model}: {taught}; {used}{even}."


def _how(energy: str, money: str) -> str:
    told = ", ".join(filter(None, (energy, money)))
    return f" ({told})" if told else ""
