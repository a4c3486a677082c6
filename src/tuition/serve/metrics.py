"""Figures for Prometheus.

Labels are model names, routes and outcomes of ours; never a key, a user or a prompt. Adapters come and go, so
the number of names is bounded.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import Scope

from tuition.core.units import NS_PER_S, NUSD_PER_USD, UJ_PER_J
from tuition.desk.desk import Bill
from tuition.engine.request import TokenEvent
from tuition.serve.context import ServeContext
from tuition.serve.errors import ApiError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


MOST_NAMES = 200
"""Models with a label of their own; those that come later share one."""


class Metrics:
    """The counters of one server, in its own registry."""

    def __init__(self, context: ServeContext) -> None:
        self.registry = CollectorRegistry()
        self._names: set[str] = set()
        self.http = Counter(
            "tuition_http_requests", "HTTP requests", ("route", "status"), registry=self.registry
        )
        self.http_seconds = Histogram(
            "tuition_http_seconds", "Time to answer, streams to their end", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.sequences = Counter(
            "tuition_sequences", "Sequences that ended", ("model", "finish_reason"), registry=self.registry
        )
        self.tokens = Counter("tuition_tokens", "Tokens", ("model", "kind"), registry=self.registry)
        self.cost = Counter("tuition_cost_usd", "Causal cost of requests", ("model",), registry=self.registry)
        self.energy = Counter(
            "tuition_energy_joules", "Energy of requests", ("model", "method"), registry=self.registry
        )
        self.first_token = Histogram(
            "tuition_first_token_seconds", "Submission to first token", ("model",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.failures = Counter(
            "tuition_failures",
            "Sequences whose client got an error",
            ("model", "code"),
            registry=self.registry,
        )
        self.registry.register(_Engines(context))

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one HTTP request; the route's pattern is the label, never the path that was asked for."""
        route = getattr(scope.get("route"), "path", None) or "other"
        self.http.labels(route, str(status)).inc()
        self.http_seconds.labels(route).observe(seconds)

    def count(self, model: str, last: TokenEvent, bill: Bill) -> None:
        """Count one billed sequence."""
        model = self._label(model)
        self.sequences.labels(model, last.finish_reason).inc()
        self.tokens.labels(model, "prompt").inc(last.num_prompt_tokens - last.num_cached_tokens)
        self.tokens.labels(model, "cached").inc(last.num_cached_tokens)
        self.tokens.labels(model, "generated").inc(last.num_generated)
        self.cost.labels(model).inc(bill.cost_nusd / NUSD_PER_USD)
        if bill.energy_uj is not None:
            self.energy.labels(model, bill.energy_method or "unknown").inc(bill.energy_uj / UJ_PER_J)
        timing = last.timing
        if timing is not None and timing.first_token_ns is not None:
            waited_ns = timing.first_token_ns - timing.submitted_ns
            self.first_token.labels(model).observe(waited_ns / NS_PER_S)

    def failed(self, model: str, error: Exception) -> None:
        """Count one failure by its kind."""
        code = error.code if isinstance(error, ApiError) else type(error).__name__
        self.failures.labels(self._label(model), code or "unknown").inc()

    def _label(self, model: str) -> str:
        if len(self._names) < MOST_NAMES:
            self._names.add(model)
        return model if model in self._names else "other"

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _Engines:
    """How full each engine is at the moment of asking."""

    def __init__(self, context: ServeContext) -> None:
        self.context = context

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily("tuition_engine", "State of each engine", labels=("model", "quantity"))
        seen = set()
        for name, model in self.context.models.items():
            if id(model.service) in seen:  # an adapter in the engine of its base
                continue
            seen.add(id(model.service))
            stats = model.service.stats()
            for quantity in ("num_waiting", "num_running", "num_blocks", "num_free_blocks"):
                value = getattr(stats, quantity, None)
                if value is not None:
                    gauge.add_metric((name, quantity.removeprefix("num_")), value)
        draining = GaugeMetricFamily("tuition_draining", "1 while the server is stopping")
        draining.add_metric((), float(self.context.gate.draining))
        return [gauge, draining]
