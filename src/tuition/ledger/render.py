"""Receipts and statements as text: a table to read, JSON and CSV to compute with.

One list of lines feeds all three, so they cannot differ. Every line says how its figure was obtained.
"""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuition.core.amount import Amount
from tuition.core.units import (
    NUSD_PER_USD,
    format_bytes,
    format_count,
    format_duration,
    format_energy,
    format_grams,
    format_usd,
    format_wh,
)
from tuition.ledger.sheets import ModelStatement, RequestReceipt, Statement, TrainingReceipt

Format = Literal["table", "json", "csv"]
Sheet = TrainingReceipt | RequestReceipt | ModelStatement | Statement


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: raw value in its unit (ns, uJ, nUSD are exact integers), None where it is unknown."""

    section: str
    figure: str
    value: int | float | str | None
    unit: str
    how: str
    """measured, counted, modelled, assumed, derived, ..., as shown beside it."""


def render(sheet: Sheet, format: Format = "table") -> str:
    """The sheet as text that ends with a newline."""
    return render_lines(lines_of(sheet), format)


def render_lines(lines: Sequence[Line], format: Format = "table") -> str:
    """Lines as text that ends with a newline."""
    if format == "json":
        return json.dumps(_nested(lines), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format == "csv":
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("section", "figure", "value", "unit", "how"))
        for line in lines:
            writer.writerow(
                (line.section, line.figure, "" if line.value is None else line.value, line.unit, line.how)
            )
        return file.getvalue()
    return _table(lines)


def _nested(lines: Sequence[Line]) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for line in lines:
        figure = {"value": line.value, "unit": line.unit, "how": line.how}
        sections.setdefault(line.section, {})[line.figure] = figure
    return sections


def _table(lines: Sequence[Line]) -> str:
    cells = [(line.figure, show(line.value, line.unit), line.how) for line in lines]
    label = max((len(figure) for figure, _, _ in cells), default=0)
    width = min(40, max((len(value) for _, value, _ in cells), default=0))
    text, section = [], None
    for line, (figure, value, how) in zip(lines, cells, strict=True):
        if line.section != section:
            section = line.section
            text += ["", section] if text else [section]
        text.append(f"  {figure:<{label}}  {value:>{width}}  {how}".rstrip())
    return "\n".join(text) + "\n"


def show(value: int | float | str | None, unit: str) -> str:
    """A value for people: `$0.0012`, `3 min 07 s`, `unknown`."""
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    forms = {
        "nUSD": lambda v: format_usd(round(v)),
        "uJ": lambda v: format_energy(round(v)),
        "ns": lambda v: format_duration(v / 1e9),
        "FLOPs": lambda v: f"{format_count(v)}FLOP" if v >= 1e3 else f"{v} FLOP",
        "bytes": format_bytes,
        "share": lambda v: f"{v:.1%}",
        "USD per Mtok": lambda v: format_usd(round(v * NUSD_PER_USD)),
        "Wh per Mtok": format_wh,
        "g CO2e": format_grams,
    }
    if unit in forms:
        return forms[unit](value)
    number = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e4 else f"{value:,.4g}"
    return f"{number} {unit}".rstrip()


# --- how figures were obtained -----------------------------------------------------------------------------


def how_money(*machines: Mapping[str, Any]) -> str:
    """`rate assumed`, `rate from the catalogue`, `your rate`; all that were valid, where several were."""
    return _how_all("rate", "usd_per_hour", machines)


def how_energy(method: str | None, *machines: Mapping[str, Any]) -> str:
    """`measured (nvml)`, or `modelled, power assumed`."""
    if method in ("nvml", "rapl"):
        return f"measured ({method})"
    if method is None or not machines:
        return ""
    return "modelled, " + _how_all("power", "full_watts", machines)


def _how_carbon(*machines: Mapping[str, Any]) -> str:
    return "with PUE; " + _how_all("grid", "carbon_g_per_kwh", machines) if machines else ""


def _how_all(noun: str, figure: str, machines: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(_how(noun, provenance(machine, figure)) for machine in machines))


def provenance(machine: Mapping[str, Any], figure: str) -> str:
    """How a figure of a machine's table is known, `usd_per_hour` for one."""
    return machine["origins"].get(figure, {"provenance": "user"})["provenance"]


def _how(noun: str, known: str) -> str:
    phrases = {"user": f"your {noun}", "catalogue": f"{noun} from the catalogue"}
    return phrases.get(known, f"{noun} {known}")


# --- the sheets --------------------------------------------------------------------------------------------


def lines_of(sheet: Sheet) -> list[Line]:
    """All lines of a receipt or statement."""
    if isinstance(sheet, TrainingReceipt):
        return training_lines(sheet)
    if isinstance(sheet, RequestReceipt):
        return request_lines(sheet)
    if isinstance(sheet, ModelStatement):
        return model_lines(sheet)
    return [line for model in sheet.models for line in model_lines(model)]


