"""A machine's figures: each has a source; user beats measurement beats catalogue beats assumption."""

import json
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from tuition.core.errors import SettingsError
from tuition.core.settings import from_table
from tuition.core.workspace import Workspace
from tuition.spec import machine as machine_module
from tuition.spec.catalogue.rows import FOLDER, find_row, read_rows
from tuition.spec.hardware import Card, Processor, find_cards
from tuition.spec.machine import Machine, detect_machine
from tuition.spec.settings import MachineSettings, OwnedSettings

FIGURES = {"peak_flops", "memory_bandwidth", "idle_watts", "full_watts", "usd_per_hour", "usd_per_kwh", "pue",
           "carbon_g_per_kwh"}  # fmt: skip

UNKNOWN = Processor("Mystery CPU", 6, "avx2", 3e9, 16 << 30, virtual=False)
XEON = Processor("Intel(R) Xeon(R) Platinum 8480+", 14, "amx", 2e9, 64 << 30, virtual=True)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch):
    def pretend(processor: Processor, cards: list[Card] | None = None) -> None:
        monkeypatch.setattr(machine_module, "find_processor", lambda: processor)
        monkeypatch.setattr(machine_module, "find_cards", lambda: cards or [])

    return pretend


def test_this_machine_has_every_figure_with_its_source() -> None:
    machine = detect_machine()
    assert set(machine.origins) == FIGURES
    assert all(origin.source for origin in machine.origins.values())
    assert machine.num_cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert 0 < machine.idle_watts <= machine.full_watts
    json.dumps(machine.to_table(), allow_nan=False)


def test_an_unknown_machine_is_priced_by_its_cores_and_says_assumed(hardware) -> None:
    hardware(UNKNOWN)
    six = detect_machine()
    hardware(replace(UNKNOWN, num_cores=12))
    twelve = detect_machine()
    assert twelve.usd_per_hour == pytest.approx(2 * six.usd_per_hour)
    assert twelve.peak_flops == pytest.approx(2 * six.peak_flops)
    assert {six.provenance(figure) for figure in FIGURES} == {"assumed"}
    assert "minimum" in six.origins["idle_watts"].source
    assert "maximum" in six.origins["full_watts"].source


def test_wider_instructions_have_no_lower_peak(hardware) -> None:
    peaks = []
    for isa in ("baseline", "avx2", "avx512", "avx512_bf16", "amx"):
        hardware(replace(UNKNOWN, isa=isa))
        peaks.append(detect_machine().peak_flops)
    assert peaks == sorted(peaks)
    assert len(set(peaks)) == 4  # one bf16 product of 512 bits per cycle is as much as two of float32


def test_a_known_processor_counts_by_the_cores_that_we_have(hardware) -> None:
    hardware(XEON)
    machine = detect_machine()
    row = find_row("cpus", XEON.name)
    assert machine.full_watts == pytest.approx(float(row["full_watts"]) * 14 / float(row["num_cores"]))
    assert machine.provenance("full_watts") == "catalogue"
    assert machine.provenance("usd_per_hour") == "assumed"


def test_a_virtual_machine_stands_in_a_data_centre(hardware) -> None:
    hardware(UNKNOWN)
    assert detect_machine().pue == 1
    hardware(replace(UNKNOWN, virtual=True))
    assert detect_machine().pue > 1


@pytest.mark.parametrize(
    ("told", "row"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
    ],
)
def test_cards_are_found_by_the_name_that_the_driver_tells(told: str, row: str) -> None:
    assert find_row("gpus", told)["name"] == row


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, [0, 1, 2, 3]), ("", []), ("2", [2]), ("3, 1", [3, 1]), ("-1", []), ("1,9,2", [1]),
        ("GPU-b", [1]), ("GPU-x,0", []), ("MIG-b", []),
    ],
)  # fmt: skip
def test_the_meter_reads_the_card_that_cuda_may_use(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, found: list[int]
) -> None:
    """NVML numbers all cards of the machine; a process that may use the third must not read the first."""

    def by_uuid(uuid: str) -> int:
        if uuid not in ("GPU-a", "GPU-b"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "ab".index(uuid[-1])

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 4)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetIndex", lambda handle: handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: f"card {handle}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerManagementLimit", lambda handle: 700_000)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(total=1 << 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if wanted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert find_cards() == [Card(index, f"card {index}", 1 << 30, 700.0) for index in found]


def test_a_card_is_taken_when_there_is_one_unless_the_cpu_is_asked_for(hardware) -> None:
    hardware(XEON, [Card(0, "NVIDIA H200", 141 << 30, 700.0)])
    machine = detect_machine()
    assert (machine.device, machine.gpu_index, machine.memory_bytes) == ("cuda", 0, 141 << 30)
    assert machine.provenance("full_watts") == "measured"
    assert machine.provenance("usd_per_hour") == "catalogue"
    assert detect_machine(device="cpu").device == "cpu"
    assert detect_machine(MachineSettings(device="cpu")).gpu_index is None


def test_what_the_user_says_wins(hardware) -> None:
    hardware(XEON)
    settings = MachineSettings(
        usd_per_hour=1.25, usd_per_kwh=0.3, pue=1.1, full_watts=500, country="fr", electricity_in_rate=False
    )
    machine = detect_machine(settings)
    assert (machine.usd_per_hour, machine.full_watts, machine.electricity_in_rate) == (1.25, 500, False)
    assert machine.provenance("usd_per_hour") == "user"
    assert machine.provenance("carbon_g_per_kwh") == "catalogue"
    assert "France" in machine.origins["carbon_g_per_kwh"].source


