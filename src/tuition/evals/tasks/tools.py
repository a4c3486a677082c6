"""Requests to calls: one of 12 tools with its arguments, as JSON."""

import json
from typing import Any

from tuition.evals.tasks.entities import CITIES, FIRST_NAMES, LAST_NAMES, PRODUCTS, WEEKDAYS, words
from tuition.evals.tasks.family import Drawn, Draws, Family, Part

SYSTEM = (
    'Answer with one call as JSON, {"tool": ..., "arguments": {...}}. Times are HH:MM. Tools: '
    "weather(city, day), alarm(time), timer(minutes), email(to, subject), event(title, day, time), "
    "flight(origin, destination, day), convert(amount, source, target), table(place, people, time), "
    "play(song, room), buy(item, quantity), call(person), route(city, mode)"
)
SUBJECTS = words(
    """the budget, the new contract, the sales report, the team lunch, the broken printer, the parking spot,
    the holiday plan, the next release, the open invoice, the office move, the safety training,
    the price list, the job opening, the trade fair, the test results, the road map, the guest list,
    the water bill, the press release, the annual review, the school trip, the garden party, the spare keys,
    the late delivery""",
    """the birthday cake, the missing receipt, the floor plan, the software licence, the insurance claim,
    the summer camp, the music lesson, the rental car, the exam dates, the wedding photos""",
)
TITLES = words(
    """dentist, team meeting, haircut, job interview, piano class, board meeting, phone check, book club,
    car service, design review, first aid course, chess night, tax adviser, eye test, sales call, city tour,
    farewell lunch, plumber visit, sprint review, dance class""",
    """vet appointment, yoga session, budget talk, house viewing, choir practice, blood test, parents evening,
    bike repair, language class, project kickoff""",
)
PLACES = words(
    """Blue Lagoon, Casa Verde, The Old Mill, Golden Dragon, Red Pepper, Chez Marie, The Copper Pot, Sakura,
    Olive Garden, Riverside, The Green Door, Mamma Lucia, Spice House, The Anchor, Lotus, Silver Fork,
    The Black Sheep, Harvest, Tandoor, Cafe Central""",
    """Stone Oven, The Lighthouse, Bella Napoli, White Horse, Fig Tree, Ocean Grill, Little India, The Barn,
    Moonrise, La Terrasse""",
)
SONGS = words(
    """Yesterday, Hotel California, Thriller, Imagine, Purple Rain, Dancing Queen, Let It Be, Africa,
    Bohemian Rhapsody, Wonderwall, Smooth Operator, Take On Me, Halo, Clocks, Creep, Hey Jude, Roxanne,
    Angie, Respect, Waterloo, Jolene, Vogue, Hello, Fields of Gold""",
    """Billie Jean, Space Oddity, Zombie, Fast Car, Thunderstruck, Losing My Religion, Sweet Child, Umbrella,
    Heroes, Stand by Me""",
)
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF")
DAYS = ("today", "tomorrow", *WEEKDAYS)
ROOMS = ("kitchen", "bedroom", "bathroom", "garden", "office", "hall", "living room")
MODES = {"by car": "car", "on foot": "foot", "by train": "train", "by bike": "bike"}

Filled = tuple[dict[str, Any], dict[str, Any]]
"""The arguments of a call, and what the request says."""

TEMPLATES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        ("weather", "What will the weather be like in {city} {on_day}?"),
        ("weather", "Do I need an umbrella in {city} {on_day}?"),
        ("weather", "Tell me the forecast for {city}, {day}."),
        ("weather", "Is it going to be cold {on_day} in {city}?"),
        ("alarm", "Wake me up at {spoken}."),
        ("alarm", "Set an alarm for {spoken}, please."),
        ("alarm", "I have to get up at {spoken}, so ring me then."),
        ("timer", "Start a timer for {minutes} minutes."),
        ("timer", "The pasta needs {minutes} minutes, count them for me."),
        ("timer", "Tell me when {minutes} minutes are over."),
        ("timer", "Countdown of {minutes} minutes, now."),
        ("email", "Write an email to {name} about {subject}."),
        ("email", "Send {name} a mail with the subject {subject}."),
        ("email", "Please mail {name}, it is about {subject}."),
        ("event", "Put the {title} in my calendar {on_day} at {spoken}."),
        ("event", "Add an entry for {title}, {day}, {spoken}."),
        ("event", "I have a {title} {on_day} at {spoken}, note it down."),
        ("event", "Schedule {title} for {day} at {spoken}."),
        ("flight", "Find a flight from {city} to {city2} {on_day}."),
        ("flight", "I want to fly {on_day} from {city} to {city2}."),
        ("flight", "Which planes go to {city2} from {city} {on_day}?"),
        ("convert", "How much is {amount} {source} in {target}?"),
        ("convert", "Convert {amount} {source} to {target}."),
        ("convert", "What do I get in {target} for {amount} {source}?"),
        ("table", "Book a table for {people} at {place} at {spoken}."),
        ("table", "Reserve at {place}, {spoken}, we are {people}."),
        ("table", "{people} people want to eat at {place} at {spoken}, get us a table."),
        ("play", "Play {song} in the {room}."),
        ("play", "I'd like to hear {song} in the {room} now."),
        ("play", "Put on the song {song}, {room}, please."),
        ("play", "Can you start {song} for me in the {room}?"),
        ("buy", "Put {quantity} {item} on the shopping list."),
        ("buy", "We need {quantity} {item}, add them to the list."),
        ("buy", "Buy {quantity} {item}."),
        ("call", "Call {name}."),
        ("call", "Get me {name} on the phone."),
        ("call", "I want to talk to {name} now, dial the number."),
        ("route", "How do I get to {city} {mode}?"),
        ("route", "Show me the way to {city} {mode}."),
        ("route", "Take me to {city}, I am going {mode}."),
    ),
    "heldout": (
        ("weather", "Will it rain {on_day} in {city}?"),
        ("weather", "How warm does it get in {city} {on_day}?"),
        ("alarm", "Please get me out of bed at {spoken}."),
        ("alarm", "I need an alarm at {spoken}."),
        ("timer", "Set a timer to {minutes} minutes for the tea."),
        ("timer", "Let me know in {minutes} minutes."),
        ("email", "Can you email {name} about {subject}?"),
        ("email", "Draft a mail about {subject} to {name}."),
        ("event", "Enter {title} at {spoken} {on_day} in the calendar."),
        ("event", "Remember my {title}: {day}, {spoken}."),
        ("flight", "Look for flights to {city2}, leaving {city} {on_day}."),
        ("convert", "{amount} {source} is how much in {target}?"),
        ("convert", "Please change {amount} {source} into {target}."),
        ("table", "We want a table at {place} for {people} people at {spoken}."),
        ("table", "Dinner at {place}, {spoken}, party of {people}: please book."),
        ("play", "In the {room}, let me listen to {song}."),
        ("buy", "Add {quantity} {item} to my shopping."),
        ("call", "Phone {name} for me."),
        ("route", "What is the best way to reach {city} {mode}?"),
        ("route", "I need directions to {city} {mode}."),
    ),
}


