"""Names, products and places of the task families. No name of one part is in the other.

What is taught has many names, most of which occur once or twice, as real data do: a model that sees few names
learns them by heart instead of copying them. Most are real, as those that are asked; some are invented, so
that names of rare syllables are copied too.
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
    """Aaron, Abigail, Adam, Adele, Adrian, Ahmad, Aidan, Alan, Albert, Alexander, Alfred, Alice, Alina, Alma,
    Alvin, Amanda, Amara, Amelia, Amir, Amy, Anders, Andrea, Andrew, Angela, Anita, Ann, Anton, Arjun, Arnold,
    Arthur, Ashley, Audrey, Barbara, Beatriz, Ben, Benjamin, Bernard, Bianca, Brandon, Brenda, Brian, Bruno,
    Caleb, Cameron, Carl, Carla, Carlos, Caroline, Catherine, Cecilia, Charles, Charlotte, Chen, Chloe,
    Christian, Christina, Clara, Claudia, Colin, Connor, Craig, Cynthia, Damian, Daniel, Daphne, David, Dawn,
    Deborah, Dennis, Diana, Dominic, Donald, Dora, Doris, Dorothy, Douglas, Dylan, Edgar, Edith, Eduardo,
    Edward, Elaine, Eleanor, Elena, Eli, Elizabeth, Ellen, Emil, Emily, Eric, Erik, Ernest, Esther, Ethan,
    Eugene, Eva, Evelyn, Farah, Felix, Fernando, Fiona, Frances, Francisco, Frank, Fred, Gabriel, Gary,
    George, Gerald, Gloria, Gordon, Grace, Greta, Hamid, Hannah, Harold, Harriet, Harry, Harvey, Hassan,
    Hector, Helen, Henry, Herbert, Hiroshi, Holly, Howard, Hugo, Ian, Ibrahim, Ines, Ingrid, Irene, Iris,
    Ivan, Jack, Jacob, Jamal, James, Jane, Janet, Jasmine, Javier, Jeffrey, Jennifer, Jeremy, Jessica, Joan,
    Joel, Johanna, John, Jonathan, Jorge, Jose, Joseph, Joshua, Judith, Julia, Julian, Kamal, Karen, Karim,
    Karl, Kate, Kathleen, Keith, Kelly, Kenji, Kenneth, Kevin, Kiran, Klaus, Laila, Lars, Laura, Lauren,
    Leah, Leon, Leonard, Lewis, Linda, Lisa, Logan, Louis, Louise, Lucas, Lucia, Lucy, Luis, Luke, Magnus,
    Malik, Manuel, Marcus, Margaret, Maria, Marie, Mario, Marion, Mark, Martha, Martin, Mary, Matthew, Max,
    Megan, Mei, Melanie, Michael, Michelle, Miguel, Miriam, Mohammed, Molly, Monica, Nadia, Nancy, Naomi,
    Natalie, Nathan, Neil, Nicholas, Nicole, Nina, Noah, Nora, Norman, Olga, Oscar, Otto, Pablo, Patricia,
    Patrick, Paul, Paula, Pedro, Peter, Philip, Priya, Rachel, Rafael, Ralph, Ramon, Raymond, Rebecca, Rhys,
    Ricardo, Richard, Rita, Robert, Robin, Rodrigo, Roger, Roland, Rosa, Rose, Russell, Ryan, Sabrina,
    Samantha, Samuel, Sandra, Sanjay, Sara, Scott, Sean, Sebastian, Sergei, Sharon, Silvia, Simon, Sofia,
    Sonia, Stefan, Stephanie, Stephen, Steven, Susan, Sven, Sylvia, Tamara, Tara, Teresa, Theodore, Timothy,
    Tobias, Tomas, Tyler, Valerie, Vanessa, Victor, Victoria, Vincent, Virginia, Vivian, Wanda, Wendy,
    William, Xavier, Yusuf, Yuki, Yvonne, Zachary, Zahra""",
    """Agnes, Boris, Carmen, Diego, Emma, Fatima, Gustav, Heidi, Isaac, Jonas, Keiko, Liam, Mila, Nikhil,
    Olivia, Pavel, Quentin, Ruth, Stella, Thomas, Uma, Vera, Walter, Yasmin, Zoe""",
)
LAST_NAMES = words(
    """Adams, Adler, Ahmed, Allen, Alvarez, Anderson, Andrews, Armstrong, Arnold, Bailey, Baker, Banerjee,
    Barber, Barker, Barnes, Barrett, Bauer, Becker, Bell, Bennett, Bishop, Black, Blake, Bowen, Boyd, Bradley,
    Brandt, Brooks, Brown, Bryant, Burke, Burns, Butler, Byrne, Cameron, Campbell, Cardoso, Carlson, Carroll,
    Carter, Castillo, Castro, Chapman, Chavez, Christensen, Clark, Cohen, Cole, Collins, Conti, Cook, Cooper,
    Costa, Cox, Crawford, Cruz, Cunningham, Dalton, Davies, Davis, Dawson, Delgado, Diaz, Dixon, Doyle,
    Duncan, Dunn, Eriksson, Evans, Farrell, Fernandez, Fischer, Fisher, Fleming, Fletcher, Flores, Fontaine,
    Ford, Foster, Fowler, Fox, Franklin, Fraser, Freeman, Friedman, Garcia, Gardner, George, Gibson, Gill,
    Gonzalez, Goodman, Gordon, Graham, Grant, Gray, Green, Greene, Griffin, Gupta, Hall, Hamilton, Hansen,
    Harper, Harris, Harrison, Hart, Hassan, Hawkins, Henderson, Hernandez, Hill, Hoffman, Holland, Holmes,
    Howard, Huang, Hudson, Hughes, Hunt, Hunter, Ibrahim, Ivanov, Jackson, James, Jansen, Jenkins, Jensen,
    Johansson, Johnson, Jones, Jordan, Joshi, Kang, Kaplan, Kaur, Keller, Kelly, Kennedy, Khan, Kim, King,
    Klein, Knight, Kobayashi, Koch, Kumar, Lambert, Lane, Larsen, Larson, Lawson, Lee, Leroy, Levy, Lewis,
    Lopez, Lowe, Lynch, Malik, Marino, Marsh, Marshall, Martinez, Mason, Matthews, McCarthy, McDonald,
    Medina, Mehta, Mendoza, Meyer, Miller, Mills, Mitchell, Moore, Morales, Moreau, Moreno, Morgan, Morris,
    Morrison, Muller, Murphy, Murray, Myers, Nelson, Newman, Nguyen, Nielsen, Norris, Novak, Okafor, Ortega,
    Ortiz, Owens, Page, Palmer, Park, Parker, Patel, Patterson, Pearson, Pereira, Perez, Perry, Peters,
    Peterson, Phillips, Porter, Powell, Price, Ramirez, Ramos, Reed, Reid, Reyes, Reynolds, Rice, Richards,
    Richter, Riley, Roberts, Robinson, Rodriguez, Rogers, Romero, Rossi, Roy, Russell, Ryan, Sanchez,
    Sanders, Santos, Sato, Schmidt, Schneider, Schulz, Scott, Sharma, Shaw, Silva, Simmons, Singh, Sokolov,
    Spencer, Stein, Stevens, Stewart, Sullivan, Suzuki, Taylor, Thompson, Torres, Tucker, Turner, Vasquez,
    Wagner, Walker, Wallace, Walsh, Wang, Ward, Warren, Watson, Watts, Webb, Wells, West, White, Williams,
    Wilson, Wolf, Wong, Wood, Woods, Wright, Yamamoto, Young, Zhang""",
    """Abbott, Berg, Chandra, Dubois, Ellis, Ferrari, Gomez, Hayes, Iyer, Jacobs, Kowalski, Lindgren, Mendes,
    Nakamura, Oliver, Petrov, Quinn, Rivera, Stone, Tanaka, Underwood, Vargas, Weber, Yilmaz, Zimmer""",
)
PRODUCTS = words(
    """desk lamps, office chairs, coffee mugs, water bottles, paper towels, garden hoses, wall clocks,
    bath mats, picture frames, door handles, wool blankets, storage boxes, kitchen knives, soup bowls,
    tea towels, table cloths, candle holders, steel shelves, phone cases, printer cartridges, mouse pads,
    keyboard trays, light bulbs, extension cords, paint brushes, tool chests, safety vests, work gloves,
    rain jackets, baseball caps, running shoes, yoga mats, tennis balls, bicycle pumps, dog leashes,
    cat beds, bird feeders, flower pots, lawn mowers, picnic baskets, lunch trays, baking tins,
    cutting boards, salad tongs, wine coolers, pepper mills, bread knives, oven mitts, shower curtains,
    hand mirrors, hair dryers, laundry baskets, coat hangers, shoe racks, travel pillows, note books,
    ball pens, wall calendars, file folders, paper clips, power drills, circular saws, tape measures,
    ceiling fans, heat pumps, solar panels, battery packs, memory cards, network cables, screen protectors,
    video cameras, head phones, speaker stands, piano benches, violin bows, microphone stands,
    fishing rods, hiking poles, climbing harnesses, swimming fins, surf boards, hockey pucks, golf clubs,
    boxing pads, jump belts, skate boards, bike helmets, child seats, baby bottles, diaper pails,
    crib sheets, teddy bears, building blocks, card decks, finger puppets, crayon sets, water colours,
    clay pots, craft scissors, glue sticks, marker pens, drawing tablets, graph papers, ring binders,
    envelope packs, shipping labels, packing tapes, hand trucks, pallet jacks, traffic cones,
    fire blankets, first aid kits, smoke alarms, door bells, bicycle locks, key rings, mail boxes,
    garden gnomes, seed trays, plant stands, compost bins, leaf rakes, snow shovels, pruning shears,
    fence posts, roof tiles, floor boards, carpet squares, curtain rods, bed frames, sofa covers,
    dining tables, counter racks, cheese graters, rice cookers, coffee grinders, juice presses, egg timers,
    measuring cups, mixing spoons, rolling pins, pizza stones, cake stands, cookie jars, spice racks,
    butter dishes, milk jugs, tea kettles, beer coasters, ice trays, lunch coolers, thermos flasks,
    trash cans, floor mops, dust pans, vacuum filters, sponge packs, soap dispensers, tooth brushes,
    razor blades, nail files, bath robes, beach towels, hand creams, perfume samples, makeup mirrors,
    rubber gloves, face masks, pill organizers, heating pads, reading glasses, hearing aids, walking canes,
    cotton socks, denim jeans, summer dresses, winter coats, leather belts, felt hats, neck ties,
    dress shirts, hiking boots, house slippers, knee pads, ear plugs, sleeping bags, gas stoves, camp chairs,
    road maps, travel guides, luggage tags, car mats, tire gauges, engine oils, brake pads, spark plugs,
    tow straps, roof racks, bumper stickers, parking permits, window films, cable ties, copper pipes,
    steel bolts, wood screws, brass hinges, sand papers, wire brushes, spirit levels, chain saws,
    welding rods, ladder hooks, pressure gauges, lab coats, test tubes, petri dishes, microscope slides,
    pocket calculators, globe stands, chalk boards, school bags, pencil sharpeners, music boxes""",
    """leather wallets, beach umbrellas, pocket radios, silver spoons, jigsaw puzzles, guitar strings,
    ski goggles, canvas bags, glass vases, bar stools, camping tents, silk scarves, air filters,
    drum sticks, chess sets, toy trains, linen napkins, spray cans, metal buckets, rope ladders, photo albums,
    rubber boots, sewing kits, magnet hooks, window blinds""",
)
CITIES = words(
    """Aberdeen, Accra, Adelaide, Amman, Amsterdam, Ankara, Athens, Atlanta, Auckland, Austin, Baltimore,
    Barcelona, Basel, Beijing, Beirut, Belfast, Belgrade, Berlin, Bilbao, Birmingham, Bologna, Bordeaux,
    Boston, Brasilia, Brisbane, Bristol, Brussels, Bucharest, Budapest, Cairo, Cambridge, Canberra, Caracas,
    Cardiff, Chicago, Cleveland, Cologne, Copenhagen, Cork, Dakar, Dallas, Delhi, Denver, Detroit, Dresden,
    Dubai, Dublin, Durban, Edinburgh, Frankfurt, Geneva, Genoa, Ghent, Granada, Graz, Hamburg, Hamilton,
    Hannover, Havana, Helsinki, Houston, Istanbul, Johannesburg, Kiev, Kingston, Kyoto, Lagos, Leeds, Leipzig,
    Lille, Lima, Lisbon, Liverpool, London, Madrid, Malmo, Manchester, Manila, Marseille, Memphis, Miami,
    Milan, Minsk, Monaco, Moscow, Mumbai, Munich, Nairobi, Nantes, Naples, Nashville, Nice, Norwich, Odessa,
    Orlando, Oslo, Ottawa, Oxford, Palermo, Panama, Paris, Perth, Phoenix, Portland, Prague, Quebec, Quito,
    Reykjavik, Riga, Rome, Rotterdam, Salzburg, Seattle, Seoul, Seville, Shanghai, Sheffield, Singapore,
    Sofia, Stockholm, Stuttgart, Sydney, Taipei, Tokyo, Toledo, Toronto, Toulouse, Turin, Uppsala, Utrecht,
    Vancouver, Venice, Vienna, Vilnius, Wellington, York, Zurich""",
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
NUM_INVENTED = 100


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
    """The same, and some invented names among those that are taught."""
    more = itertools.islice(invented(seed, endings, known), NUM_INVENTED)
    return {"train": [*known["train"], *more], "heldout": known["heldout"]}


FIRST_NAMES = with_invented("first names", ("a", "o", "ie", "en", "is", "ia", "el", "an"), FIRST_NAMES)
LAST_NAMES = with_invented("last names", ("er", "man", "ic", "sen", "ov", "a", "ini", "ez"), LAST_NAMES)
CITIES = with_invented("places", ("ton", "burg", "ville", "grad", "ford", "a", "os"), CITIES)
_WITH_KINDS = (f"{kind} {name}" for kind, name in zip(itertools.cycle(_KINDS), PRODUCTS["train"]))
PRODUCTS: Words = {
    "train": [*PRODUCTS["train"], *_WITH_KINDS],
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
