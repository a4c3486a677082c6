"""The task families: what their parts share, and that a right reply is judged right."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tuition.core.errors import SettingsError
from tuition.evals.tasks.family import Drawn, Draws, Family, Part, Row
from tuition.evals.tasks.files import write_family
from tuition.evals.tasks.table import FAMILIES, make_family

NAMES = sorted(FAMILIES)
PARTS: tuple[Part, ...] = ("train", "heldout")
ROWS = 1_000
CLOSED = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December|Monday|"
    r"Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|USD|EUR|GBP|JPY|CHF)\b"
)
"""Capitalised words that both parts may have: closed lists, beside the words at the start of a sentence."""


def rows(name: str, part: Part, count: int = ROWS) -> list[Row]:
    return make_family(name, count, 7, part)


@pytest.mark.parametrize("name", NAMES)
def test_parts_share_no_template_and_no_entity(name: str) -> None:
    train, heldout = rows(name, "train"), rows(name, "heldout")
    assert not {row.template for row in train} & {row.template for row in heldout}
    assert not frozenset().union(*(row.entities for row in train)) & frozenset().union(
        *(row.entities for row in heldout)
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_number_stands_in_the_text_of_both_parts(name: str) -> None:
    """Read from the texts themselves, not from what the family says about them; below 60, a number may be the
    part of a date or of a time."""
    lowest = 10 if name == "problems" else 60
    numbers = [
        {
            int(found)
            for row in rows(name, part)
            for found in re.findall(r"\d+", row.user)
            if int(found) >= lowest
        }
        for part in PARTS
    ]
    assert numbers[0]
    assert numbers[1]
    assert not numbers[0] & numbers[1]


def test_no_quantity_and_no_date_of_an_order_is_in_both_parts() -> None:
    for name in ("quantity", "date", "customer", "item"):
        values = [{row.target[name] for row in rows("orders", part)} for part in PARTS]
        assert not values[0] & values[1], name


def test_every_digit_is_taught_at_every_place() -> None:
    """Else a held-out number would ask for what was never shown."""
    for name in ("quantity", "date"):
        taught = [str(row.target[name]) for row in rows("orders", "train")]
        asked = [str(row.target[name]) for row in rows("orders", "heldout")]
        shown = {(len(text), place, digit) for text in taught for place, digit in enumerate(text)}
        wanted = {(len(text), place, digit) for text in asked for place, digit in enumerate(text)}
        assert wanted <= shown, name


@pytest.mark.parametrize("name", NAMES)
def test_no_capitalised_word_inside_a_sentence_stands_in_both_parts(name: str) -> None:
    """Names, places and songs, read from the texts."""
    words = []
    for part in PARTS:
        texts = (CLOSED.sub("", row.user) for row in rows(name, part))
        words.append({word for text in texts for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}", text)})
    shared = words[0] & words[1] - {
        "The",
        "Jan",
        "Feb",
        "Mar",
        "Apr",
        "Jun",
        "Jul",
        "Aug",
        "Sep",
        "Oct",
        "Nov",
        "Dec",
    }
    assert words[0]
    assert not shared


@pytest.mark.parametrize("name", NAMES)
def test_templates_take_turns_and_rows_are_different(name: str) -> None:
    train, heldout = rows(name, "train", 400), rows(name, "heldout", 400)
    for part, fewest in ((train, 40), (heldout, 20)):
        count = Counter(row.template for row in part)
        assert len(count) >= fewest
        assert max(count.values()) - min(count.values()) <= 1
        assert len({row.user for row in part}) == 400


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert make_family("orders", 20, 1, "train") == make_family("orders", 20, 1, "train")
    assert make_family("orders", 20, 1, "train") != make_family("orders", 20, 2, "train")


def test_the_steps_of_a_problem_are_right_and_stay_below_a_thousand() -> None:
    for part in PARTS:
        for row in rows("problems", part):
            first, second, last = row.reply.splitlines()
            results = []
            for line in (first, second):
                left, sign, right, _, result = line.split()
                numbers = int(left), int(right)
                value = {
                    "+": numbers[0] + numbers[1],
                    "-": numbers[0] - numbers[1],
                    "*": numbers[0] * numbers[1],
                    "/": numbers[0] / numbers[1],
                }[sign]
                assert value == int(result) <= 999
                results.append(int(result))
            assert second.startswith(f"{results[0]} ")
            assert int(last) == results[1] == row.target


def test_every_fact_of_an_order_stands_in_its_mail() -> None:
    for row in rows("orders", "heldout"):
        order = json.loads(row.reply)
        assert set(order) == {"customer", "item", "quantity", "price", "date"}
        for name in ("customer", "item", "quantity"):
            assert str(order[name]) in row.user
        assert re.search(rf"\b{order['price']:.{2 if order['price'] % 1 else 0}f}\b", row.user)


def test_a_used_up_family_says_how_many_rows_there_are() -> None:
    def draw(template: str, draws: Draws) -> Drawn:
        return Drawn(template.format(draws.number(1, 3)), "yes", "yes")

    small = Family("small", "", "exact", "", 8, {"train": ["{}?", "{}!"], "heldout": ["{}."]}, draw)
    assert len(small.rows(6, 1, "train")) == 6
    with pytest.raises(SettingsError, match="rows: got 7, wanted at most about 6 for small"):
        small.rows(7, 1, "train")


def test_files_hold_examples_in_messages_form_and_a_task(tmp_path: Path) -> None:
    files = write_family(tmp_path, "tools", rows=30, heldout=20, seed=3)
    taught = [json.loads(line) for line in files.teaching.read_text().splitlines()]
    assert [message["role"] for message in taught[0]["messages"]] == ["system", "user", "assistant"]
    asked = [json.loads(line) for line in files.task.read_text().splitlines()]
    assert len(taught) == 30
    assert len(asked) == 21
    assert asked[0]["kind"] == "json"
