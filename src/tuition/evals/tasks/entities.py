"""Names, products and places of the task families. No name of one part is in the other.

What is taught has many names that occur once or twice, as real data do: a model that sees few names learns
them by heart instead of copying them. Most of them are invented; what is asked has real ones only.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from tuition.evals.tasks.family import Draws, Words


def words(train: str, heldout: str) -> Words:
    """Entities separated by commas."""
    return {
        "train": [" ".join(word.split()) for word in train.split(",")],
        "heldout": [" ".join(word.split()) for word in heldout.split(",")],
    }


FIRST_NAMES = words(
    """Adam, Alice, Amara, Anders, Anita, Arthur, Beatriz, Bruno, Carla, Chen, Clara, Colin, Daniel, Dora,
    Edith, Elena, Emil, Erik, Farah, Felix, Fiona, Frank, George, Grace, Hannah, Hassan, Helen, Hugo, Ingrid,
    Irene, Ivan, Jack, Jamal, Janet, Julia, Karim, Karl, Kate, Laura, Leon, Lucy, Marcus, Maria, Martin, Mei,
    Nadia, Nathan, Nora, Olga, Oscar, Paula, Peter, Priya, Ralph, Rosa, Samuel, Sara, Simon, Tara, Victor""",
    """Agnes, Boris, Carmen, Diego, Emma, Fatima, Gustav, Heidi, Isaac, Jonas, Keiko, Liam, Mila, Nikhil,
    Olivia, Pavel, Quentin, Ruth, Stella, Thomas, Uma, Vera, Walter, Yasmin, Zoe""",
)
LAST_NAMES = words(
    """Adler, Ahmed, Andrews, Baker, Barnes, Becker, Bennett, Brandt, Carter, Castro, Clark, Cooper, Costa,
    Dawson, Diaz, Dixon, Evans, Fischer, Fleming, Foster, Garcia, Gibson, Gray, Hansen, Harper, Hoffman,
    Hughes, Ivanov, Jensen, Johnson, Kaur, Keller, Kelly, Khan, Lambert, Larsen, Lewis, Lopez, Marsh, Mason,
    Meyer, Miller, Moreno, Murphy, Nelson, Novak, Owens, Palmer, Parker, Patel, Price, Reed, Rossi, Russell,
    Santos, Schmidt, Shaw, Silva, Turner, Watson""",
    """Abbott, Berg, Chandra, Dubois, Ellis, Ferrari, Gomez, Hayes, Iyer, Jacobs, Kowalski, Lindgren, Mendes,
    Nakamura, Oliver, Petrov, Quinn, Rivera, Stone, Tanaka, Underwood, Vargas, Weber, Yilmaz, Zimmer""",
)
PRODUCTS = words(
    """desk lamps, office chairs, coffee mugs, water bottles, paper towels, garden hoses, wall clocks,
    bath mats, picture frames, door handles, wool blankets, storage boxes, kitchen knives, soup bowls,
    tea towels, table cloths, candle holders, steel shelves, phone cases, printer cartridges, mouse pads,
    keyboard trays, light bulbs, extension cords, paint brushes, tool boxes, safety vests, work gloves,
    rain jackets, baseball caps, running shoes, yoga mats, tennis balls, bicycle pumps, dog leashes,
    cat beds, bird feeders, flower pots, lawn chairs, picnic baskets, lunch boxes, baking trays,
    cutting boards, salad tongs, wine glasses, pepper mills, bread baskets, oven mitts, shower curtains,
    hand mirrors, hair dryers, laundry bags, coat hangers, shoe racks, travel pillows, note books,
    ball pens, desk calendars, file folders, paper clips""",
    """leather wallets, beach umbrellas, pocket radios, silver spoons, jigsaw puzzles, guitar strings,
    ski goggles, canvas bags, glass vases, bar stools, camping tents, silk scarves, air filters,
    drum sticks, chess sets, toy trains, linen napkins, spray cans, metal buckets, rope ladders, photo albums,
    rubber boots, sewing kits, magnet hooks, window blinds""",
)
CITIES = words(
    """Amsterdam, Athens, Barcelona, Berlin, Boston, Brussels, Budapest, Cairo, Chicago, Copenhagen, Dallas,
    Denver, Dublin, Geneva, Hamburg, Helsinki, Istanbul, Lagos, Lima, Lisbon, London, Madrid, Manila, Miami,
    Milan, Mumbai, Munich, Nairobi, Naples, Oslo, Paris, Prague, Rome, Seattle, Seoul, Stockholm, Sydney,
    Toronto, Vienna, Zurich""",
    """Antwerp, Bangkok, Bogota, Calgary, Florence, Glasgow, Hanoi, Jakarta, Krakow, Lyon, Melbourne,
    Montreal, Osaka, Porto, Santiago, Tallinn, Tunis, Valencia, Warsaw, Zagreb""",
)
_ONSETS = (
    "b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r", "s", "sk", "st",
    "t", "tr", "v", "w", "y", "z",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ia")
_KINDS = (
    "red", "blue", "green", "black", "white", "yellow", "small", "large", "wide", "narrow", "heavy", "light",
    "used", "new", "spare", "plain", "striped", "round", "square", "folding", "printed", "oak", "pine",
    "bamboo", "cotton", "copper", "brass", "plastic", "felt", "cork",
)  # fmt: skip
NUM_INVENTED = 400


def invented(seed: str, endings: Sequence[str], known: Words) -> Iterator[str]:
    """Names that nobody knows: two or three syllables and an ending; none of `known`."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    taken = {*known["train"], *known["heldout"]}
    while True:
        syllables = [draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(draw.choice((1, 2)))]
        name = ("".join(syllables) + draw.choice(_ONSETS) + draw.choice(endings)).capitalize()
        if name not in taken and len(name) >= 4:
            taken.add(name)
            yield name


