"""Receipts and statements as values with their derived figures; `ledger/statements` fills them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tuition.core.amount import NOTHING, Amount
from tuition.core.records import Score
from tuition.core.request_record import RequestRecord
from tuition.core.units import UJ_PER_WH
from tuition.ledger.rates import PER_HOUR, Rate


@dataclass(frozen=True)
class RateUse:
    """What one model was charged at one rate. History keeps the figures and labels that were valid then."""

    machine: Mapping[str, Any]
    causal: Amount
    loaded: Amount

    @property
    def building_uj(self) -> int | None:
        """Fully loaded energy of the building: the machine's times its PUE."""
        energy = self.loaded.energy_uj
        return None if energy is None else round(energy * self.machine["pue"])

    @property
    def carbon_g(self) -> float | None:
        """Grams of CO2 equivalent, fully loaded, the building's energy counted."""
        return carbon_g(self.loaded, self.machine)


@dataclass(frozen=True)
class TrainingReceipt:
    """What one training run cost, whether it finished or not."""

    run_id: str
    model: str
    recipe: str
    scope: str
    status: str
    """finished, stopped, failed, or running; a run whose process was killed is stopped."""
    reason: str
    created_unix_ns: int
    num_steps: int
    unit: str
    """What the recipe counts: token, image, window."""
    num_tokens: int
    """Of those units."""
    redone_tokens: int
    num_resumes: int
    num_parameters: int | None
    flops: int
    last_loss: float | None
    scores: tuple[Score, ...]
    parts: Mapping[str, Amount]
    """By kind: step, data, evaluation, checkpoint, load, other."""
    total: Amount
    energy_method: str | None
    machine: Mapping[str, Any]
    """Machine.to_table() of the newest rate that was charged."""
    rates: tuple[RateUse, ...]
    """What its processes were charged at each rate; empty for a run from before this was recorded."""

    @property
    def machines(self) -> tuple[Mapping[str, Any], ...]:
        """Of all rates that were charged."""
        return tuple(use.machine for use in self.rates) or (self.machine,)

    @property
    def goodput(self) -> float | None:
        """Time in optimizer steps over all time."""
        return _ratio(self.parts.get("step", NOTHING).wall_ns, self.total.wall_ns)

    @property
    def step_mfu(self) -> float | None:
        """Model FLOPs over what the machine's peak gives in the time of the steps."""
        return _ratio(self.flops, self.parts.get("step", NOTHING).seconds * self.machine["peak_flops"])

    @property
    def run_mfu(self) -> float | None:
        """The same over the whole time of the run."""
        return _ratio(self.flops, self.total.seconds * self.machine["peak_flops"])

    @property
    def tokens_per_s(self) -> float | None:
        """Units per second of step time."""
        return _ratio(self.num_tokens, self.parts.get("step", NOTHING).seconds)

    @property
    def carbon_g(self) -> float | None:
        """Grams of CO2 equivalent, the building's energy counted, with the factors that were valid."""
        if not self.rates:
            return carbon_g(self.total, self.machine)
        return sum_known([use.carbon_g for use in self.rates])


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceipt(RequestRecord):
    """What one request cost: the causal view, idle and overhead apart."""

    machine: Mapping[str, Any]
    """Machine.to_table() of the rate that was charged."""

    @property
    def carbon_g(self) -> float | None:
        """Grams of CO2 equivalent, the building's energy counted."""
        return carbon_g(self.total, self.machine)

    @property
    def cpu_nusd(self) -> int | None:
        """Money for its own CPU time alone: its part of the hourly price of the cores. None if unknown."""
        if self.cost.cpu_ns is None or self.machine["device"] != "cpu":
            return None
        hourly = Rate.from_table(self.machine).nusd_per_hour
        return hourly * self.cost.cpu_ns // (PER_HOUR * self.machine["num_cores"])


