"""A request as it is billed: identity, counts, times and costs, each spelled once.

The table `requests`, its rows, receipts, tables, JSON and CSV derive from `RequestRecord`: a figure that is
added here is in all of them (the table also needs a revision). Amounts become three columns each:
`total_machine_ns`, `total_energy_uj`, `total_cost_nusd`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tuition.core.amount import Amount
from tuition.core.records import EnergyMethod, FinishReason

AMOUNT_UNITS = {"wall_ns": "machine_ns", "energy_uj": "energy_uj", "cost_nusd": "cost_nusd"}
"""Fields of an amount, and how their columns end."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a column needs beside the name and the type of its field."""

    name: str | None = None
    """Where it differs from the field's."""
    length: int | None = None
    """Usual length of a text."""
    primary_key: bool = False
    index: bool = False
    references: str | None = None
    small: bool = False
    """A number below 2 billion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCost:
    """What one request caused, without idle and overhead (the causal view). total = prefill + decode."""

    request_id: Annotated[str, Stored(name="id", length=120, primary_key=True)]
    account_id: Annotated[str | None, Stored(name="account", length=32)]
    """The account that charged it; its periods have the same."""
    rule: Annotated[str, Stored(length=24)]
    """How steps were split among those who were in them."""
    num_steps: int
    flops: int
    kv_bytes: int
    """Bytes of keys and values, read and written."""
    computed_tokens: int
    wasted_tokens: int
    energy_method: Annotated[EnergyMethod | None, Stored(length=16)]
    cpu_ns: int | None
    """CPU time of this process for its share of the steps, all threads; None if unknown."""
    other_load_ppm: int | None
    """Share of the machine's CPUs that other work had meanwhile, in millionths; None if unknown."""
    total: Amount
    prefill: Amount
    decode: Amount
    waste: Amount
    """Inside total: rejected drafts, tokens behind a stop text, and tokens computed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One finished, cancelled or failed request."""

    cost: RequestCost
    """From Account.close."""
    model: Annotated[str, Stored(length=200, index=True)]
    version: Annotated[int | None, Stored(small=True)]
    """In the registry; None for a folder that is not registered."""
    weights_digest: Annotated[str | None, Stored(length=64)]
    api_key_id: Annotated[str | None, Stored(length=80, index=True)]
    created_unix_ns: Annotated[int, Stored(index=True)]
    prompt_tokens: int
    """Tokens of the prompt as its caller sent it: 0 for the second and later replies to one prompt."""
    input_tokens: int
    """Prompt tokens that this reply is based on, sent with it or not."""
    cached_tokens: int
    """Of input_tokens: taken from the prefix cache."""
    generated_tokens: int
    queue_ns: int | None
    """From submission to a place in a step, or to its end without one; None without times."""
    first_token_ns: int | None
    """From submission; None if there was none."""
    total_ns: int
    finish_reason: Annotated[FinishReason, Stored(length=16)]
    rate_id: Annotated[int, Stored(references="rates.id")]
    """From record_rate."""

    @property
    def request_id(self) -> str:
        return self.cost.request_id

    @property
    def total(self) -> Amount:
        return self.cost.total


@dataclass(frozen=True, slots=True)
class StoredField:
    """A field and its columns: one, or three of an amount."""

    of_cost: bool
    field: str
    columns: tuple[str, ...]
    nullable: bool
    how: Stored

    @property
    def is_amount(self) -> bool:
        return len(self.columns) > 1


@cache
def stored_fields() -> tuple[StoredField, ...]:
    """All fields, those of the cost first."""
    return (*_fields_of(RequestCost), *_fields_of(RequestRecord))


def _fields_of(kind: type) -> Iterator[StoredField]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if hint is RequestCost:
            continue
        if hint is Amount:
            columns = tuple(f"{name}_{unit}" for unit in AMOUNT_UNITS.values())
            yield StoredField(kind is RequestCost, name, columns, False, Stored())
            continue
        of, how = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, Stored())
        yield StoredField(kind is RequestCost, name, (how.name or name,), type(None) in get_args(of), how)


def to_columns(record: RequestRecord) -> dict[str, Any]:
    """The record as one flat row."""
    row: dict[str, Any] = {}
    for each in stored_fields():
        value = getattr(record.cost if each.of_cost else record, each.field)
        values = [getattr(value, unit) for unit in AMOUNT_UNITS] if each.is_amount else [value]
        row.update(zip(each.columns, values, strict=True))
    return row


def from_columns(row: Mapping[Any, Any]) -> RequestRecord:
    """The record of a row."""
    parts: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for each in stored_fields():
        values = [row[column] for column in each.columns]
        parts[each.of_cost][each.field] = Amount(*values) if each.is_amount else values[0]
    return RequestRecord(cost=RequestCost(**parts[True]), **parts[False])
