"""A machine as numbers: speed, memory, power, price. Every figure says where it comes from.

In: what `spec/hardware` sees, the catalogue, a measured probe, the user's overrides.  Out: `Machine`.
Order of trust: the user, a measurement, the catalogue, an assumption.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tuition.core.errors import SettingsError
from tuition.core.workspace import Workspace
from tuition.spec.catalogue.rows import Row, assumption, find_row, number, read_rows
from tuition.spec.hardware import Card, Processor, find_cards, find_processor
from tuition.spec.settings import Device, MachineSettings

Provenance = Literal["measured", "catalogue", "assumed", "user"]

PROBE_FILE = "machine-probe.json"
"""In the workspace's cache; written by the roofline probe, see `read_probe`."""


@dataclass(frozen=True)
class Origin:
    """Where a figure comes from."""

    provenance: Provenance
    source: str


@dataclass(frozen=True)
class Machine:
    """One machine, or the part of it that this process may use."""

    name: str
    device: Device
    """Device on which models run."""
    num_cores: int
    memory_bytes: int
    """Memory that models can use: the card's with a GPU, else main memory."""
    peak_flops: float
    """Peak FLOPs per second of its matrix units, in bf16 if it supports that."""
    memory_bandwidth: float
    """Bytes per second read from that memory."""
    idle_watts: float
    full_watts: float
    usd_per_hour: float
    electricity_in_rate: bool
    """usd_per_hour includes electricity."""
    usd_per_kwh: float
    pue: float
    """Energy of the building divided by energy of its machines."""
    carbon_g_per_kwh: float
    gpu_index: int | None = None
    """Which card NVML should read; None without a GPU."""
    parts: int = 1
    """Into how many equal parts the machine was divided; the figures are those of one part."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """For each figure, by field name."""

    def provenance(self, figure: str) -> Provenance:
        """`measured`, `catalogue`, `assumed` or `user` for a figure such as `usd_per_hour`."""
        return self.origins[figure].provenance if figure in self.origins else "user"

    def divided(self, parts: int) -> "Machine":
        """One of `parts` equal shares, for several models served side by side on one machine.

        Rate, power, speed and bandwidth are divided, so that the shares together cost what the machine costs.
        """
        if parts < 1:
            raise SettingsError("parts", got=parts, wanted="at least 1")
        shares = {
            name: getattr(self, name) / parts
            for name in ("peak_flops", "memory_bandwidth", "idle_watts", "full_watts", "usd_per_hour")
        }
        return replace(self, parts=self.parts * parts, **shares)

    def to_table(self) -> dict[str, Any]:
        """Plain values for JSON: every figure, and its provenance and source under `origins`."""
        table = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "origins"}
        table["origins"] = {
            name: {"provenance": origin.provenance, "source": origin.source}
            for name, origin in self.origins.items()
        }
        return table


Figures = dict[str, tuple[float, Origin]]


def _assumed(name: str) -> tuple[float, Origin]:
    value, source = assumption(name)
    return value, Origin("assumed", source)


def detect_machine(
    overrides: MachineSettings | None = None,
    *,
    device: Device | None = None,
    workspace: Workspace | None = None,
) -> Machine:
    """Describe this machine.

    `device`: what the caller has chosen (runtime/device), stronger than overrides.device. `workspace`:
    where a measured probe may lie. A machine in no catalogue gets a rate from its number of cores, with
    provenance `assumed`.
    Raises: SettingsError for an unknown country, a missing GPU that was asked for, an idle power above full
    power, or a damaged probe file.
    """
    settings = overrides or MachineSettings()
    processor = find_processor()
    wanted = device or settings.device
    cards = find_cards() if wanted in ("auto", "cuda") else []
    if wanted == "auto":
        wanted = "cuda" if cards else "cpu"
    figures = _site_figures(processor)
    card = cards[0] if cards and wanted == "cuda" else None
    if card is not None:
        figures |= _card_figures(card, processor)
        name, memory = card.name, card.memory_bytes
    elif wanted == "cuda":  # torch may see a card that NVML does not
        figures |= _card_figures(Card(0, "unknown GPU", 0, None), processor)
        name, memory = f"{processor.name} with a GPU", processor.memory_bytes
    else:
        figures |= _processor_figures(processor, whole=wanted == "mps")
        cores = f"{processor.num_cores} core" + ("s" if processor.num_cores > 1 else "")
        name, memory = f"{processor.name}, {cores}", processor.memory_bytes
    if workspace is not None:
        figures |= read_probe(workspace.cache / PROBE_FILE, name)
    in_rate = settings.owned is None
    figures |= _user_figures(settings)
    if settings.electricity_in_rate is not None:
        in_rate = settings.electricity_in_rate
    return Machine(
        name=settings.name or name,
        device=wanted,
        num_cores=processor.num_cores,
        memory_bytes=memory,
        electricity_in_rate=in_rate,
        gpu_index=card.index if card else None,
        origins={key: origin for key, (_, origin) in figures.items()},
        **_consistent({key: value for key, (value, _) in figures.items()}, settings),
    )


def _consistent(values: dict[str, float], settings: MachineSettings) -> dict[str, Any]:
    """Idle power is at most full power. An assumed idle power is lowered; one that the user gave is refused.

    Raises: SettingsError.
    """
    idle, full = values["idle_watts"], values["full_watts"]
    if settings.idle_watts is not None and idle > full:
        wanted = f"at most full_watts ({full:.3g}, not yours); set full_watts as well"
        raise SettingsError("idle_watts", got=settings.idle_watts, wanted=wanted)
    return values | {"idle_watts": min(idle, full)}


def _site_figures(processor: Processor) -> Figures:
    world = next(row for row in read_rows("carbon") if row["country"] == "world")
    return {
        "usd_per_kwh": _assumed("usd_per_kwh"),
        "pue": _assumed("pue_data_centre" if processor.virtual else "pue_own_room"),
        "carbon_g_per_kwh": (
            float(world["g_per_kwh"]),
            Origin("assumed", f"the world's average of {world['year']}: {world['source']}"),
        ),
    }


def _processor_figures(processor: Processor, *, whole: bool) -> Figures:
    per_core, price_from = assumption("core_usd_per_hour")
    rate = (per_core * processor.num_cores, Origin("assumed", f"{processor.num_cores} x {price_from}"))
    row = find_row("cpus", processor.name)
    if row is not None:
        return _catalogue_cpu(row, processor, whole) | {"usd_per_hour": rate}
    isa = next(row for row in read_rows("isa") if row["isa"] == processor.isa)
    clock = processor.clock_hz or assumption("clock_ghz")[0] * 1e9
    bandwidth, bandwidth_from = assumption("core_memory_gbs")
    idle, idle_from = assumption("core_idle_watts")
    full, full_from = assumption("core_full_watts")
    memory_watts = assumption("memory_watts_per_gb")[0] * processor.memory_bytes / 1e9
    cores = f"{processor.num_cores} cores and their memory"
    speed = f"{processor.isa} in {isa['format']}, {processor.num_cores} cores at {clock / 1e9:.2g} GHz: "
    speed += isa["source"]
    return {
        "peak_flops": (float(isa["flops_per_cycle"]) * clock * processor.num_cores, Origin("assumed", speed)),
        "memory_bandwidth": (bandwidth * 1e9 * processor.num_cores, Origin("assumed", bandwidth_from)),
        "idle_watts": (
            idle * processor.num_cores + memory_watts,
            Origin("assumed", f"{cores}: {idle_from}"),
        ),
        "full_watts": (full * processor.num_cores + memory_watts, Origin("assumed", f"{cores}: {full_from}")),
        "usd_per_hour": rate,
    }


def _catalogue_cpu(row: Row, processor: Processor, whole: bool) -> Figures:
    share = 1.0 if whole else min(1.0, processor.num_cores / float(row["num_cores"]))
    origin = Origin("catalogue", f"{row['name']} ({row['year']}), {share:.3g} of the chip: {row['source']}")
    full = float(row["full_watts"]) * share
    one_core = assumption("core_memory_gbs")[0] * processor.num_cores
    bandwidth = min(float(row["memory_gbs"]), max(float(row["memory_gbs"]) * share, one_core))
    return {
        "peak_flops": (float(row["bf16_tflops"]) * 1e12 * share, origin),
        "memory_bandwidth": (bandwidth * 1e9, origin),
        "full_watts": (full, origin),
        "idle_watts": (full * assumption("idle_share")[0], Origin("assumed", assumption("idle_share")[1])),
    }


def _card_figures(card: Card, processor: Processor) -> Figures:
    host_idle = assumption("core_idle_watts")[0] * processor.num_cores
    row = find_row("gpus", card.name)
    if row is None:
        tflops, gbs, watts = (_assumed(name) for name in ("gpu_tflops", "gpu_memory_gbs", "gpu_full_watts"))
        speed, bandwidth, power = tflops[0], gbs[0], watts[0]
        speed_from, bandwidth_from, power_from = tflops[1], gbs[1], watts[1]
    else:
        speed_from = bandwidth_from = power_from = Origin(
            "catalogue", f"{row['name']} ({row['year']}): {row['source']}"
        )
        speed, bandwidth, power = (float(row[name]) for name in ("bf16_tflops", "memory_gbs", "full_watts"))
    if card.power_limit_watts is not None:
        power, power_from = card.power_limit_watts, Origin("measured", "the card's power limit, told by NVML")
    price = number(row, "usd_per_hour") if row is not None else None
    if row is not None and price is not None:
        rate = (price, Origin("catalogue", f"{row['price_note']} ({row['price_date']})"))
    else:
        rate = _assumed("gpu_usd_per_hour")
    return {
        "peak_flops": (speed * 1e12, speed_from),
        "memory_bandwidth": (bandwidth * 1e9, bandwidth_from),
        "full_watts": (power + host_idle, power_from),
        "idle_watts": (
            power * assumption("idle_share")[0] + host_idle,
            Origin("assumed", assumption("idle_share")[1]),
        ),
        "usd_per_hour": rate,
    }


def _user_figures(settings: MachineSettings) -> Figures:
    user = Origin("user", "your settings")
    figures: Figures = {}
    if settings.country is not None:
        rows = {row["country"]: row for row in read_rows("carbon") if row["country"] != "world"}
        row = rows.get(settings.country.upper())
        if row is None:
            raise SettingsError(
                "country", got=settings.country, wanted=f"one of {', '.join(rows)}, or set carbon_g_per_kwh"
            )
        origin = Origin("catalogue", f"{row['name']} in {row['year']}: {row['source']}")
        figures["carbon_g_per_kwh"] = (float(row["g_per_kwh"]), origin)
    if settings.owned is not None:
        figures["usd_per_hour"] = (
            settings.owned.usd_per_hour,
            Origin("user", "your purchase price, life and upkeep"),
        )
    for name in (
        "usd_per_hour", "usd_per_kwh", "pue", "carbon_g_per_kwh", "idle_watts", "full_watts", "peak_flops",
        "memory_bandwidth",
    ):  # fmt: skip
        value = getattr(settings, name)
        if value is not None:
            figures[name] = (float(value), user)
    return figures


def read_probe(path: Path, machine_name: str) -> Figures:
    """Measured figures of this machine, or nothing where no probe ran here.

    The file is JSON: `{"machine": <Machine.name as detected>, "date": "2026-11-21", "peak_flops": ...,
    "memory_bandwidth": ...}`, each figure optional. A probe of another machine (a shared home) is not used.
    Raises: SettingsError for a file that is not such a table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["machine"] != machine_name:
            return {}
        origin = Origin("measured", f"roofline probe of {table['date']}")
        figures = {name: float(table[name]) for name in ("peak_flops", "memory_bandwidth") if name in table}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            "machine probe",
            got=str(path),
            wanted=f"the table that the probe writes ({error}); delete the file",
        ) from error
    if any(not 0 < value < float("inf") for value in figures.values()):
        raise SettingsError("machine probe", got=figures, wanted="figures above 0; delete the file")
    return {name: (value, origin) for name, value in figures.items()}
