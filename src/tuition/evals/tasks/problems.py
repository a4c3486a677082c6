"""Word problems of two steps, with integers up to 999 in every step."""

from tuition.evals.tasks.entities import CITIES, FIRST_NAMES, PRODUCTS
from tuition.evals.tasks.family import Drawn, Draws, Family, Part

SYSTEM = (
    "Solve the problem in two steps, one calculation per line, then write the number alone on the last line."
)
MOST = 999
TEMPLATES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        ("*+", "{name} packs {a} boxes with {b} {item} each and {c} loose ones. How many {item} is that?"),
        ("*+", "A shop in {city} has {a} shelves of {b} {item} and {c} more in the window. How many in all?"),
        ("*+", "{name} earns {a} dollars an hour, works {b} hours and gets a bonus of {c}. How much is it?"),
        ("*+", "A hall has {a} rows of {b} seats and {c} folding chairs. How many people can sit?"),
        ("*+", "{name} reads {a} pages a day for {b} days, then {c} pages more. How many pages?"),
        ("*+", "A truck brings {a} crates of {b} {item}, a van {c} more. How many {item} arrive in {city}?"),
        ("*-", "{name} buys {a} packs of {b} {item} and gives away {c}. How many {item} are left?"),
        ("*-", "A bakery bakes {a} trays of {b} rolls and sells {c}. How many rolls remain?"),
        ("*-", "{a} teams of {b} players come to {city}; {c} players go home. How many stay?"),
        ("*-", "{name} saves {a} dollars a week for {b} weeks and spends {c}. How many dollars are left?"),
        ("*-", "A farmer fills {a} baskets with {b} apples each; {c} are bad. How many are good?"),
        ("*-", "{name} has {a} albums with {b} photos each and deletes {c} photos. How many are left?"),
        ("*-", "A train with {a} cars of {b} seats leaves {city} with {c} empty seats. How many are taken?"),
        ("+-", "{name} had {a} {item}, got {b} more and sold {c}. How many {item} does {name} have now?"),
        ("+-", "A bus left {city} with {a} people, {b} got on and {c} got off. How many are on the bus?"),
        ("+-", "In the store were {a} {item}. {b} came in, {c} went out. How many are there now?"),
        ("+-", "A tank holds {a} litres. {name} pours in {b} and takes out {c}. How many litres are in it?"),
        ("+-", "{name} has {a} dollars, earns {b} and pays {c}. How many dollars are left?"),
        ("+-", "The library of {city} had {a} books, bought {b} and lost {c}. How many has it now?"),
        ("-+", "{name} had {a} {item}, lost {b} and found {c}. How many are there now?"),
        ("-+", "Of {a} guests {b} left and {c} came. How many guests are at the party of {name}?"),
        ("-+", "A shop in {city} sold {b} of {a} {item} and ordered {c} more. How many does it have?"),
        ("-+", "{name} scored {a} points, lost {b} and won {c}. What is the score?"),
        ("--", "{name} had {a} {item}, gave {b} to a friend and {c} to a school. How many are left?"),
        ("--", "From {a} metres of rope {name} cuts {b} metres and then {c}. How many metres are left?"),
        ("--", "A hotel in {city} has {a} rooms; {b} are taken and {c} are closed. How many are free?"),
        ("--", "Of {a} dollars {name} pays {b} for rent and {c} for food. How much is left?"),
        ("++", "{name} sold {a} {item} on Monday, {b} on Tuesday and {c} on Friday. How many in all?"),
        ("++", "It is {a} km to {city}, then {b} km to the coast and {c} km back. How many km in all?"),
        ("++", "{a} adults, {b} students and {c} children visit a museum in {city}. How many visitors?"),
        ("+*", "{name} buys {a} red and {b} blue {item} at {c} dollars each. How much is paid?"),
        ("+*", "Each of {c} bags holds {a} nuts and {b} dates. How many pieces are in the bags of {name}?"),
        ("+*", "{name} runs {a} km in the morning and {b} km at night, {c} days long. How many km?"),
        ("-*", "A ticket of {a} dollars is {b} dollars cheaper today. {name} buys {c}. How much is it?"),
        ("-*", "{name} makes {a} {item} a day and uses {b} of them. How many are left after {c} days?"),
        ("-*", "Each of {c} crates from {city} held {a} {item}, and {b} in each broke. How many are whole?"),
        ("/+", "{name} shares {a} {item} among {b} rooms and adds {c} to each. How many are in one room?"),
        ("/-", "{a} {item} go into {b} equal boxes; {c} are taken from one box. How many are left in it?"),
        ("+/", "{name} puts {a} red and {b} green {item} into {c} equal boxes. How many are in each?"),
        ("-/", "{b} of {a} {item} are sold. {name} splits the rest among {c} shelves. How many on each?"),
    ),
    "heldout": (
        ("*+", "There are {a} tables with {b} {item} each, and {c} on the floor. How many {item} in total?"),
        ("*+", "{name} drives {a} km on each of {b} days and {c} km on the last day. How far is that in km?"),
        ("*+", "A club in {city} has {a} groups of {b} members and {c} trainers. How many people?"),
        ("*-", "{name} orders {a} cartons of {b} {item}, but {c} are missing. How many {item} came?"),
        ("*-", "A theatre in {city} has {a} rows of {b} chairs, and {c} are broken. How many can be used?"),
        ("*-", "{name} plants {a} lines of {b} trees; {c} die. How many trees live?"),
        ("+-", "{name} collected {a} stamps, was given {b} and traded away {c}. How many stamps are there?"),
        ("+-", "A lift in {city} carried {a} people, then {b}; {c} of them walked down. How many did not?"),
        ("+-", "A kitchen had {a} {item}, bought {b} and threw out {c}. How many does it have?"),
        ("-+", "{name} spent {b} of {a} dollars and was given {c}. How many dollars does {name} have?"),
        ("-+", "{b} of {a} workers left the plant in {city} and {c} were hired. How many work there now?"),
        ("--", "{a} {item} were made; {b} failed the test and {c} were sold. How many are still there?"),
        ("--", "A trip to {city} is {a} km. {name} did {b} km on foot and {c} by bus. How many km are left?"),
        ("++", "{name} has {a} coins in a jar, {b} in a drawer and {c} in a bag. How many coins?"),
        ("++", "A school in {city} ordered {a} {item}, then {b}, then {c}. How many did it order?"),
        ("+*", "A meal is {a} dollars and a drink {b}. {name} pays for {c} guests. How much is that?"),
        ("-*", "{name} cooks {a} eggs a day and {b} are not eaten. How many are eaten in {c} days?"),
        ("/+", "{a} {item} are divided among {b} shops; the one in {city} gets {c} extra. How many has it?"),
        ("+/", "{name} mixes {a} grams of flour and {b} of sugar for {c} equal cakes. How many grams each?"),
        ("-/", "{name} takes {b} from {a} dollars and gives {c} children the rest. How many does each get?"),
    ),
}


def draw(template: tuple[str, str], draws: Draws) -> Drawn | None:
    """Numbers are drawn again where a step is not an integer from 1 to 999."""
    (first, second), text = template
    a = draws.number(2, 40 if first == "*" else 499)
    b = draws.number(2, {"*": 30, "/": 9}.get(first, 299))
    middle = step(a, first, b)
    c = draws.number(2, 9 if second in "*/" else 299)
    end = None if middle is None else step(middle, second, c)
    if end is None:
        return None
    user = text.format(
        name=draws.pick(FIRST_NAMES), city=draws.pick(CITIES), item=draws.pick(PRODUCTS), a=a, b=b, c=c
    )
    return Drawn(user, f"{a} {first} {b} = {middle}\n{middle} {second} {c} = {end}\n{end}", end)


def step(left: int, sign: str, right: int) -> int | None:
    """The result of one calculation, where it is an integer from 1 to 999."""
    if sign == "/":
        return left // right if left % right == 0 else None
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return result if 1 <= result <= MOST else None


PROBLEMS = Family(
    name="problems",
    about="word problems of two steps with integers up to 999",
    kind="number",
    system=SYSTEM,
    max_tokens=48,
    templates=TEMPLATES,
    draw=draw,
)
