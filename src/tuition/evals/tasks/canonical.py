"""Dates, times, money, lengths, weights and durations in a sentence, to one canonical form."""

from tuition.evals.tasks.entities import FIRST_NAMES, PRODUCTS, date, iso, price, written_date
from tuition.evals.tasks.family import Drawn, Draws, Family, Part

SYSTEM = (
    "Give only the value in the sentence, in canonical form: a date as 2031-07-04, a time as 17:05, "
    "money as USD 12.50, a length in m, a weight in g, a duration in min."
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
        ("time", "{name} arrives at {value}."),
        ("time", "Bus {count} leaves at {value}."),
        ("time", "Gate {count} closes at {value}."),
        ("time", "The shop opens at {value}, ask for {name}."),
        ("time", "Lunch with {name} is at {value}."),
        ("time", "At {value} the alarm in room {count} rang."),
        ("money", "{name} paid {value} for {count} {item}."),
        ("money", "Order {ticket} comes to {value}."),
        ("money", "A fee of {value} is due after {count} days."),
        ("money", "The {item} are {value}."),
        ("money", "{name} owes us {value}."),
        ("money", "Refund {value} to {name}, please."),
        ("money", "It was {value} for {count} of them."),
        ("money", "{count} {item} for {value} is a good price."),
        ("length", "The table of {name} is {value} long."),
        ("length", "{name} ran {value} with number {count}."),
        ("length", "Cable {ticket} has a length of {value}."),
        ("length", "It is {value} to platform {count}."),
        ("length", "Cut {value} of rope for the {item}."),
        ("length", "The wall in room {count} measures {value}."),
        ("weight", "Parcel {ticket} weighs {value}."),
        ("weight", "{name} bought {value} of flour."),
        ("weight", "{count} {item} weigh {value} in all."),
        ("weight", "The bag of {name} may have {value}."),
        ("weight", "Mix {value} of sand, batch {count}."),
        ("weight", "Box {count} holds {value} of nails."),
        ("duration", "The film of {name} lasts {value}."),
        ("duration", "Train {count} takes {value}."),
        ("duration", "Bake the {count} rolls for {value}."),
        ("duration", "{name} waited {value} at desk {count}."),
        ("duration", "Job {ticket} ran for {value}."),
        ("duration", "The battery of the {item} holds for {value}."),
    ),
    "heldout": (
        ("date", "{name} moved in on {value}."),
        ("date", "The warranty of the {item} runs until {value}."),
        ("date", "Letter {ticket} is dated {value}."),
        ("date", "On {value} there were {count} visitors."),
        ("time", "Please call {name} at {value}."),
        ("time", "Flight {ticket} lands at {value}."),
        ("time", "Class {count} begins at {value}."),
        ("money", "{name} sold the {item} for {value}."),
        ("money", "Bill {ticket} is about {value}."),
        ("money", "The deposit for room {count} is {value}."),
        ("money", "My {count} tickets were {value}."),
        ("length", "{name} swims {value} a day."),
        ("length", "Pipe {ticket} must be {value} long."),
        ("length", "The garden behind house {count} is {value} deep."),
        ("weight", "{name} ordered {value} of rice."),
        ("weight", "Crate {ticket} has a weight of {value}."),
        ("weight", "The {item} are {value} each."),
        ("duration", "Call {ticket} took {value}."),
        ("duration", "{name} slept for {value}."),
        ("duration", "The walk to stop {count} is {value}."),
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
    day = date(draws)
    year, month, number = day
    ways = (
        written_date(draws, day),
        f"{number}.{month}.{year}",
        f"{number:02} / {month:02} / {year}",
        f"day {number} of month {month} of {year}",
    )
    return draws.one_of(ways), iso(day)


def a_time(draws: Draws) -> tuple[str, str]:
    """On a clock of 12 or 24 hours."""
    hour, minute, later = draws.number(1, 11), draws.number(0, 59), draws.one_of([0, 12])
    half, phase = ("pm", "in the evening") if later else ("am", "in the morning")
    ways = [
        (f"{hour}:{minute:02} {half}", minute),
        (f"{hour}.{minute:02} {half}", minute),
        (f"{minute or 5} past {hour} {phase}", minute or 5),
        (f"half past {hour} {phase}", 30),
        (f"{hour} o'clock {phase}", 0),
        (f"{hour} {half}", 0),
    ]
    written, minute = draws.one_of(ways)
    return written, f"{hour + later:02}:{minute:02}"


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


def a_length(draws: Draws) -> tuple[str, str]:
    """Kilometres and metres, to metres."""
    kilometres, tenths, metres = draws.number(2, 99), draws.number(1, 9), draws.number(101, 999)
    ways = [
        (f"{kilometres} km", kilometres * 1000),
        (f"{kilometres}.{tenths} km", kilometres * 1000 + tenths * 100),
        (f"{kilometres} kilometres", kilometres * 1000),
        (f"{kilometres} km and {metres} m", kilometres * 1000 + metres),
        (f"{metres} metres", metres),
    ]
    written, value = draws.one_of(ways)
    return written, f"{value} m"


def a_weight(draws: Draws) -> tuple[str, str]:
    """Kilograms and grams, to grams."""
    kilograms, tenths, grams = draws.number(2, 99), draws.number(1, 9), draws.number(101, 999)
    ways = [
        (f"{kilograms} kg", kilograms * 1000),
        (f"{kilograms}.{tenths} kg", kilograms * 1000 + tenths * 100),
        (f"{kilograms} kilos", kilograms * 1000),
        (f"{kilograms} kg and {grams} g", kilograms * 1000 + grams),
        (f"{grams} grams", grams),
    ]
    written, value = draws.one_of(ways)
    return written, f"{value} g"


def a_duration(draws: Draws) -> tuple[str, str]:
    """Hours and minutes, to minutes."""
    hours, minutes = draws.number(2, 9), draws.number(2, 59)
    ways = [
        (f"{hours} hours", hours * 60),
        (f"{hours} h", hours * 60),
        (f"{hours} and a half hours", hours * 60 + 30),
        (f"{minutes} minutes", minutes),
        (f"an hour and {minutes} minutes", 60 + minutes),
        (f"half an hour and {minutes} minutes", 30 + minutes),
    ]
    written, value = draws.one_of(ways)
    return written, f"{value} min"


VALUES = {
    "date": a_date,
    "time": a_time,
    "money": some_money,
    "length": a_length,
    "weight": a_weight,
    "duration": a_duration,
}

CANONICAL = Family(
    name="canonical",
    about="dates, times, money and measures in a sentence to one canonical form",
    kind="exact",
    system=SYSTEM,
    max_tokens=16,
    templates=TEMPLATES,
    draw=draw,
)
