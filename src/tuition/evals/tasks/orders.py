"""Mails to orders: five fields as JSON, beside names, numbers and dates that are not asked for."""

import json

from tuition.evals.tasks.entities import PRODUCTS, full_name, iso, price, written_date
from tuition.evals.tasks.family import Drawn, Draws, Family, Part

SYSTEM = (
    "Return the order in this mail as JSON with the keys customer, item, quantity, price and date. "
    "price is per piece in dollars, date is YYYY-MM-DD."
)
BODIES: dict[Part, tuple[str, ...]] = {
    "train": (
        "This is {customer}. Please send {quantity} {item} at {price} each by {date}.",
        "{customer} would like {quantity} {item}, {price} apiece, to arrive on {date}.",
        "We need {quantity} {item} for {customer}. Unit price {price}, deliver on {date}.",
        "Order from {customer}: {quantity} x {item}, {price} per unit, due {date}.",
        "Could you ship {quantity} {item} by {date}? Agreed price is {price} each. Thanks, {customer}",
        "I want to buy {quantity} {item} for {price} a piece. Needed by {date}. Regards, {customer}",
        "Please book for {customer}: {item}, quantity {quantity}, at {price}, delivery {date}.",
        "Hello, {customer} here. By {date} I must have {quantity} {item}; your offer was {price} each.",
        "{item}: {quantity} pieces at {price} each. Ship to {customer} on {date}.",
        "On {date} please deliver {quantity} {item} to {customer}, {price} per item.",
        "New order. Buyer {customer}. Goods {item}. Count {quantity}. Unit price {price}. Date {date}.",
        "Kindly reserve {quantity} {item} in the name of {customer} for {date}. The rate is {price} each.",
        "As agreed, {customer} takes {quantity} {item} at {price} per piece, delivered {date}.",
        "{customer} asked me to order {quantity} {item}. They cost {price} each and are due on {date}.",
        "Deliver by {date}: {quantity} {item}. Price per piece {price}. Customer: {customer}.",
        "Put down {quantity} {item} for {customer}, please, {price} each, for {date}.",
        "My name is {customer} and I am ordering {quantity} {item} at {price} each for {date}.",
        "Purchase request by {customer}: {quantity} {item} priced {price} each, wanted on {date}.",
        "At {price} each I will take {quantity} {item}. Send them by {date}. Best, {customer}",
        "For the shop of {customer}: {quantity} {item}, single price {price}, delivery day {date}.",
        "Send {customer} {quantity} {item} before {date}. We pay {price} for each.",
        "We confirm {quantity} {item} for {customer} on {date}, at a unit price of {price}.",
        "{date} is the day when {customer} needs {quantity} {item}, bought at {price} each.",
        "Dear team, {customer} orders {quantity} {item}. Each costs {price}. Delivery: {date}.",
        "Please prepare {quantity} {item} ({price} each) for pick up by {customer} on {date}.",
        "I'd like {quantity} of your {item} at {price} each, sent on {date}. Signed, {customer}",
        "Can {customer} get {quantity} {item} by {date} for {price} each? If so, it is an order.",
        "Enter an order of {quantity} {item} at {price} a unit, customer {customer}, for {date}.",
        "{customer} wrote: we buy {quantity} {item}, {price} each, and expect them {date}.",
        "Due {date}: {item}, {quantity} of them, {price} per piece, for {customer}.",
        "The client {customer} wants the {item}, {quantity} in all, for {price} each, on {date}.",
        "Quantity {quantity}, article {item}, price {price}, date {date}, customer {customer}. Please ship.",
        "Hi! {quantity} {item} please, at {price} each. {date} would be fine. Yours, {customer}",
        "Let {customer} have {quantity} {item} on {date} at {price} for one.",
        "Our office orders {quantity} {item} through {customer}: {price} each, arrival {date}.",
        "{customer} accepts your price of {price} for each of {quantity} {item}, to be sent {date}.",
        "We are {customer} and we order {quantity} {item}, paying {price} per unit, by {date}.",
        "Arrange {quantity} {item} for {date}; invoice {customer} at {price} each.",
        "Good morning, I order {quantity} {item} for {date}. I was told {price} each. {customer}",
        "To be delivered {date} to {customer}: {quantity} {item} at {price} each.",
    ),
    "heldout": (
        "It's {customer} writing. I'll have {quantity} {item}, {price} for every one, on {date}.",
        "Make it {quantity} {item} at {price} each. {customer} will wait for them on {date}.",
        "There should be {quantity} {item} at the door of {customer} on {date}; price {price} each.",
        "Sold to {customer}: {quantity} {item} at {price} per piece. Hand over on {date}.",
        "Would you get {quantity} {item} to us until {date}? {price} each is fine. Cheers, {customer}",
        "{customer} needs more {item}: {quantity} this time, at {price} each, no later than {date}.",
        "Ship date {date}. Ship to {customer}. {quantity} {item}. {price} each.",
        "The order is {quantity} {item}. The buyer is {customer}. Each is {price}. We want it {date}.",
        "Following our talk, I order {quantity} {item} at {price} each for {date}. Sincerely, {customer}",
        "Please add {customer} to the list: {quantity} {item}, {date}, {price} per unit.",
        "For {price} each, {customer} is happy to take {quantity} {item} on {date}.",
        "By {date}, {quantity} {item} have to be with {customer}. You charge {price} each.",
        "Request: {item}. How many: {quantity}. Unit price: {price}. When: {date}. Who: {customer}.",
        "I am {customer}. {quantity} {item} were offered to me at {price} each; I take them for {date}.",
        "Reserve the {item} for {customer}. We need {quantity}, each at {price}, on {date}.",
        "{quantity} {item} at {price} each should reach {customer} by {date}, please.",
        "Our customer {customer} has decided on {quantity} {item}, {price} each, delivery on {date}.",
        "Write up {quantity} {item} at {price} apiece under the name {customer}, to go out {date}.",
        "Could {quantity} {item} be here on {date}? I pay {price} for each. Many thanks, {customer}",
        "On behalf of {customer} I order {item}, {quantity} pieces, {price} each, to come on {date}.",
    ),
}
DISTRACTORS: dict[Part, tuple[str, ...]] = {
    "train": (
        "Call {other} at {phone} with any questions.",
        "Last time {other} took {count} {other_item}.",
        "Our reference is {reference}.",
        "The invoice of {other_date} is paid.",
        "{other} from accounting is in copy.",
        "We still have {count} {other_item} in stock.",
        "The gate code is {phone}.",
        "Please ignore the mail of {other_date}.",
        "{other} will sign for it at dock {count}.",
        "Your ticket number was {reference}.",
        "We saw {other_item} for {other_price} in your shop window.",
        "Shipping should stay below {other_price} in all.",
        "The {other_item} from {other_date} were fine.",
        "We move to room {count} soon.",
        "I met {other} at the fair.",
        "Use account {reference} for this.",
        "Our fax is {phone}.",
        "{other} says hello.",
        "No {other_item} this time, please.",
        "We closed the books on {other_date}.",
        "{other} returned {count} {other_item} on {other_date}.",
        "The meeting with {other} is on {other_date}.",
        "By the way, {other} paid {other_price} for {other_item} last year.",
        "Our stock of {other_item} is down to {count}.",
        "{other} joins us from {other_date}.",
        "Your driver {other} came late on {other_date}.",
        "The contract of {other_date} still holds.",
        "We paid {other_price} for parking.",
        "A catalogue would be nice too, says {other}.",
        "Last year's {other_item} came to {other_price}.",
        "{other} cancelled the {other_item} on {other_date}.",
        "Our new address is {count} Hill Road.",
        "The credit note of {other_price} was received.",
        "The number {phone} does not work any more.",
        "Delivery note {reference} has the signature of {other}.",
        "We counted {count} {other_item} after the delivery of {other_date}.",
        "{other} complained about the {other_item}.",
        "The sample of {other_item} cost {other_price}.",
        "An offer for {count} {other_item} will follow.",
        "{other} ordered {count} {other_item} for {other_price} each from somebody else.",
    ),
    "heldout": (
        "If I am out, ask for {other} on {phone}.",
        "My colleague {other} bought {other_item} from you on {other_date}.",
        "File it under {reference}.",
        "The {count} {other_item} are no longer needed.",
        "The other offer was {other_price}, too much for us.",
        "{other} is on holiday until {other_date}.",
        "It is building {count}, second door.",
        "Quote {reference} on the parcel.",
        "A deposit of {other_price} was made by {other}.",
        "The last parcel came {other_date}.",
    ),
}


