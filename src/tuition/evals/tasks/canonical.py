"""Dates, money, lengths, weights and volumes in a sentence, to one canonical form."""

from functools import partial

from tuition.evals.tasks.entities import FIRST_NAMES, PRODUCTS, iso, price, written_date
from tuition.evals.tasks.family import Drawn, Draws, Family, Part

SYSTEM = (
    "Give only the value in the sentence, in canonical form: a date as 2031-07-04, money as USD 12.50, "
    "a length in m, a weight in g, a volume in ml."
)
TEMPLATES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        ("date", "{name} was born on {value}."),
        ("date", "The contract of {name} ends {value}."),
        ("date", "Ticket {ticket} was opened on {value}."),
        ("date", "Best before {value}."),
        ("date", "We delivered {count} {item} on {value}."),
        ("date", "Invoice {ticket} is due {value}, says {name}."),
        ("date", "{value} is the day of the audit."),
        ("date", "Meeting {count} was moved to {value}."),
        ("date", "{name} will be away until {value}."),
        ("date", "The {item} were tested on {value}."),
        ("money", "{name} paid {value} for {count} {item}."),
        ("money", "Order {ticket} comes to {value}."),
        ("money", "A fee of {value} is due after {count} days."),
        ("money", "The {item} are {value}."),
        ("money", "{name} owes us {value}."),
        ("money", "Refund {value} to {name}, please."),
        ("money", "It was {value} for {count} of them."),
        ("money", "{count} {item} for {value} is a good price."),
        ("money", "Room {count} costs {value} a night."),
        ("money", "We lent {name} {value}."),
        ("length", "The table of {name} is {value} long."),
        ("length", "{name} ran {value} with number {count}."),
        ("length", "Cable {ticket} has a length of {value}."),
        ("length", "It is {value} to platform {count}."),
        ("length", "Cut {value} of rope for the {item}."),
        ("length", "The wall in room {count} measures {value}."),
        ("length", "Road {ticket} is closed for {value}."),
        ("weight", "Parcel {ticket} weighs {value}."),
        ("weight", "{name} bought {value} of flour."),
        ("weight", "{count} {item} weigh {value} in all."),
        ("weight", "The bag of {name} may have {value}."),
        ("weight", "Mix {value} of sand, batch {count}."),
        ("weight", "Box {count} holds {value} of nails."),
        ("weight", "The {item} came in a crate of {value}."),
        ("volume", "Tank {ticket} holds {value}."),
        ("volume", "{name} drank {value} of water."),
        ("volume", "Pour {value} into vessel {count}."),
        ("volume", "The {item} were packed with {value} of oil."),
        ("volume", "Batch {ticket} gave {value} of juice."),
        ("volume", "Room {count} needs {value} of paint."),
    ),
    "heldout": (
        ("date", "{name} moved in on {value}."),
        ("date", "The warranty of the {item} runs until {value}."),
        ("date", "Letter {ticket} is dated {value}."),
        ("date", "On {value} there were {count} visitors."),
        ("date", "Please come back on {value}, {name}."),
        ("money", "{name} sold the {item} for {value}."),
        ("money", "Bill {ticket} is about {value}."),
        ("money", "The deposit for room {count} is {value}."),
        ("money", "My {count} tickets were {value}."),
        ("money", "{name} found {value} in the {item}."),
        ("length", "{name} swims {value} a day."),
        ("length", "Pipe {ticket} must be {value} long."),
        ("length", "The garden behind house {count} is {value} deep."),
        ("length", "Line {count} has {value} of track."),
        ("weight", "{name} ordered {value} of rice."),
        ("weight", "Crate {ticket} has a weight of {value}."),
        ("weight", "The {item} are {value} each."),
        ("volume", "Barrel {ticket} has {value} of wine."),
        ("volume", "{name} needs {value} of milk."),
        ("volume", "Pump {count} moves {value} at a time."),
    ),
}


def draw(template: tuple[str, str], draws: Draws) -> Drawn:
    """A sentence with one value, beside a name, a number or both."""
    sort, text = template
    written, canonical = VALUES[sort](draws)
    user = text.format(
        value=written,
        name=draws.pick(FIRST_NAMES),
        item=draws.pick(PRODUCTS),
        count=draws.number(10, 199),
        ticket=f"{draws.one_of('ABCDEFGH')}{draws.number(100, 9_999)}",
    )
    return Drawn(user[0].upper() + user[1:], canonical, canonical)


def a_date(draws: Draws) -> tuple[str, str]:
    """Written in words or in figures."""
    day = draws.date()
    year, month, number = day
    ways = (
        written_date(draws, day),
        f"{number}.{month}.{year}",
        f"{number:02} / {month:02} / {year}",
        f"day {number} of month {month} of {year}",
    )
    return draws.one_of(ways), iso(day)


CURRENCIES = {
    "USD": ("dollars", "cents", "$"),
    "EUR": ("euros", "cents", "€"),
    "GBP": ("pounds", "pence", "£"),
}


def some_money(draws: Draws) -> tuple[str, str]:
    """With the sign, the code or the name of the currency."""
    code = draws.one_of(sorted(CURRENCIES))
    name, hundredths, sign = CURRENCIES[code]
    whole, cents = price(draws)
    short = f"{whole}.{cents:02}" if cents else str(whole)
    ways = [f"{sign}{short}", f"{short} {name}", f"{short} {code}", f"{code} {short}"]
    if cents:
        ways.append(f"{whole} {name} and {cents} {hundredths}")
    return draws.one_of(ways), f"{code} {whole}.{cents:02}"


def measure(large: tuple[str, str], small: tuple[str, str], draws: Draws) -> tuple[str, str]:
    """In a unit, a thousand times the small one, and the small one itself, to the small one.

    `large`, `small`: symbol and name.
    """
    whole, tenths, rest = draws.number(2, 99), draws.number(1, 9), draws.number(101, 999)
    ways = [
        (f"{whole} {large[0]}", whole * 1000),
        (f"{whole}.{tenths} {large[0]}", whole * 1000 + tenths * 100),
        (f"{whole} {large[1]}", whole * 1000),
        (f"{whole} {large[0]} and {rest} {small[0]}", whole * 1000 + rest),
        (f"{rest} {small[1]}", rest),
    ]
    written, value = draws.one_of(ways)
    return written, f"{value} {small[0]}"


VALUES = {
    "date": a_date,
    "money": some_money,
    "length": partial(measure, ("km", "kilometres"), ("m", "metres")),
    "weight": partial(measure, ("kg", "kilos"), ("g", "grams")),
    "volume": partial(measure, ("l", "litres"), ("ml", "millilitres")),
}

CANONICAL = Family(
    name="canonical",
    about="dates, money and measures in a sentence to one canonical form",
    kind="exact",
    system=SYSTEM,
    max_tokens=16,
    templates=TEMPLATES,
    draw=draw,
)
