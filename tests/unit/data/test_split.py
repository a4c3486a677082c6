"""The split: copies stay on one side, what counts is distinct usable text, and nothing hangs on order."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import DataError
from tuition.data import readers
from tuition.data import split as split_module
from tuition.data.blocks import cut_blocks, identity
from tuition.data.documents import Document, sources_of
from tuition.data.settings import DataSettings
from tuition.data.split import PARTS, Item, Part, SplitPlan, Tally
from tuition.data.units import Unit, UnitPlan, plan_split, split_units

Write = Callable[..., Path]
FEW = settings(max_examples=60, deadline=None)
ITEMS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 50)), min_size=4, max_size=60)


def planned(data: DataSettings) -> tuple[UnitPlan, list[Unit]]:
    sources = sources_of(data)
    plan = plan_split(data, sources)
    return plan, list(split_units(data, sources, plan))


def texts(units: list[Unit], part: Part) -> list[str]:
    return [unit.text for unit in units if unit.part == part]


def sentences(seed: int, count: int = 12) -> str:
    """A text like no other."""
    random_ = random.Random(seed)
    lines = (" ".join(f"w{random_.randrange(9_999)}" for _ in range(8)) for _ in range(count))
    return "".join(f"{line}.\n" for line in lines)


# Items of any kind.


def sizes_of(plan: SplitPlan, items: dict[int, int], part: Part) -> int:
    return sum(size for key, size in items.items() if plan.part_of(key) == part)


@FEW
@given(drawn=ITEMS, share=st.floats(0.01, 0.5), data=st.data())
def test_the_plan_hangs_on_contents_and_not_on_order(drawn, share: float, data) -> None:
    items = dict(drawn)
    wanted = share * sum(items.values())
    pairs = list(items.items()) + data.draw(st.lists(st.sampled_from(list(items.items())), max_size=20))
    other = data.draw(st.permutations(pairs))
    one, two = (Tally(Item(*pair) for pair in order).choose(wanted, 0) for order in (pairs, other))
    assert one == two


@FEW
@given(drawn=ITEMS, share=st.floats(0.01, 0.5), kept=st.floats(0, 0.3))
def test_something_is_held_out_something_kept_and_something_taught(drawn, share: float, kept: float) -> None:
    items = dict(drawn)
    total = sum(items.values())
    plan = Tally(Item(*pair) for pair in items.items()).choose(share * total, kept * total)
    if plan is None:
        assert len(items) <= 1 + (kept > 0)
        return
    heldout, validation = (sizes_of(plan, items, part) for part in ("heldout", "validation"))
    least = min(items.values())
    assert 0 < heldout <= max(2 * share * total, least)
    assert validation <= max(2 * kept * total, max(items.values()))
    assert (validation > 0) == (kept > 0)
    assert heldout + validation < total


@FEW
@given(drawn=ITEMS, named=st.sets(st.integers(0, 3)), data=st.data())
def test_named_parts_win_and_take_their_copies_along(drawn, named: set[int], data) -> None:
    keys = list(dict(drawn))
    heldout = {keys[index % len(keys)] for index in named}
    items = [Item(*pair) for pair in dict(drawn).items()]
    items += [Item(key, 1, "heldout") for key in heldout]
    items += [Item(key, 1, "validation") for key in keys[:1]]
    plan = Tally(data.draw(st.permutations(items))).choose(0, 0)
    assert plan is None or {key for key in keys if plan.part_of(key) == "heldout"} == heldout
    assert plan is None or plan.part_of(keys[0]) == ("heldout" if keys[0] in heldout else "validation")


def test_very_many_items_are_estimated_from_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "MOST_COUNTED", 2_000)
    numbers = random.Random(1)
    pairs = [(numbers.getrandbits(64), numbers.randrange(50, 150)) for _ in range(50_000)]
    tally = Tally(Item(*pair) for pair in pairs + pairs)
    assert tally.num_distinct == pytest.approx(50_000, rel=0.05)  # two standard errors of a sample of 2,000
    assert tally.distinct_bytes == pytest.approx(5_000_000, rel=0.05)
    plan = tally.choose(100_000, 0)
    assert plan is not None
    assert sizes_of(plan, dict(pairs), "heldout") == pytest.approx(100_000, rel=0.01)


# Which texts are copies.

SPACES = st.sampled_from([" ", "  ", "\n", "\r\n", "\t", " \n\n "])


@FEW
@given(words=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1), data=st.data())
def test_a_copy_with_other_spacing_is_a_copy(words: list[str], data) -> None:
    spaced = "".join(word + data.draw(SPACES) for word in words)
    assert identity("\ufeff" + spaced) == identity(" ".join(words))


def test_other_words_are_no_copy_and_composed_letters_are() -> None:
    assert identity("to be") != identity("tobe")
    assert identity("to be") != identity("to bee")
    assert identity("caf\u00e9") == identity("cafe\u0301")
    assert identity("to be", b"sample") != identity("to be")


@FEW
@given(seed=st.integers(0, 999), block=st.integers(64, 2_000), piece=st.integers(50, 5_000))
def test_blocks_are_the_text_and_hang_on_no_piece(seed: int, block: int, piece: int) -> None:
    text = sentences(seed, count=seed % 200 + 1)

    def cut(size: int) -> list[str]:
        parts = [text[begin : begin + size] for begin in range(0, len(text), size)]
        pieces = (Document("d", part, Path("d"), None, number) for number, part in enumerate(parts))
        return [found for _, found in cut_blocks(pieces, block)]

    blocks = cut(len(text))
    assert "".join(blocks) == text
    assert cut(piece) == blocks
    assert all(len(found) <= block * 2 + 90 for found in blocks)  # a line is up to 55 letters long
    assert all(len(found) >= block // 2 for found in blocks[:-1])


def test_a_text_is_cut_into_the_same_blocks_behind_a_new_beginning_and_with_other_line_ends() -> None:
    text = sentences(5, count=2_000)
    forms = {
        "plain": text,
        "windows": text.replace("\n", "\r\n"),
        "indented": text.replace("\n", " \n  "),
        "longer": sentences(6, count=17) + text + sentences(7, count=30),
    }
    found = {
        name: {identity(block) for _, block in cut_blocks([Document(name, form, Path(name))], 2_000)}
        for name, form in forms.items()
    }
    assert len(found["plain"]) > 40
    assert found["windows"] == found["indented"] == found["plain"]
    assert len(found["plain"] - found["longer"]) <= 4  # until both are cut at the same line


@pytest.mark.parametrize("text", ["x" * 30_000, "字" * 9_000, "word " * 6_000, "\n" * 5_000 + "end"])
def test_text_without_lines_is_cut_all_the_same(text: str) -> None:
    blocks = [block for _, block in cut_blocks([Document("d", text, Path("d"))], 1_000)]
    assert "".join(blocks) == text
    assert max(len(block.strip().encode()) for block in blocks) <= 2_000


# Corpora of texts.


def folder_of(folder: Path, count: int = 30) -> Path:
    folder.mkdir()
    for n in range(count):
        (folder / f"f{n}.txt").write_text(sentences(n))
    return folder


COPIES: dict[str, Callable[[str], bytes]] = {
    "the same bytes": str.encode,
    "other line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "other spacing": lambda text: text.replace(" ", "  ").encode() + b"\n\n",
}


@pytest.mark.parametrize("form", COPIES)
@pytest.mark.parametrize("part", ["heldout", "validation"])
def test_a_copy_of_a_named_document_is_not_taught(tmp_path: Path, form: str, part: str) -> None:
    folder = folder_of(tmp_path / "texts")
    (folder / "a_copy.txt").write_bytes(COPIES[form](sentences(3)))
    (folder / "z_copy.txt").write_bytes(COPIES[form](sentences(3)))
    _, units = planned(DataSettings(paths=(folder,), **{part: ("f3.txt",)}))
    words = {name: [" ".join(text.split()) for text in texts(units, name)] for name in PARTS}
    known = " ".join(sentences(3).split())
    assert words[part] == [known], "once: a second copy would make the score look surer than it is"
    assert known not in words["train"] + words["heldout"] or part == "heldout"
    assert len(words["train"]) >= 25


def test_a_copy_of_a_row_that_is_named_by_its_title_is_not_taught(write_jsonl: Write) -> None:
    rows = [{"text": sentences(n), "name": f"T{n}"} for n in range(30)]
    rows.insert(0, {"text": sentences(3).replace("\n", "\r\n"), "name": "again"})
    data = DataSettings(paths=(write_jsonl(rows),), title_field="name", heldout=("T3",), validation=("T5",))
    _, units = planned(data)
    assert [unit.title for unit in units if unit.part == "heldout"] == ["T3"]
    assert "again" not in {unit.title for unit in units}
    assert {unit.title for unit in units if unit.part == "validation"} == {"T5"}


def test_a_text_that_is_named_for_both_parts_by_copies_is_held_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "texts")
    (folder / "copy.txt").write_text(sentences(3))
    _, units = planned(DataSettings(paths=(folder,), heldout=("f3.txt",), validation=("copy.txt",)))
    assert texts(units, "heldout") == [sentences(3)]
    assert sentences(3) not in texts(units, "train") + texts(units, "validation")


@pytest.mark.parametrize("form", COPIES)
@pytest.mark.parametrize("count", [2, 12, 60])
def test_copies_that_nobody_named_are_in_one_part(tmp_path: Path, form: str, count: int) -> None:
    folder = folder_of(tmp_path / "texts", count)
    for n in range(count):
        (folder / f"g{n}.txt").write_bytes(COPIES[form](sentences(n)))
    _, units = planned(DataSettings(paths=(folder,), heldout_share=0.2, validation_share=0.1))
    words = {part: {" ".join(text.split()) for text in texts(units, part)} for part in ("train", "heldout")}
    assert words["heldout"]
    assert not words["train"] & words["heldout"]


def test_a_long_copy_in_another_kind_of_file_is_in_the_same_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of rows and of text files are not cut at the same places."""
    monkeypatch.setattr(readers, "PIECE_CHARS", 1_000)
    folder = folder_of(tmp_path / "texts", 3)
    (folder / "long.txt").write_text(sentences(99, count=300))
    (folder / "row.jsonl").write_text(json.dumps({"text": sentences(99, count=300)}) + "\n")
    _, units = planned(DataSettings(paths=(folder,), heldout_share=0.3))
    one, two = (
        {identity(unit.text) for unit in units if unit.title == title and unit.part == "train"}
        for title in ("long.txt", "row.jsonl:1")
    )
    assert one == two
    assert {unit.title for unit in units if unit.part == "heldout"} >= {"long.txt"}


