"""`tuition bill` of a real, tiny model: every format, every kind of receipt, and a check that adds up."""

import csv
import io
import json

import pytest

from tuition.cli.bill_check import check_table
from tuition.cli.main import USAGE
from tuition.core.amount import Amount
from tuition.ledger.reconciliation import Reconciliation, Witnessed

RECEIPTS = ("bill", "request", "--format", "json")


def test_the_bill_says_the_same_in_every_format_and_adds_up(tuition) -> None:
    table, values, text = (tuition("bill", "--format", kind)[1] for kind in ("table", "json", "csv"))
    assert table.splitlines()[0] == "What tiny costs"
    assert json.loads(values)
    assert len(list(csv.reader(io.StringIO(text)))) > 5
    status, out, _ = tuition("bill", "check")
    assert status == 0
    assert "every identity holds to the last unit" in out


def test_the_bill_begins_with_five_lines_that_add_up(tuition) -> None:
    title, *lines = tuition("bill")[1].splitlines()
    assert title == "What tiny costs"
    costs = [float(line.split("$")[1]) for line in lines[:4]]
    assert lines[3].startswith("  in all")
    assert costs[3] == pytest.approx(sum(costs[:3]), rel=0.02)  # shown to three digits
    assert len(lines) < 12
    assert "CROSSOVER" in tuition("bill", "--model", "tiny")[1]


def test_the_bill_takes_a_span_of_time(tuition) -> None:
    assert tuition("bill", "--since", "1h")[1].startswith("What tiny costs since ")
    assert tuition("bill", "--until", "2020-01-01")[1].startswith("Nothing was spent in this time")
    assert json.loads(tuition("bill", "run", "--until", "2020-01-01", "--format", "json")[1]) == []
    assert tuition("bill", "request", "--since", "1h", "--format", "csv")[1].startswith(
        "time_utc,request_id,model"
    )
    for words in (("--since", "soon"), ("--since", "1h", "--until", "2h")):
        status, out, err = tuition("bill", *words)
        assert (status, out) == (USAGE, "")
        assert words[-2].removeprefix("--") in err


@pytest.mark.parametrize("kind", ["run", "request"])
def test_a_list_is_a_line_for_each_and_a_receipt_is_whole_where_it_is_named(tuition, kind: str) -> None:
    assert tuition("generate", "tiny", "The cat", "--max-tokens", "2", "--engine.runner", "torch")[0] == 0
    head, *rows, _, hint = tuition("bill", kind, "--model", "tiny")[1].splitlines()
    assert len(rows) == len(json.loads(tuition("bill", kind, "--model", "tiny", "--format", "json")[1]))
    assert head.split()[-1] == kind
    assert f"tuition bill {kind} <{kind}>" in hint
    named = rows[0].split()[-1]
    told = tuition("bill", kind, named)[1]
    assert named in told.splitlines()[0]
    assert "total, machine time" in told


def test_every_line_of_the_check_is_part_of_a_sum() -> None:
    """What stands behind =, + and - adds up to the line above them."""
    dollar = [Amount(cost_nusd=number * 10**9) for number in range(100)]
    given = dollar[24] + dollar[50] + dollar[7] + dollar[13]
    told = check_table(
        Reconciliation(
            meter=dollar[45], attributed=dollar[25], idle=dollar[7], overhead=dollar[13],
            in_flight=dollar[3], after_period=dollar[2], requests=dollar[24], training=dollar[50],
            accounts={"machine": -given, "idle": dollar[7], "overhead": dollar[13]}, residual=dollar[0],
            machine_ns=1, witnessed=Witnessed(1, 1, 1, 1), findings=(),
        )
    )  # fmt: skip
    for part in told.split("\n\n")[:3]:
        whole, *rest = [float(line.split("$")[1].split()[0]) for line in part.splitlines()[1:]]
        signs = [-1 if line.startswith("  - ") else 1 for line in part.splitlines()[2:]]
        assert whole == sum(sign * figure for sign, figure in zip(signs, rest, strict=True)) > 0


def test_a_list_of_receipts_is_an_array_and_a_named_one_an_object(tuition) -> None:
    """A program that reads them need not look at how many there are."""
    runs = json.loads(tuition("bill", "run", "--format", "json")[1])
    (run,) = runs
    assert json.loads(tuition("bill", "run", "--format", "json", "--model", "tinny")[1]) == []
    run_id = next(iter(run)).removeprefix("Training receipt: ")
    assert json.loads(tuition("bill", "run", run_id, "--format", "json")[1]) == run
    assert tuition("generate", "tiny", "The cat", "--max-tokens", "2", "--engine.runner", "torch")[0] == 0
    (receipt,) = json.loads(tuition(*RECEIPTS, "--limit", "1")[1])
    request_id = receipt["request_id"]
    assert json.loads(tuition(*RECEIPTS, request_id)[1]) == receipt
    for words in (("run", run_id, "--model", "tiny"), ("request", request_id, "--limit", "1")):
        status, out, err = tuition("bill", *words)
        assert (status, out) == (USAGE, "")
        assert words[1] in err


def test_the_check_comes_in_every_form_it_offers(tuition) -> None:
    """The figures of the CSV are those of the JSON, and no option is looked away from."""
    found = json.loads(tuition("bill", "check", "--format", "json")[1])
    status, out, _ = tuition("bill", "check", "--format", "csv")
    assert status == 0
    rows = {(row["section"], row["figure"]): row["value"] for row in csv.DictReader(io.StringIO(out))}
    assert rows["Check", "every identity holds"] == "yes"
    assert int(rows["Check", "meter, machine time"]) == found["meter"]["wall_ns"] > 0
    assert int(rows["Accounts", "machine, cost"]) == found["accounts"]["machine"]["cost_nusd"] < 0
    assert len(rows) == 3 * (9 + len(found["accounts"])) + 4 + 1
    status, _, err = tuition("bill", "check", "--model", "nope")
    assert status == USAGE
    assert "--model" in err


def test_bills_of_a_model_without_any_do_not_say_that_none_was_made(tuition) -> None:
    assert tuition("bill", "run", "--model", "other")[1].startswith("No run of other was billed yet")
    assert tuition("bill", "request", "--model", "other")[1].startswith("No request of other was billed yet")