def _amount_lines(
    section: str, name: str, amount: Amount, method: str | None, *machines: Mapping[str, Any]
) -> list[Line]:
    return [
        Line(section, f"{name}, machine time", amount.wall_ns, "ns", "measured"),
        Line(section, f"{name}, energy", amount.energy_uj, "uJ", how_energy(method, *machines)),
        Line(section, f"{name}, cost", amount.cost_nusd, "nUSD", how_money(*machines)),
    ]


def training_lines(receipt: TrainingReceipt) -> list[Line]:
    """The receipt of a training run."""
    section, units = f"Training receipt: {receipt.run_id}", f"{receipt.unit}s"
    status = receipt.status + (f" ({receipt.reason})" if receipt.reason else "")
    peak = f"peak {provenance(receipt.machine, 'peak_flops')}"
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(receipt.created_unix_ns / 1e9))
    lines = [
        Line(section, "model", receipt.model, "", ""),
        Line(section, "status", status, "", ""),
        Line(section, "scope", f"{receipt.scope}, {receipt.recipe}", "", ""),
        Line(section, "started", date, "", ""),
        Line(section, "machine", receipt.machine["name"], "", ""),
        Line(section, "parameters", receipt.num_parameters, "", "counted"),
        Line(section, "steps", receipt.num_steps, "", "counted"),
        Line(section, units, receipt.num_tokens, units, "counted"),
    ]
    if receipt.redone_tokens:
        lines.append(Line(section, "of them again after a resume", receipt.redone_tokens, units, "counted"))
    lines += [
        Line(section, "compute", receipt.flops, "FLOPs", "counted"),
        Line(section, f"{units} per second", receipt.tokens_per_s, "", "measured"),
        Line(section, "MFU in steps", receipt.step_mfu, "share", peak),
        Line(section, "MFU of the run", receipt.run_mfu, "share", peak),
        Line(section, "goodput", receipt.goodput, "share", "measured"),
        Line(section, "last loss", receipt.last_loss, _loss_unit(receipt.unit), "measured"),
    ]
    for score in receipt.scores:
        error = f" +- {score.stderr:.3f}" if score.stderr is not None else ""
        lines.append(Line(section, score.task.replace("_", " "), score.value, score.unit, f"measured{error}"))
    for kind, amount in receipt.parts.items():
        lines.append(Line(section, f"time: {kind}", amount.wall_ns, "ns", "measured"))
    lines += _amount_lines(section, "total", receipt.total, receipt.energy_method, *receipt.machines)
    return [*lines, Line(section, "carbon", receipt.carbon_g, "g CO2e", _how_carbon(*receipt.machines))]


def _loss_unit(unit: str) -> str:
    """The loss of tokens is in nats; what that of others is, only their recipe knows."""
    return "nats" if unit.endswith("token") else f"per {unit}"


def request_lines(receipt: RequestReceipt) -> list[Line]:
    """The receipt of one request."""
    section, cost = f"Request receipt: {receipt.request_id}", receipt.cost
    version = f"@{receipt.version}" if receipt.version is not None else ""
    lines = [
        Line(section, "model", receipt.model + version, "", ""),
        Line(section, "ended by", receipt.finish_reason, "", ""),
        Line(section, "tokens in", receipt.prompt_tokens, "tokens", "counted, as sent"),
    ]
    if receipt.input_tokens != receipt.prompt_tokens:
        again = "counted; the prompt was sent with another reply"
        lines.append(Line(section, "prompt of this reply", receipt.input_tokens, "tokens", again))
    lines += [
        Line(section, "of them cached", receipt.cached_tokens, "tokens", "counted"),
        Line(section, "tokens out", receipt.generated_tokens, "tokens", "counted"),
        Line(section, "tokens computed", cost.computed_tokens, "tokens", "counted"),
        Line(section, "waiting", receipt.queue_ns, "ns", "measured"),
        Line(section, "first token after", receipt.first_token_ns, "ns", "measured"),
        Line(section, "whole reply after", receipt.total_ns, "ns", "measured"),
        Line(section, "compute", cost.flops, "FLOPs", "counted"),
        Line(section, "own CPU time", cost.cpu_ns, "ns", "measured, all threads"),
        _load_line(section, cost.other_load_ppm),
        Line(section, "cost of reading the prompt", cost.prefill.cost_nusd, "nUSD", f"rule: {cost.rule}"),
        Line(section, "cost of writing the reply", cost.decode.cost_nusd, "nUSD", f"rule: {cost.rule}"),
    ]
    if cost.wasted_tokens:
        lines.append(
            Line(section, "of it waste", cost.waste.cost_nusd, "nUSD", "drafts, cut off, recomputed")
        )
    lines += _amount_lines(section, "total", cost.total, cost.energy_method, receipt.machine)
    if receipt.cpu_nusd is not None:
        how = f"its CPU time alone, of {receipt.machine['num_cores']} cores; {how_money(receipt.machine)}"
        lines.append(Line(section, "by CPU time, cost", receipt.cpu_nusd, "nUSD", how))
    return [*lines, Line(section, "carbon", receipt.carbon_g, "g CO2e", _how_carbon(receipt.machine))]