def test_a_machine_that_was_bought_costs_its_annuity_and_its_electricity(hardware) -> None:
    """100,000 at 5 % over 4 years is 28,201.18 a year (annuity table)."""
    hardware(UNKNOWN)
    owned = OwnedSettings(price_usd=100_000, life_years=4, interest_per_year=0.05, upkeep_usd_per_year=1_000)
    machine = detect_machine(MachineSettings(owned=owned))
    assert machine.usd_per_hour * 8_760 == pytest.approx(29_201.18, abs=0.01)
    assert machine.electricity_in_rate is False
    plain = OwnedSettings(price_usd=1_000, residual_usd=200, life_years=4)
    assert plain.usd_per_hour * 8_760 == pytest.approx(200)


def test_a_measured_probe_beats_the_catalogue_only_on_its_own_machine(hardware, tmp_path: Path) -> None:
    hardware(XEON)
    workspace = Workspace(tmp_path)
    workspace.cache.mkdir(parents=True)
    probe = workspace.cache / machine_module.PROBE_FILE
    table = {"machine": detect_machine().name, "date": "2026-11-22", "peak_flops": 3.5e12}
    probe.write_text(json.dumps(table))
    machine = detect_machine(workspace=workspace)
    assert (machine.peak_flops, machine.provenance("peak_flops")) == (3.5e12, "measured")
    assert machine.provenance("memory_bandwidth") == "catalogue"
    probe.write_text(json.dumps(table | {"machine": "another"}))
    assert detect_machine(workspace=workspace).provenance("peak_flops") == "catalogue"
    for damaged in ("{", "[]", '{"machine": 1}', json.dumps(table | {"peak_flops": -1})):
        probe.write_text(damaged)
        if '"machine": 1' in damaged:
            continue  # a probe of a machine called 1: not ours
        with pytest.raises(SettingsError, match="probe"):
            detect_machine(workspace=workspace)


def test_equal_parts_of_a_machine_cost_the_machine(hardware) -> None:
    hardware(XEON)
    machine = detect_machine()
    third = machine.divided(3)
    for figure in ("usd_per_hour", "idle_watts", "full_watts", "peak_flops", "memory_bandwidth"):
        assert 3 * getattr(third, figure) == pytest.approx(getattr(machine, figure))
    assert (third.pue, third.parts) == (machine.pue, 3)
    with pytest.raises(SettingsError):
        machine.divided(0)


@pytest.mark.parametrize(
    "bad",
    [
        {"pue": 0.5},
        {"usd_per_hour": -1.0},
        {"full_watts": float("nan")},
        {"peak_flops": 0.0},
        {"idle_watts": 9.0, "full_watts": 3.0},
        {"usd_per_hour": 1.0, "owned": {"price_usd": 5.0}},
        {"electricity_in_rate": True, "owned": {"price_usd": 5.0}},
        {"owned": {"price_usd": 5.0, "life_years": 0.0}},
        {"owned": {"price_usd": 5.0, "residual_usd": 6.0}},
        {"watts": 3.0},
        {"device": "tpu"},
    ],
)
def test_settings_that_cannot_be_are_refused(bad: dict) -> None:
    with pytest.raises(SettingsError):
        from_table(MachineSettings, bad)


def test_an_idle_power_above_an_assumed_full_power_is_refused_not_changed(hardware) -> None:
    hardware(XEON)
    full = detect_machine().full_watts
    with pytest.raises(SettingsError, match=r"idle_watts.*500.*set full_watts as well"):
        detect_machine(MachineSettings(idle_watts=500.0))
    assert detect_machine(MachineSettings(idle_watts=500.0, full_watts=900.0)).idle_watts == 500.0
    assert detect_machine(MachineSettings(idle_watts=full / 2)).idle_watts == full / 2
    low = detect_machine(MachineSettings(full_watts=0.5))
    assert low.idle_watts == low.full_watts == 0.5, "an assumed idle power gives way"


def test_an_unknown_country_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"XX.*FR.*carbon_g_per_kwh"):
        detect_machine(MachineSettings(country="XX"))


@pytest.mark.parametrize(
    "figures",
    [{"usd_per_hour": 1e300}, {"usd_per_kwh": 1e5}, {"full_watts": 1e300}, {"pue": 1e9}],
)
def test_figures_that_the_books_could_not_add_up_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="at most"):
        MachineSettings(**figures)


@pytest.mark.parametrize(
    "figures",
    [{"price_usd": 1e300}, {"price_usd": 1.0, "life_years": 5e-324}, {"price_usd": float("inf")}],
)
def test_an_owned_machine_has_a_rate_that_can_be_billed(figures: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="US dollars per hour"):
        OwnedSettings(**figures)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_every_row_of_the_catalogue_has_a_source_and_readable_numbers(path: Path) -> None:
    text = {"match", "name", "source", "price_note", "price_date", "date", "isa", "format", "country", "unit"}
    for row in read_rows(path.stem):
        assert row["source"], row
        assert None not in row, row
        for column, value in row.items():
            if column not in text and value:
                assert float(value) > 0, row


def test_a_price_in_the_catalogue_is_dated() -> None:
    for row in read_rows("gpus"):
        assert bool(row["usd_per_hour"]) == bool(row["price_date"]), row


def test_settings_document_every_field() -> None:
    text = Path(machine_module.__file__).with_name("settings.py").read_text()
    for field in fields(MachineSettings):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{field.name}:"))
        assert text.split(line + "\n", 1)[1].lstrip().startswith('"""')


def test_a_machine_is_a_plain_value() -> None:
    assert all(field.name in Machine.__dataclass_fields__ for field in fields(Machine))
    assert Machine.__dataclass_params__.frozen
