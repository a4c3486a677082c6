"""`tuition bill check` as text: sums and their parts, the second clock, findings."""

from tuition.cli.bill_tables import aligned
from tuition.core.amount import NOTHING, Amount
from tuition.core.units import format_duration, format_energy, format_time, format_usd
from tuition.ledger.reconciliation import Reconciliation
from tuition.ledger.render import Line

NOTHING_YET = (
    "Nothing was billed yet, and nothing is wrong; `tuition demo` or `tuition train` begins the books."
)

MOST_SHOWN = 20
"""Findings of one kind in the table; json and csv have all of them."""


def check_table(found: Reconciliation) -> str:
    """The identities of the books: each first line equals the sum of the lines marked =, + and - below it."""
    sums: dict[str, list[tuple[str, str, Amount, str]]] = {
        "Using models, by the meter": [
            (
                " ",
                "meter",
                found.meter,
                "while models were loaded; each model of a server is counted separately",
            ),
            ("=", "attributed", found.attributed, "to requests"),
            ("+", "idle", found.idle, "loaded, without requests"),
            ("+", "overhead", found.overhead, "loading, and other time that no request caused"),
            ("+", "residual", found.residual, "measured, but in none of the parts above: must be 0"),
        ],
        "Receipts of requests": [
            (" ", "requests", found.requests, "the sum of their receipts"),
            ("=", "attributed", found.attributed, "as above"),
            ("-", "in flight", found.in_flight, "attributed to requests that have no receipt yet"),
            ("+", "after period", found.after_period, "in receipts written after the last period"),
        ],
        "All that was booked": [
            (" ", "machine", -found.accounts.get("machine", NOTHING), "total of the machine's account"),
            ("=", "training", found.training, "measured by each run"),
            ("+", "requests", found.requests, "as above"),
            ("+", "idle", found.accounts.get("idle", NOTHING), "in periods that have ended"),
            ("+", "overhead", found.accounts.get("overhead", NOTHING), "in periods that have ended"),
        ],
    }
    rows = [
        (
            f"  {sign} {name}",
            format_duration(amount.wall_ns / 1e9),
            format_energy(amount.energy_uj),
            format_usd(amount.cost_nusd),
            note,
        )
        for lines in sums.values()
        for sign, name, amount, note in lines
    ]
    texts = iter(aligned(rows, left=(0, 4)).splitlines())
    parts = ["\n".join([title, *(next(texts) for _ in lines)]) for title, lines in sums.items()]
    return "\n\n".join([*parts, "The meter beside the operating system\n" + witness_table(found)])


def witness_table(found: Reconciliation) -> str:
    """The time of the meter beside the second clock and the CPU time."""
    seen = found.witnessed
    rows = [
        ("  machine time", found.machine_ns, "time of the whole machine, which the models of a server share"),
        ("  meter", seen.meter_ns, "by the meter's clock, with training, where a second clock was recorded"),
        (
            "  second clock",
            seen.witness_ns,
            "by the kernel's raw clock; a difference shows a clock that jumped",
        ),
        ("  busy", seen.busy_ns, "steps and loading, as the engine marked them"),
        (
            "  CPU time",
            seen.cpu_ns,
            "of all threads of these processes; more than busy: several cores worked;",
        ),
    ]
    cells = [(name, format_duration(ns / 1e9), note) for name, ns, note in rows]
    cells.append(("", "", "less: the GPU worked, other programs used the CPU, or the disk was slow"))
    return aligned(cells, left=(0, 2))


def verdict(found: Reconciliation) -> str:
    """Whether every identity holds; if not, the place and content of each finding."""
    known = _known(found)
    if found.holds:
        return "\n\n".join([*known, "every identity holds to the last unit"])
    parts = known
    for title, findings in (
        ("THE BOOKS DO NOT AGREE WITH THE METER", found.faults),
        ("KILLED PROCESSES LEFT RECORDS UNWRITTEN", found.losses),
    ):
        if findings:
            lines = [f"  {each.place}: {each.says}" for each in findings[:MOST_SHOWN]]
            if len(findings) > MOST_SHOWN:
                lines.append(f"  and {len(findings) - MOST_SHOWN:,} more: --format json lists all")
            parts.append("\n".join([f"{title} in {len(findings):,} places", *lines]))
    if not found.faults:
        parts.append("everything that was written holds to the last unit")
    if found.losses:
        parts.append(
            'if you know why: tuition bill check --accept <period> --why "power cut"; it then counts as known'
        )
    return "\n\n".join(parts)


def _known(found: Reconciliation) -> list[str]:
    """The losses that were accepted, as one part of the text; none where there are none."""
    if not (number := len(found.accepted)):
        return []
    lines = [
        f"  {each.finding.place}: {each.why} ({format_time(each.created_unix_ns)[:10]}): {each.finding.says}"
        for each in found.accepted[:MOST_SHOWN]
    ]
    if number > MOST_SHOWN:
        lines.append(f"  and {number - MOST_SHOWN:,} more: --format json lists all")
    title = "1 known loss, accepted:" if number == 1 else f"{number:,} known losses, accepted:"
    return ["\n".join([title, *lines])]


def check_lines(found: Reconciliation) -> list[Line]:
    """Every amount of the check with its unit; the accounts and the findings in sections of their own."""
    names = ("meter", "attributed", "idle", "overhead", "residual", "in_flight", "after_period", "requests")
    parts = {name: getattr(found, name) for name in (*names, "training")}
    lines = [
        Line(section, f"{name}, {figure}", value, unit, "from the books")
        for section, amounts in (("Check", parts), ("Accounts", found.accounts))
        for name, amount in amounts.items()
        for figure, value, unit in (
            ("machine time", amount.wall_ns, "ns"),
            ("energy", amount.energy_uj, "uJ"),
            ("cost", amount.cost_nusd, "nUSD"),
        )
    ]
    seen = found.witnessed
    lines += [
        Line("Witness", name, value, "ns", "measured")
        for name, value in (
            ("meter", seen.meter_ns),
            ("second clock", seen.witness_ns),
            ("busy", seen.busy_ns),
            ("CPU time", seen.cpu_ns),
        )
    ]
    lines += [
        Line("Accepted", each.finding.place, f"{each.finding.says}; accepted: {each.why}", "", "loss")
        for each in found.accepted
    ]
    lines += [Line("Findings", each.place, each.says, "", each.kind) for each in found.findings]
    return [*lines, Line("Check", "every identity holds", "yes" if found.holds else "no", "", "derived")]