def _said(*notes: str) -> str:
    """How a figure is known, in one cell: of a figure without a machine nothing is known."""
    return "; ".join(note for note in notes if note)


BUSY_PPM = 100_000
"""From this share of the machine on, other work is said to have slowed a request down."""


def _load_line(section: str, ppm: int | None) -> Line:
    """Why the same request takes longer, and costs more, at one time than at another."""
    busy = ppm is not None and ppm >= BUSY_PPM
    how = "measured; it slowed this request, which paid for the longer time" if busy else "measured"
    return Line(section, "other work on the CPUs", None if ppm is None else ppm / 1e6, "share", how)


def model_lines(model: ModelStatement) -> list[Line]:
    """The statement of one model: fixed cost, variable cost, crossover, causal and fully loaded."""
    section, machines = f"Statement: {model.model}", model.machines
    energy, money = how_energy(model.energy_method, *machines), how_money(*machines)
    runs = f"{len(model.training)} training run" + ("s" if len(model.training) != 1 else "")
    shared = "its part, by machine time, of its engine's" if model.is_shared else ""
    fixed, taught = model.fixed, [machine for run in model.training for machine in run.machines]
    lines = [
        Line(section, "FIXED: training", fixed.cost_nusd if fixed else None, "nUSD",
             _said(runs, how_money(*taught)) if fixed else "not trained here"),
        Line(section, "training time", fixed.wall_ns if fixed else None, "ns", "measured" if fixed else ""),
        Line(section, "training energy", fixed.energy_uj if fixed else None, "uJ",
             how_energy(model.training[-1].energy_method, *taught) if fixed else ""),
        Line(section, "requests", model.num_requests, "", "counted"),
        Line(section, "tokens in", model.prompt_tokens, "tokens", "counted, as sent"),
        Line(section, "prompts of replies", model.input_tokens, "tokens", "counted once for each reply"),
        Line(section, "of them cached", model.cached_tokens, "tokens", "counted"),
        Line(section, "tokens out", model.generated_tokens, "tokens", "counted"),
        Line(section, "VARIABLE: inference", model.causal.cost_nusd, "nUSD", _said("causal", money)),
        Line(section, "per request", model.nusd_per_request, "nUSD", _said("causal", money)),
        Line(section, "inference energy", model.causal.energy_uj, "uJ", energy),
        Line(section, "of it waste", model.waste.cost_nusd, "nUSD", "drafts, cut off, recomputed"),
        Line(section, "idle", model.idle.cost_nusd, "nUSD", _said(shared, money)),
        Line(section, "overhead", model.overhead.cost_nusd, "nUSD", _said(shared, money)),
        Line(section, "fully loaded", model.loaded.cost_nusd, "nUSD", "causal + idle + overhead"),
        Line(section, "fully loaded energy", model.building_uj, "uJ", _said("with PUE", energy)),
        Line(section, "fully loaded carbon", model.carbon_g, "g CO2e", _how_carbon(*machines)),
        Line(section, "utilisation", model.utilisation, "share", "measured"),
    ]  # fmt: skip
    for view, loaded in (("causal", False), ("fully loaded", True)):
        lines += _per_token_lines(section, model, view, loaded=loaded)
    return [
        *lines,
        Line(section, "latency, median", model.latency_p50_ns, "ns", "measured"),
        Line(section, "latency, 99 of 100", model.latency_p99_ns, "ns", "measured"),
    ]


SHORT_PROMPT = "a prompt is one step at least: short ones cost much per token; see per request"


def _per_token_lines(section: str, model: ModelStatement, view: str, *, loaded: bool) -> list[Line]:
    """Price and energy of a million tokens, and where use has cost as much as training."""
    energy, money = how_energy(model.energy_method, *model.machines), how_money(*model.machines)
    lines = []
    for which in ("all", "input", "output"):
        value = model.usd_per_mtok(which, loaded=loaded)
        name = f"{which} tokens" if which != "all" else "tokens"
        how = _said(money, SHORT_PROMPT) if which == "input" and model.reading_is_dear else money
        lines.append(Line(section, f"per million {name}, {view}", value, "USD per Mtok", how))
    value, tokens = model.wh_per_mtok(loaded=loaded), model.crossover(loaded=loaded)
    how = _said("with PUE", energy) if loaded else energy
    crossover = round(tokens) if tokens else None
    return [
        *lines,
        Line(section, f"energy per million tokens, {view}", value, "Wh per Mtok", how),
        Line(section, f"CROSSOVER, {view}", crossover, "tokens", "fixed / marginal"),
    ]


def totals_line(total: Amount) -> str:
    """One line: `3.2 s, 0.004 Wh, $0.00012`."""
    energy = "unknown energy" if total.energy_uj is None else format_energy(total.energy_uj)
    return f"{format_duration(total.seconds)}, {energy}, {format_usd(total.cost_nusd)}"
