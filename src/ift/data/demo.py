"""The built-in data set: short everyday instructions and their answers, made here from word lists and wordings.

    demo_rows(3)  ->  [{"instruction": "Give the opposite of the word below.", "input": "early",
                        "output": "The opposite of early is late.", "category": "opposite"}, ...]

A kind of instruction is a list of facts and a list of wordings; a row is one fact in one wording. No two prompts are
the same, so a test prompt was never trained on, though its fact mostly was, in other words: a model that starts from
nothing can learn to do as it is told, not to know a capital nobody told it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Fact = dict[str, str]  # what the fields of a wording stand for; {A} is {a} with a capital first letter


@dataclass(frozen=True)
class Kind:
    """
    answer: what answers a wording that brings no answer of its own
    wordings: one a line, as "instruction", "instruction | input" or either with " => answer"
    """

    answer: str
    wordings: str
    facts: Callable[[random.Random], Iterable[Fact]]


def demo_rows(n: int = 4000, seed: int = 0) -> list[dict[str, str]]:
    """n rows with instruction, input ("" where there is none), output and category: the kinds in turn, while they last.

    Equal (n, seed) give equal rows. No prompt comes twice, even read without case, punctuation and white space.
    """
    rng = random.Random(seed)
    sources = {name: _rows_of(name, kind, rng) for name, kind in KINDS.items()}
    rows: list[dict[str, str]] = []
    while len(rows) < n:
        for name in list(sources):
            row = next(sources[name], None)
            if row is None:
                del sources[name]
            else:
                rows.append(row)
        if not sources:
            raise ValueError(f"demo_rows: {n} rows are more than the {len(rows)} there are")
    return rows[:n]


def _rows_of(category: str, kind: Kind, rng: random.Random) -> Iterator[dict[str, str]]:
    """Every fact once, each in a wording drawn for it, before any comes again in its next wording."""
    wordings = [line.strip() for line in kind.wordings.strip().splitlines()]
    deck = [(fact, rng.sample(wordings, len(wordings))) for fact in kind.facts(rng)]
    said: set[str] = set()
    for turn in range(len(wordings)):
        for fact, order in rng.sample(deck, len(deck)):
            prompt, _, answer = order[turn].partition(" => ")
            instruction, _, given = prompt.partition(" | ")
            fields = fact | {key.capitalize(): value[0].upper() + value[1:] for key, value in fact.items()}
            row = {
                "instruction": instruction.format_map(fields),
                "input": given.format_map(fields),
                "output": (answer or kind.answer).format_map(fields),
                "category": category,
            }
            if (key := normalised(row)) not in said:
                said.add(key)
                yield row


def normalised(row: dict[str, str]) -> str:
    """The prompt as its letters and digits alone."""
    return "".join(c for c in (row["instruction"] + row["input"]).lower() if c.isalnum())


# -- words and facts ----------------------------------------------------------------------------------------------

OPPOSITES = """hot=cold, big=small, early=late, fast=slow, open=closed, full=empty, heavy=light, happy=sad, rich=poor,
    strong=weak, hard=soft, wet=dry, clean=dirty, old=new, tall=short, loud=quiet, thick=thin, wide=narrow, true=false,
    deep=shallow, cheap=expensive, near=far, sharp=blunt, brave=cowardly, polite=rude, safe=dangerous, awake=asleep,
    sweet=bitter, smooth=rough, tight=loose, simple=complicated, guilty=innocent, public=private, ancient=modern"""
SYNONYMS = """big=large, fast=quick, happy=glad, smart=clever, begin=start, end=finish, angry=mad, ill=sick, tiny=small,
    easy=simple, hard=difficult, rich=wealthy, brave=bold, gift=present, shout=yell, choose=pick, sleepy=tired,
    correct=right, quiet=silent, strange=odd, buy=purchase, help=assist, answer=reply, scared=afraid, hurry=rush,
    famous=well-known, error=mistake, street=road, build=construct, close=shut, odd=unusual, pretty=beautiful"""
PAST = """go=went, eat=ate, see=saw, take=took, give=gave, run=ran, write=wrote, buy=bought, think=thought, find=found,
    make=made, come=came, drink=drank, sing=sang, swim=swam, fly=flew, know=knew, grow=grew, sleep=slept, teach=taught,
    catch=caught, break=broke, speak=spoke, drive=drove, begin=began, lose=lost, send=sent, build=built, walk=walked,
    play=played, stop=stopped, carry=carried, plan=planned, study=studied, visit=visited, hope=hoped"""
PLURALS = """child=children, mouse=mice, foot=feet, tooth=teeth, man=men, woman=women, goose=geese, knife=knives,
    leaf=leaves, wolf=wolves, city=cities, baby=babies, party=parties, story=stories, box=boxes, bus=buses, dish=dishes,
    church=churches, glass=glasses, potato=potatoes, tomato=tomatoes, hero=heroes, day=days, key=keys, boy=boys,
    book=books, house=houses, tree=trees, car=cars, sheep=sheep, fish=fish, deer=deer, person=people, shelf=shelves"""
MISSPELT = """recieve=receive, freind=friend, beleive=believe, wierd=weird, untill=until, tommorow=tomorrow,
    adress=address, definately=definitely, seperate=separate, occured=occurred, begining=beginning, accomodate=accommodate,
    arguement=argument, calender=calendar, becuase=because, goverment=government, neccessary=necessary, realy=really,
    truely=truly, wich=which, thier=their, suprise=surprise, libary=library, enviroment=environment, grammer=grammar,
    existance=existence, happend=happened, rythm=rhythm, knowlege=knowledge, writting=writing, peice=piece, buisness=business"""
CAPITALS = """France=Paris, Italy=Rome, Spain=Madrid, Germany=Berlin, Portugal=Lisbon, Greece=Athens, Austria=Vienna,
    Poland=Warsaw, Norway=Oslo, Sweden=Stockholm, Finland=Helsinki, Denmark=Copenhagen, Ireland=Dublin, Hungary=Budapest,
    Japan=Tokyo, China=Beijing, India=New Delhi, Thailand=Bangkok, Egypt=Cairo, Kenya=Nairobi, Ghana=Accra, Cuba=Havana,
    Canada=Ottawa, Mexico=Mexico City, Peru=Lima, Chile=Santiago, Brazil=Brasilia, Argentina=Buenos Aires, Turkey=Ankara,
    Australia=Canberra, Iceland=Reykjavik, Belgium=Brussels, Vietnam=Hanoi, Morocco=Rabat"""
CATEGORIES = {
    "fruit": "apple, banana, cherry, peach, plum, pineapple, mango",
    "vegetable": "carrot, cabbage, onion, turnip, parsnip, radish",
    "animal": "horse, rabbit, goat, elephant, fox, camel, squirrel",
    "tool": "hammer, saw, drill, spanner, screwdriver, chisel",
    "vehicle": "truck, tram, bicycle, van, taxi, motorbike",
    "instrument": "violin, piano, trumpet, flute, guitar, cello",
}
UNITS = [  # one of these is so many of those
    ("hour", "minutes", 60), ("day", "hours", 24), ("week", "days", 7), ("year", "months", 12), ("metre", "centimetres", 100),
    ("kilogram", "grams", 1000), ("foot", "inches", 12), ("yard", "feet", 3), ("decade", "years", 10),
]  # fmt: skip
SPELLED = """cat, dog, milk, bread, tree, house, river, garden, window, table, music, sugar, paper, green, stone, cloud,
    horse, lemon, water, train, pencil, winter, flower, orange, silver, button, doctor, jacket, kitten, market"""
SORTED = [  # in each list every word has a first letter of its own
    "apple, banana, cherry, fig, grape, kiwi, lemon, mango, orange, plum",
    "ant, bear, cat, dog, eagle, fox, goat, horse, lion, mouse, rabbit, snake, tiger, wolf",
]
NAMES = "Anna, Ben, Clara, David, Emma, Frank, Grace, Henry, Julia, Kate, Leo, Maria, Oscar, Paul, Rosa, Tom"
CITIES = "Boston, Chicago, Dublin, Glasgow, London, Madrid, Milan, Oslo, Paris, Tokyo, Toronto, Vienna"
COLOURS = "red, blue, green, yellow, white, black, brown, purple"
THINGS = "books, lamps, chairs, hats, cups, bags, plates, boxes, clocks, pens"
DAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
AGENTS = """the farmer, the teacher, my uncle, the girl, our neighbour, the old man, a student, my sister, the guests,
    the boys, a stranger, the mayor, the nurse, his brother"""
DEEDS = """painted=the door, washed=the car, cleaned=the kitchen, opened=the letter, baked=the bread, found=the key,
    repaired=the roof, carried=the piano, closed=the window, watched=the film, built=the wall, bought=the lamp,
    moved=the table, lost=the map, cooked=the soup, sold=the boat"""
HABITS = """plays=play=the piano, drinks=drink=coffee, reads=read=the newspaper, likes=like=spicy food, lives=live=near the park,
    works=work=at the bank, speaks=speak=Italian, walks=walk=to school, sings=sing=in a choir, drives=drive=a bus,
    needs=need=a new coat, knows=know=the answer, wears=wear=glasses, grows=grow=tomatoes, collects=collect=stamps,
    teaches=teach=history"""


def _list(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


def _pairs(table: str) -> Callable[[random.Random], Iterable[Fact]]:
    """a=b of each entry."""
    return lambda rng: [dict(zip("ab", entry.split("="), strict=True)) for entry in _list(table)]


def _an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _letters(rng: random.Random) -> Iterator[Fact]:
    for word in _list(SPELLED):
        yield {"a": word, "letters": "-".join(word), "first": word[0], "last": word[-1]}


def _categories(rng: random.Random) -> Iterator[Fact]:
    for category, words in CATEGORIES.items():
        for word in _list(words):
            other = rng.choice([name for name in CATEGORIES if name != category])
            one, two = rng.sample([category, other], 2)
            yield {"a": word, "an": _an(word), "b": _an(category), "c": category, "one": _an(one), "two": _an(two)}


def _units(rng: random.Random) -> Iterator[Fact]:
    for unit, parts, size in UNITS:
        for n in range(2, 9):
            yield {"n": str(n), "unit": "feet" if unit == "foot" else f"{unit}s", "parts": parts, "m": str(n * size)}


def _word_lists(rng: random.Random) -> Iterator[Fact]:
    for _ in range(600):
        words = rng.sample(_list(rng.choice(SORTED)), rng.choice([3, 4]))
        yield {"words": ", ".join(words), "sorted": ", ".join(sorted(words))}


def _number_lists(rng: random.Random) -> Iterator[Fact]:
    for _ in range(600):
        numbers = rng.sample(range(1, 31), rng.choice([3, 4]))
        up = [str(number) for number in sorted(numbers)]
        yield {"numbers": ", ".join(map(str, numbers)), "up": ", ".join(up), "down": ", ".join(reversed(up))}


def _baskets(rng: random.Random) -> Iterator[Fact]:
    for _ in range(600):
        n = rng.randint(2, 6)
        yield {"things": ", ".join(rng.sample(_list(THINGS), n)), "n": NUMBERS[n]}


def _sums(rng: random.Random) -> Iterator[Fact]:
    for x in range(2, 11):
        for y in range(2, 11):
            numbers = {"x": x, "y": y, "z": x + y}
            words = {f"{key}w": NUMBERS[value] for key, value in numbers.items()}
            story = {"name": rng.choice(_list(NAMES)), "things": rng.choice(_list(THINGS))}
            yield {key: str(value) for key, value in numbers.items()} | words | story


def _purchases(rng: random.Random) -> Iterator[Fact]:
    lists = {"name": NAMES, "city": CITIES, "colour": COLOURS, "things": THINGS, "day": DAYS}
    for _ in range(600):
        fact = {key: rng.choice(_list(words)) for key, words in lists.items()} | {"n": NUMBERS[rng.randint(2, 12)]}
        carrier = rng.choice(
            [
                "{name} bought {n} {colour} {things} in {city} on {day}.",
                "On {day}, {name} sold {n} {colour} {things} to a shop in {city}.",
                "Last {day} {name} sent {n} {colour} {things} to a friend in {city}.",
                "In {city}, {name} found {n} {colour} {things} at the market on {day}.",
            ]
        )
        yield fact | {"text": carrier.format_map(fact)}


def _deeds(rng: random.Random) -> Iterator[Fact]:
    for agent in _list(AGENTS):
        for deed in _list(DEEDS):
            verb, thing = deed.split("=")
            yield {"active": f"{agent} {verb} {thing}.", "passive": f"{thing} was {verb} by {agent}."}


def _habits(rng: random.Random) -> Iterator[Fact]:
    for who in ["she", "he", *_list(NAMES)]:
        for habit in _list(HABITS):
            does, do, what = habit.split("=")
            yield {"who": who, "text": f"{who} {does} {what}.", "rest": f"{do} {what}"}


# -- kinds and wordings ---------------------------------------------------------------------------------------------

KINDS = {
    "opposite": Kind(
        "The opposite of {a} is {b}.",
        """
        What is the opposite of {a}?
        Tell me the opposite of the word "{a}", please.
        Give the opposite of the word below. | {a}
        Find an antonym for this word. | {a}
        Which word means the opposite of {a}?
        Please name an antonym of {a}.
        I am looking for a word that means the reverse of "{a}". Can you help?
        Complete the sentence. | The opposite of {a} is ...
        Antonym of {a}? Just the word. => {b}
        If something is not {a} at all, what is it? Answer in one word. => {b}
        """,
        _pairs(OPPOSITES),
    ),
    "synonym": Kind(
        "Another word for {a} is {b}.",
        """
        What is another word for {a}?
        Give me a synonym for "{a}".
        Suggest a word with the same meaning. | {a}
        Could you find a synonym for the word {a}?
        Name a word that means nearly the same as {a}.
        I keep using the word "{a}". What else could I say?
        Replace this word by one of equal meaning. | {a}
        Please offer one synonym of the given word. | {a}
        Synonym for {a}, one word only: => {b}
        """,
        _pairs(SYNONYMS),
    ),
    "past tense": Kind(
        'The past tense of "{a}" is "{b}".',
        """
        What is the past tense of {a}?
        Put the verb in the past tense. | {a}
        Turn this verb into its past form. | {a}
        How do you say "{a}" in the past tense?
        Please give the simple past of the verb "{a}".
        The verb is "{a}". Which form do I need for yesterday?
        Can you tell me the past form of "to {a}"?
        Fill in the past of "{a}": Yesterday they ... => Yesterday they {b} ...
        Change the verb so that it happened last week. | they {a} => they {b}
        """,
        _pairs(PAST),
    ),
    "plural": Kind(
        'The plural of "{a}" is "{b}".',
        """
        What is the plural of {a}?
        Write the plural form of this noun. | {a}
        Make the noun plural. | {a}
        How do I write "{a}" if there is more than one?
        Please tell me the plural form of "{a}".
        Which form of the word {a} is used for several of them?
        Could you turn "{a}" into a plural, please?
        One {a}, two ... ? => One {a}, two {b}.
        Complete the phrase. | one {a}, many ... => one {a}, many {b}
        """,
        _pairs(PLURALS),
    ),
    "correction": Kind(
        'The correct spelling is "{b}".',
        """
        Correct the spelling of this word. | {a}
        This word contains a mistake. Please fix it. | {a}
        How should "{a}" be spelled?
        I wrote "{a}" in a letter. What is the right spelling?
        Find and repair the spelling error. | {a}
        Someone typed "{a}". What did they mean to write?
        Please check the spelling of the word "{a}".
        Is "{a}" spelled correctly? => No, it should be "{b}".
        Did I spell this word right? | {a} => No, it should be "{b}".
        Fix the typo and answer with the word alone: {a} => {b}
        """,
        _pairs(MISSPELT),
    ),
    "spelling": Kind(
        'The word "{a}" is spelled {letters}.',
        """
        Spell the word "{a}" letter by letter.
        How do you spell {a}?
        Please spell the following word. | {a}
        Can you spell "{a}" for me?
        Split this word into its letters. | {a}
        I need the single letters of the word {a}.
        Write {a} with a dash between its letters. => {letters}
        What letter does "{a}" begin with? => The word "{a}" begins with the letter {first}.
        Name the first letter of the given word. | {a} => The word "{a}" begins with the letter {first}.
        Which letter comes last in "{a}"? => The word "{a}" ends with the letter {last}.
        Tell me the last letter of this word. | {a} => The word "{a}" ends with the letter {last}.
        """,
        _letters,
    ),
    "sorting": Kind(
        "{sorted}",
        """
        Sort these words alphabetically. | {words}
        Put the words into alphabetical order. | {words}
        Arrange the list from A to Z. | {words}
        Please order the following words by the alphabet. | {words}
        Could you sort {words} from A to Z?
        Which order would a dictionary give these words? | {words}
        I want this list in alphabetical order: {words}
        Alphabetise: {words}.
        """,
        _word_lists,
    ),
    "ordering": Kind(
        "{up}",
        """
        Sort these numbers from smallest to largest. | {numbers}
        Put the numbers in ascending order. | {numbers}
        Please arrange {numbers} so that the smallest comes first.
        Which order do these numbers have on a ruler? | {numbers}
        Can you list {numbers} from low to high?
        Sort these numbers from largest to smallest. | {numbers} => {down}
        Put the numbers in descending order. | {numbers} => {down}
        Please arrange {numbers} so that the largest comes first. => {down}
        """,
        _number_lists,
    ),
    "extraction": Kind(
        "{name}",
        """
        Which person is mentioned in the text? | {text}
        Extract the name of the person. | {text}
        Who is this sentence about? | {text}
        Find the city in this sentence. | {text} => {city}
        Which city does the text name? | {text} => {city}
        What colour is mentioned? | {text} => {colour}
        Pick out the word for a colour. | {text} => {colour}
        On which day of the week did this happen? | {text} => It happened on {day}.
        Please tell me the day named in the text. | {text} => It happened on {day}.
        How many things is the text about? | {text} => There are {n} {things}.
        Give the number and the kind of things. | {text} => There are {n} {things}.
        """,
        _purchases,
    ),
    "sum": Kind(
        "{x} plus {y} is {z}.",
        """
        What is {x} plus {y}?
        Add the two numbers. | {x} and {y}
        Please add {y} to {x}.
        Find the sum of {x} and {y}.
        Work out {x} + {y}. => {x} + {y} = {z}
        How much is {xw} plus {yw}? => {Xw} plus {yw} is {zw}.
        Calculate the sum and answer in words. | {xw} and {yw} => {Xw} plus {yw} is {zw}.
        What is {z} minus {x}? => {z} minus {x} is {y}.
        Take {x} away from {z}. => {z} minus {x} is {y}.
        Work out the difference. | {z} - {x} => {z} - {x} = {y}
        {name} has {x} {things} and gets {y} more. How many does {name} have now? => {name} now has {z} {things}.
        {name} had {z} {things} and gave away {x}. How many are left? => {name} has {y} {things} left.
        """,
        _sums,
    ),
    "voice": Kind(
        "{Passive}",
        """
        Change the sentence to the passive voice. | {Active}
        Rewrite this in the passive. | {Active}
        How would you say this in the passive voice? | {Active}
        Please turn this active sentence into a passive one. | {Active}
        Make the object the subject of the sentence. | {Active}
        Change the sentence to the active voice. | {Passive} => {Active}
        Rewrite this in the active voice. | {Passive} => {Active}
        Please turn this passive sentence into an active one. | {Passive} => {Active}
        Say first who did it: use the active voice. | {Passive} => {Active}
        """,
        _deeds,
    ),
    "rewriting": Kind(
        "Does {who} {rest}?",
        """
        Turn this statement into a question. | {Text}
        Ask whether this is true. | {Text}
        Please make a yes-or-no question out of the sentence. | {Text}
        Rewrite the sentence as a question. | {Text}
        Make the sentence negative. | {Text} => {Who} does not {rest}.
        Please deny this statement. | {Text} => {Who} does not {rest}.
        Rewrite the sentence so that it says the contrary, with the word "not". | {Text} => {Who} does not {rest}.
        Put the sentence into the future tense. | {Text} => {Who} will {rest}.
        Say the same about next year, with the word "will". | {Text} => {Who} will {rest}.
        """,
        _habits,
    ),
    "counting": Kind(
        "There are {n} items in the list.",
        """
        How many items are in this list? | {things}
        Count the words. | {things} => There are {n} words.
        Please count the things listed here. | {things}
        What is the length of the list? | {things}
        How many kinds of things are these: {things}? => These are {n} kinds of things.
        Can you count what I have in my shop? I sell {things}. => You sell {n} kinds of things.
        Count the entries and answer with one word: {things} => {n}
        """,
        _baskets,
    ),
    "category": Kind(
        "{An} is {b}.",
        """
        What kind of thing is {an}?
        Which category does the word belong to: fruit, vegetable, animal, tool, vehicle or instrument? | {a}
        Classify the word "{a}".
        Is {an} {one} or {two}?
        Please sort this word into a group. | {a}
        Tell me what {an} is, in general terms.
        Decide whether this is {one} or {two}. | {a}
        Into which class would you put {an}?
        Name the category, one word only: {a} => {c}
        """,
        _categories,
    ),
    "capital": Kind(
        "The capital of {a} is {b}.",
        """
        What is the capital of {a}?
        Name the capital city of this country. | {a}
        Which city is the capital of {a}?
        Can you tell me the capital of {a}, please?
        I am learning about {a}. What is its capital called?
        Give the capital of the country below. | {a}
        {b} is the capital of which country? => {b} is the capital of {a}.
        Name the country that has this capital. | {b} => {b} is the capital of {a}.
        A quiz asks for the capital of {a}. What do I write?
        Capital of {a}? Only the name. => {b}
        """,
        _pairs(CAPITALS),
    ),
    "unit": Kind(
        "There are {m} {parts} in {n} {unit}.",
        """
        How many {parts} are there in {n} {unit}?
        Convert {n} {unit} to {parts}.
        Express the amount in {parts}. | {n} {unit}
        Please change {n} {unit} into {parts}.
        I have {n} {unit}. How much is that in {parts}?
        What do {n} {unit} come to when counted in {parts}?
        Convert to {parts} and answer with the number alone. | {n} {unit} => {m}
        """,
        _units,
    ),
}