DOCUMENTS = [{"text": sentences(n)} for n in range(12)]
PADDED: dict[str, list[object]] = {
    "plain": list(DOCUMENTS),
    "blank lines": [line for row in DOCUMENTS for line in (row, *[""] * 200)],
    "rows that cannot be used": [*DOCUMENTS, *({"body": n} for n in range(2_000))],
    "empty rows": [*({"text": " "} for _ in range(2_000)), *DOCUMENTS],
    "copies": [*DOCUMENTS, *[DOCUMENTS[0]] * 2_000],
}


@pytest.mark.parametrize("form", PADDED)
def test_only_distinct_usable_documents_count(write_jsonl: Write, form: str) -> None:
    """What cannot be used, and copies, must not pass for many documents, of which the hash would choose."""
    plan, units = planned(DataSettings(paths=(write_jsonl(PADDED[form]),), on_bad="skip"))
    assert plan.by == "blocks"
    plain = planned(DataSettings(paths=(write_jsonl(PADDED["plain"], "plain.jsonl"),)))[1]
    assert set(texts(units, "heldout")) == set(texts(plain, "heldout")) != set()
    assert set(texts(units, "train")) == set(texts(plain, "train"))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_many_copies_of_one_row_never_take_the_text_from_teaching(
    write_jsonl: Write, seed: int, share: float
) -> None:
    rows = [{"text": f"row {seed} again"}] * 900 + [{"text": f"row {seed} number {n}"} for n in range(100)]
    _, units = planned(DataSettings(paths=(write_jsonl(rows),), heldout_share=share))
    heldout = texts(units, "heldout")
    assert share * 80 <= len(set(heldout)) <= share * 130
    assert len(heldout) <= share * 130


@pytest.mark.parametrize("seed", range(20))
def test_a_book_among_notes_is_cut_so_that_it_is_held_out_in_part(tmp_path: Path, seed: int) -> None:
    """Notes alone would say nothing about the book, which is most of what is taught."""
    folder = folder_of(tmp_path / "texts", 40)
    (folder / "book.txt").write_text(sentences(1_000 + seed, count=8_000))
    plan, units = planned(DataSettings(paths=(folder,)))
    book = [unit for unit in units if unit.title == "book.txt"]
    assert plan.by == "blocks"
    assert {unit.part for unit in book} == {"train", "heldout"}
    size = sum(len(text) for text in texts(units, "heldout")) / sum(len(unit.text) for unit in units)
    assert 0.03 < size < 0.11


def test_a_few_copies_of_one_text_are_too_little_and_that_is_an_error(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}.txt").write_text("all the same\n")
    with pytest.raises(DataError, match="1 different pieces of text"):
        planned(DataSettings(paths=(tmp_path,)))


def test_where_all_was_left_out_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1")
    with pytest.raises(DataError, match=r"all of it was left out \(1 x, like .*a\.txt.*binary"):
        planned(DataSettings(paths=(tmp_path / "a.txt",), on_bad="skip"))