def draw(body: str, draws: Draws) -> Drawn:
    """A mail: the order between or beside one or two sentences about other things."""
    customer, item, quantity = full_name(draws), draws.pick(PRODUCTS), draws.number(10, 199)
    (whole, cents), day = price(draws), draws.date()
    facts = {
        "customer": customer,
        "item": item,
        "quantity": quantity,
        "price": written_price(draws, whole, cents),
        "date": written_date(draws, day),
    }
    said = [body.format(**facts)]
    others = draws.random.sample(DISTRACTORS[draws.part], draws.one_of([1, 1, 2]))
    for sentence in others:
        said.insert(draws.one_of([0, len(said)]), sentence.format(**distractions(draws)))
    order = {
        "customer": customer,
        "item": item,
        "quantity": quantity,
        "price": whole + cents / 100 if cents else whole,
        "date": iso(day),
    }
    return Drawn(joined(said), json.dumps(order), order)


def joined(sentences: list[str]) -> str:
    """One text; what follows a signature begins a new line, as in mails."""
    text = sentences[0]
    for sentence in sentences[1:]:
        text += (" " if text[-1] in ".?!" else "\n") + sentence
    return text


def distractions(draws: Draws) -> dict[str, object]:
    """Values for a sentence that has nothing to do with the order."""
    return {
        "other": full_name(draws),
        "other_item": draws.pick(PRODUCTS),
        "other_date": written_date(draws, draws.date()),
        "other_price": written_price(draws, *price(draws)),
        "count": draws.number(10, 199),
        "phone": f"{draws.number(200, 999)}-{draws.number(1000, 9999)}",
        "reference": f"{draws.one_of('ABCDEFGH')}-{draws.number(10_000, 99_999)}",
    }


def written_price(draws: Draws, whole: int, cents: int) -> str:
    """$12.75, 12.75 dollars or USD 12.75."""
    amount = f"{whole}.{cents:02}" if cents else str(whole)
    return draws.one_of([f"${amount}", f"{amount} dollars", f"USD {amount}"])


ORDERS = Family(
    name="orders",
    about="mails to orders as JSON with five fields, beside distractors",
    kind="json",
    system=SYSTEM,
    max_tokens=80,
    templates=BODIES,
    draw=draw,
)