def draw(template: tuple[str, str], draws: Draws) -> Drawn:
    """A request and the call that answers it."""
    tool, text = template
    values, said = {
        "weather": weather,
        "alarm": alarm,
        "timer": timer,
        "email": email,
        "event": event,
        "flight": flight,
        "convert": convert,
        "table": table,
        "play": lambda draws: both(song=draws.pick(SONGS), room=draws.one_of(ROOMS)),
        "buy": lambda draws: both(item=draws.pick(PRODUCTS), quantity=draws.number(2, 99)),
        "call": lambda draws: both(person=person(draws)),
        "route": route,
    }[tool](draws)
    call = {"tool": tool, "arguments": values}
    user = text.format(**said)
    return Drawn(user[0].upper() + user[1:], json.dumps(call), call)


def both(**values: Any) -> Filled:
    """Arguments that stand in the request as they are."""
    return values, {**values, "name": values.get("person")}


def weather(draws: Draws) -> Filled:
    city, day = draws.pick(CITIES), draws.one_of(DAYS)
    return {"city": city, "day": day}, {"city": city, "day": day, "on_day": on_day(day)}


def alarm(draws: Draws) -> Filled:
    time, spoken = clock(draws)
    return {"time": time}, {"spoken": spoken}


def timer(draws: Draws) -> Filled:
    return both(minutes=draws.number(2, 99))


def email(draws: Draws) -> Filled:
    name, subject = person(draws), draws.pick(SUBJECTS)
    return {"to": name, "subject": subject}, {"name": name, "subject": subject}


def event(draws: Draws) -> Filled:
    title, day, (time, spoken) = draws.pick(TITLES), draws.one_of(DAYS), clock(draws)
    said = {"title": title, "day": day, "on_day": on_day(day), "spoken": spoken}
    return {"title": title, "day": day, "time": time}, said


def flight(draws: Draws) -> Filled:
    city, city2, day = draws.pick(CITIES), draws.pick(CITIES), draws.one_of(DAYS)
    values = {"origin": city, "destination": city2, "day": day}
    return values, {"city": city, "city2": city2, "on_day": on_day(day)}


def convert(draws: Draws) -> Filled:
    source, target = draws.random.sample(CURRENCIES, 2)
    return both(amount=draws.number(10, 999), source=source, target=target)


def table(draws: Draws) -> Filled:
    place, people, (time, spoken) = draws.pick(PLACES), draws.number(2, 9), clock(draws)
    values = {"place": place, "people": people, "time": time}
    return values, {"place": place, "people": people, "spoken": spoken}


def route(draws: Draws) -> Filled:
    city, mode = draws.pick(CITIES), draws.one_of(sorted(MODES))
    return {"city": city, "mode": MODES[mode]}, {"city": city, "mode": mode}


def person(draws: Draws) -> str:
    """A first name, or first and last name."""
    first = draws.pick(FIRST_NAMES)
    return f"{first} {draws.pick(LAST_NAMES)}" if draws.random.random() < 0.5 else first


def on_day(day: str) -> str:
    return day if day in ("today", "tomorrow") else f"on {day}"


def clock(draws: Draws) -> tuple[str, str]:
    """A time as HH:MM, and as people write it."""
    hour, minute = draws.time()
    time = f"{hour:02}:{minute:02}"
    half, short = "am" if hour < 12 else "pm", (hour + 11) % 12 + 1
    return time, draws.one_of([time, f"{short}:{minute:02} {half}"])


TOOLS = Family(
    name="tools",
    about="requests to one of 12 tools with its arguments, as JSON",
    kind="json",
    system=SYSTEM,
    max_tokens=64,
    templates=TEMPLATES,
    draw=draw,
)
