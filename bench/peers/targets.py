"""What the engine is to reach, as data, and whether it does. No measuring here.

In: summaries, ratios and shares of bench/peers/report.py.  Out: one `Verdict` for each target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from peers.report import KEY, OURS, Summary, columns, number, ratios

Kind = Literal["ratio", "share", "figure", "excess", "tests"]
"""ratio: ours against `peer`, by `figure`.  share: of the machine's measured limit, the best of `precisions`.
figure: our own median.  excess: our median less `peer`'s.  tests: held by tests, not by a measurement."""

Outcome = Literal["met", "missed", "not measured", "held by tests"]

OR_BANDWIDTH = 0.95
"""Who reads the weights as fast as the machine can read is as good as can be, whatever the others do."""

REPLY = 128
"""Tokens of the replies in which Python's share is held to its bound: shorter ones, of a millisecond, show
what a reply's beginning and end cost."""


@dataclass(frozen=True)
class Target:
    """One line of the table of targets."""

    row: str
    """In words."""
    kind: Kind
    sense: Literal["at least", "at most"] = "at least"
    bound: float = 0.0
    model: str = ""
    precisions: tuple[str, ...] = ()
    what: str = ""
    figure: str = "tokens_per_s"
    batch: int | None = None
    prompt: int | None = None
    generate: int | None = None
    peer: str = ""
    or_share: float | None = None
    """Also met at this share of the measured memory bandwidth."""
    tests: str = ""

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.sense == "at least" else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured for it, and what follows."""

    target: Target
    measured: float | None
    or_measured: float | None
    outcome: Outcome

    def named(self) -> dict[str, Any]:
        asked = {name: value for name, value in asdict(self.target).items() if value not in (None, "", ())}
        return asked | {
            "measured": self.measured, "or_measured": self.or_measured, "outcome": self.outcome,
            "wanted": self.wanted(), "told": self.told(),
        }  # fmt: skip

    def wanted(self) -> str:
        """What was asked, in words."""
        target = self.target
        if target.kind == "tests":
            return "held"
        words = f"{target.sense} {_worded(target, target.bound)}"
        return words if target.or_share is None else f"{words}, or {target.or_share:.0%} of the bandwidth"

    def told(self) -> str:
        """What was measured, in words; a dash for nothing."""
        words = "" if self.measured is None else _worded(self.target, self.measured)
        if self.or_measured is not None:
            words = f"{words} ({self.or_measured:.0%} of the bandwidth)".strip()
        return words or self.target.tests or "-"


SMOL, ITS_4_BITS = "smollm2", "llama.cpp's Q4_0"
_FORMATS = ("int8", "int4", "bf16")
_LLAMA_BATCH_1 = {"int8": 1.6, "int4": 2.0, "bf16": 1.4}
_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("batch 1", {"what": "decode", "batch": 1}),
    ("batch 16", {"what": "decode", "batch": 16}),
    ("prefill 512", {"what": "prefill", "prompt": 512}),
)
_OTHERS = {
    "transformers": ("bf16",),
    "vllm": ("bf16", "int8", "int4"),
    "openvino": ("bf16", "int8", "int4"),
}


def _against_llama() -> list[Target]:
    bounds = {"batch 1": _LLAMA_BATCH_1, "batch 16": dict.fromkeys(_FORMATS, 4.0),
              "prefill 512": dict.fromkeys(_FORMATS, 3.0)}  # fmt: skip
    return [
        Target(f"{row}, {precision}: against llama.cpp", "ratio", bound=bounds[row][precision], model=SMOL,
               precisions=(precision,), peer="llama.cpp",
               or_share=OR_BANDWIDTH if row == "batch 1" else None, **work)
        for row, work in _ROWS for precision in _FORMATS
    ]  # fmt: skip


def _against_others() -> list[Target]:
    return [
        Target(f"{row}, {precision}: against {peer}", "ratio", bound=1.3, model=SMOL, precisions=(precision,),
               peer=peer, **work)
        for peer, precisions in _OTHERS.items() for precision in precisions for row, work in _ROWS
    ]  # fmt: skip


def _limits() -> list[Target]:
    return [
        *(Target(f"share of the memory bandwidth at batch 1, {precision}, {model}", "share", bound=0.85,
                 model=model, precisions=(precision,), what="decode", batch=1)
          for model in (SMOL, "qwen3-0.6b") for precision in _FORMATS),
        Target("share of the matrix peak in prefill, bf16 or int8", "share", bound=0.50, model=SMOL,
               precisions=("bf16", "int8"), what="prefill", prompt=512),
    ]  # fmt: skip


def _quality() -> list[Target]:
    return [
        target
        for model in ("stories15m", "demo")
        for target in (
            Target(f"int8: change of perplexity to bf16, {model}", "figure", "at most", 0.003, model,
                   ("int8",), "quality", "log_ratio"),
            Target(f"int4: change of perplexity beyond that of {ITS_4_BITS}, {model}", "excess", "at most",
                   0.0, model, ("int4",), "quality", "log_ratio", peer="llama.cpp"),
        )
    ]  # fmt: skip


TARGETS: tuple[Target, ...] = (
    *_against_llama(),
    *_against_others(),
    *_limits(),
    *_quality(),
    *(Target(f"Python between steps at batch 1, demo's model, {precision}, replies of {REPLY} tokens",
             "figure", "at most", 0.05, "demo", (precision,), "decode", "python_share", batch=1,
             generate=REPLY) for precision in _FORMATS),
    Target("256 requests of mixed lengths: share of a full static batch of the same mean size", "figure",
           bound=0.90, model=SMOL, precisions=("int8",), what="offline", figure="share_of_full"),
    Target("second request with the same 1,000 tokens: how many times sooner its first token is", "figure",
           bound=10.0, model=SMOL, precisions=("int8",), what="prefix", figure="ratio"),
    Target("deterministic mode: 0 bit differences", "tests",
           tests="tests/reliability/engine/test_engine_determinism.py"),
    Target("native against torch on real weights, float32", "tests",
           tests="tests/parity/test_native_real_weights.py"),
    Target("random scheduling traces: 0 leaked blocks, 0 integrity errors", "tests",
           tests="tests/reliability/engine/test_engine_traces.py"),
)  # fmt: skip


def judge(
    summaries: Sequence[Summary], shares: Sequence[Mapping[str, Any]], targets: Sequence[Target] = TARGETS
) -> list[Verdict]:
    """Each target beside what was measured."""
    compared = ratios(summaries)
    verdicts = []
    for target in targets:
        alternative = None
        if target.kind == "tests":
            verdicts.append(Verdict(target, None, None, "held by tests"))
            continue
        if target.kind == "share":
            measured = _share(target, shares)
        elif target.kind == "ratio":
            found = [
                ratio for (key, figure, side), ratio in compared.items()
                if side == target.peer and figure.column == target.figure and _fits(target, key)
            ]  # fmt: skip
            measured = found[0] if found else None
            alternative = None if target.or_share is None else _share(target, shares)
        else:
            own, theirs = (_median(target, summaries, side) for side in (OURS, target.peer))
            measured = own
            if target.kind == "excess":
                measured = None if own is None or theirs is None else own - theirs
        verdicts.append(Verdict(target, measured, alternative, _outcome(target, measured, alternative)))
    return verdicts


def _outcome(target: Target, measured: float | None, alternative: float | None) -> Outcome:
    """A peer that could not be measured proves nothing, unless the alternative holds by itself."""
    if alternative is not None and target.or_share is not None and alternative >= target.or_share:
        return "met"
    if measured is None:
        return "not measured"
    return "met" if target.reached(measured) else "missed"


def _fits(target: Target, key: Sequence[Any]) -> bool:
    row = dict(zip(KEY, key, strict=True))
    return (
        row["model"] == target.model
        and row["precision"] in target.precisions
        and row["what"] == target.what
        and target.batch in (None, row["batch"])
        and target.prompt in (None, row["prompt"])
        and target.generate in (None, row["generate"])
    )


def _share(target: Target, shares: Sequence[Mapping[str, Any]]) -> float | None:
    fitting = [each["share"] for each in shares if _fits(target, [each.get(name) for name in KEY])]
    return max(fitting, default=None)


def _median(target: Target, summaries: Sequence[Summary], side: str) -> float | None:
    found = [
        each.median for each in summaries
        if each.side == side and each.figure.column == target.figure and _fits(target, each.key)
    ]  # fmt: skip
    return found[0] if found else None


def lines(verdicts: Sequence[Verdict], machine: Mapping[str, Any]) -> list[str]:
    """The table of targets, and on what it was measured."""
    found: list[Sequence[str]] = [("target", "wanted", "measured", "outcome")]
    found += [(each.target.row, each.wanted(), each.told(), each.outcome) for each in verdicts]
    return [*columns(found), where(machine)]


def where(machine: Mapping[str, Any]) -> str:
    """The machine in words; the targets were set for one with AMX."""
    text = f"on {machine['processor']} ({machine['instructions']}), {machine['threads']} threads"
    if machine["instructions"] != "amx":
        text += "; the targets were set for 2 cores with AMX, which this processor does not have"
    return text


def _worded(target: Target, value: float) -> str:
    if target.kind == "ratio" or target.figure == "ratio":
        return f"{value:.2f}x"
    return f"{value:.2%}" if abs(value) < 2 else number(value)