@dataclass(frozen=True)
class ModelStatement:
    """Fixed and variable cost of one model."""

    model: str
    training: tuple[TrainingReceipt, ...]
    fixed: Amount | None
    """All its training runs; None where it was not trained here, so its fixed cost is unknown."""
    num_requests: int
    prompt_tokens: int
    """As callers have sent them."""
    input_tokens: int
    """Prompt tokens that replies were based on: a prompt with n replies counts n times."""
    cached_tokens: int
    """Of input_tokens."""
    generated_tokens: int
    causal: Amount
    """What its requests caused."""
    prefill: Amount
    decode: Amount
    waste: Amount
    idle: Amount
    overhead: Amount
    is_shared: bool
    """Idle time and overhead are a part of an engine's that has other models, too."""
    energy_method: str | None
    latency_p50_ns: int | None
    latency_p99_ns: int | None
    rates: tuple[RateUse, ...]
    """Oldest first."""

    @property
    def num_tokens(self) -> int:
        """Tokens that were computed: prompt tokens that were not cached, and generated ones."""
        return self.input_tokens - self.cached_tokens + self.generated_tokens

    @property
    def machines(self) -> tuple[Mapping[str, Any], ...]:
        """Of all rates that were charged."""
        return tuple(use.machine for use in self.rates)

    @property
    def loaded(self) -> Amount:
        """Causal cost with idle and overhead on top."""
        return self.causal + self.idle + self.overhead

    @property
    def building_uj(self) -> int | None:
        """Fully loaded energy of the building: at each rate the machine's energy times its PUE."""
        return sum_known([use.building_uj for use in self.rates])

    @property
    def carbon_g(self) -> float | None:
        """Grams of CO2 equivalent, fully loaded, the building's energy counted."""
        return sum_known([use.carbon_g for use in self.rates])

    @property
    def loading(self) -> float | None:
        """Fully loaded over causal money."""
        return _ratio(self.loaded.cost_nusd, self.causal.cost_nusd)

    @property
    def utilisation(self) -> float | None:
        """Machine time that requests caused over all machine time."""
        return _ratio(self.causal.wall_ns, self.loaded.wall_ns)

    @property
    def nusd_per_request(self) -> int | None:
        """Mean causal money of a request."""
        return round(self.causal.cost_nusd / self.num_requests) if self.num_requests else None

    @property
    def reading_is_dear(self) -> bool:
        """Whether an input token costs more than an output token, as with short prompts."""
        read, written = self.usd_per_mtok("input"), self.usd_per_mtok("output")
        return read is not None and written is not None and read > written

    def usd_per_mtok(self, which: str = "all", *, loaded: bool = False) -> float | None:
        """US dollars per million tokens: `input` (not cached), `output`, `all`; None without any."""
        amount, tokens = {
            "all": (self.causal, self.num_tokens),
            "input": (self.prefill, self.input_tokens - self.cached_tokens),
            "output": (self.decode, self.generated_tokens),
        }[which]
        factor = (self.loading or 1.0) if loaded else 1.0
        return None if not tokens else amount.usd * factor / tokens * 1e6

    def wh_per_mtok(self, *, loaded: bool = False) -> float | None:
        """Watt-hours per million tokens: of the machine, or fully loaded, of the building."""
        energy = self.building_uj if loaded else self.causal.energy_uj
        return None if energy is None or not self.num_tokens else energy / UJ_PER_WH / self.num_tokens * 1e6

    def crossover(self, *, loaded: bool = False) -> float | None:
        """Tokens at which the variable cost equals the fixed cost; None while either is unknown."""
        if self.fixed is None or not self.num_tokens:
            return None
        variable = self.loaded if loaded else self.causal
        marginal = variable.cost_nusd / self.num_tokens
        return self.fixed.cost_nusd / marginal if marginal > 0 else None


@dataclass(frozen=True)
class Span:
    """A span of time, in UTC; None is open."""

    since_unix_ns: int | None = None
    until_unix_ns: int | None = None


ALL_TIME = Span()


@dataclass(frozen=True)
class Statement:
    """All models with costs, or the requested one."""

    models: tuple[ModelStatement, ...]
    span: Span = ALL_TIME


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


N = TypeVar("N", int, float)


def sum_known(parts: Sequence[N | None]) -> N | None:
    """The sum; None if a part of it is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known[1:], known[0]) if known and len(known) == len(parts) else None


def carbon_g(amount: Amount, machine: Mapping[str, Any]) -> float | None:
    """Grams of CO2 equivalent of an amount on this machine; None where its energy is unknown."""
    if amount.energy_uj is None:
        return None
    return amount.energy_uj / UJ_PER_WH / 1e3 * machine["pue"] * machine["carbon_g_per_kwh"]