def with_invented(seed: str, endings: Sequence[str], known: Words) -> Words:
    """The same, and many invented names among those that are taught."""
    more = itertools.islice(invented(seed, endings, known), NUM_INVENTED)
    return {"train": [*known["train"], *more], "heldout": known["heldout"]}


FIRST_NAMES = with_invented("first names", ("a", "o", "ie", "en", "is", "ia", "el", "an"), FIRST_NAMES)
LAST_NAMES = with_invented("last names", ("er", "man", "ic", "sen", "ov", "a", "ini", "ez"), LAST_NAMES)
CITIES = with_invented("places", ("ton", "burg", "ville", "grad", "ford", "a", "os"), CITIES)
PRODUCTS: Words = {
    "train": [*PRODUCTS["train"], *(f"{kind} {product}" for kind in _KINDS for product in PRODUCTS["train"])],
    "heldout": PRODUCTS["heldout"],
}
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def full_name(draws: Draws) -> str:
    """First and last name."""
    return f"{draws.pick(FIRST_NAMES)} {draws.pick(LAST_NAMES)}"


def price(draws: Draws) -> tuple[int, int]:
    """Whole units and hundredths; the hundredths are 0 or end in another digit than 0."""
    whole = draws.number(3, 199)
    cents = draws.one_of([0, draws.number(11, 99)])
    return whole, cents if cents % 10 else 0


def iso(day: tuple[int, int, int]) -> str:
    """YYYY-MM-DD."""
    return "{:04}-{:02}-{:02}".format(*day)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, ..."""
    ending = "th" if number // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def written_date(draws: Draws, day: tuple[int, int, int]) -> str:
    """One of the ways in which people write a date that can be read in one way only."""
    year, month, number = day
    name = MONTHS[month - 1]
    ways = (
        f"{name} {number}, {year}",
        f"{number} {name} {year}",
        f"{name[:3]} {number}, {year}",
        f"the {ordinal(number)} of {name} {year}",
        f"{year}/{month:02}/{number:02}",
    )
    return draws.one_of(ways)
