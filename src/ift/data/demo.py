"""The built-in data set: short everyday instructions and their answers, made here from word lists and wordings.

    demo_rows()[0]  ->  {"instruction": "Which word means the opposite of hot?", "input": "",
                         "output": "The opposite of hot is cold.", "category": "opposite"}

A kind of instruction is a list of facts and a list of wordings; a row is one fact in one wording. No two prompts are
the same, so a test prompt was never trained on, though its fact mostly was, in another wording: a model trained from
scratch can learn to follow instructions, but not a capital that stands in no training row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

DRAWS = 1000  # facts of a kind that has more of them than could be listed

Fact = dict[str, str]  # what the fields of a wording stand for; {A} is {a} with a capital first letter


def demo_rows(n: int = 4000, seed: int = 0) -> list[dict[str, str]]:
    """n rows with instruction, input ("" where there is none), output and category: the kinds in turn, while they last.

    Equal (n, seed) give equal rows. No prompt comes twice, even read without case, punctuation and white space.
    """
    rng = random.Random(seed)
    sources = {}
    for block in WORDINGS.strip().split("\n\n"):
        heading, *wordings = block.splitlines()
        name, _, usual = heading.partition(" => ")
        sources[name] = _rows_of(name, usual, wordings, list(FACTS[name](rng)), rng)
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


def _rows_of(
    category: str, usual_answer: str, wordings: list[str], facts: list[Fact], rng: random.Random
) -> Iterator[dict[str, str]]:
    """Every fact once, each in a wording drawn for it, before any comes again in its next wording."""
    deck = [(fact, rng.sample(wordings, len(wordings))) for fact in facts]
    prompts: set[str] = set()
    for turn in range(len(wordings)):
        for fact, order in rng.sample(deck, len(deck)):
            prompt, _, answer = order[turn].partition(" => ")
            instruction, _, given = prompt.partition(" | ")
            fields = fact | {key.capitalize(): value[0].upper() + value[1:] for key, value in fact.items()}
            row = {
                "instruction": instruction.format_map(fields),
                "input": given.format_map(fields),
                "output": (answer or usual_answer).format_map(fields),
                "category": category,
            }
            if (key := normalised(row)) not in prompts:
                prompts.add(key)
                yield row


def normalised(row: dict[str, str]) -> str:
    """The prompt as its letters and digits alone."""
    return "".join(c for c in (row["instruction"] + row["input"]).lower() if c.isalnum())


# -- words and facts ----------------------------------------------------------------------------------------------

OPPOSITES = """hot=cold, big=small, early=late, fast=slow, full=empty, heavy=light, happy=sad, rich=poor, strong=weak,
    hard=soft, wet=dry, clean=dirty, new=old, tall=short, loud=quiet, thick=thin, wide=narrow, true=false, deep=shallow,
    cheap=expensive, near=far, safe=dangerous, brave=cowardly, sharp=blunt"""
SYNONYMS = """large=huge, quick=rapid, glad=pleased, smart=clever, start=begin, end=finish, angry=furious, ill=sick,
    tiny=little, easy=simple, wealthy=affluent, gift=present, shout=yell, choose=pick, sleepy=tired, correct=right,
    rude=impolite, strange=odd, help=assist, answer=reply, scared=afraid, hurry=rush, error=mistake, close=shut"""
PAST = """go=went, eat=ate, see=saw, take=took, give=gave, run=ran, write=wrote, buy=bought, think=thought, find=found,
    make=made, come=came, drink=drank, sing=sang, fly=flew, know=knew, grow=grew, sleep=slept, teach=taught,
    break=broke, speak=spoke, walk=walked, stop=stopped, carry=carried"""
PLURALS = """child=children, mouse=mice, foot=feet, tooth=teeth, man=men, woman=women, goose=geese, knife=knives,
    leaf=leaves, wolf=wolves, city=cities, baby=babies, story=stories, box=boxes, bus=buses, dish=dishes,
    church=churches, potato=potatoes, hero=heroes, day=days, boy=boys, house=houses, sheep=sheep, person=people"""
MISSPELT = """recieve=receive, freind=friend, beleive=believe, wierd=weird, untill=until, tommorow=tomorrow,
    adress=address, definately=definitely, seperate=separate, occured=occurred, begining=beginning, calender=calendar,
    arguement=argument, becuase=because, goverment=government, realy=really, truely=truly, wich=which, thier=their,
    suprise=surprise, libary=library, grammer=grammar, rythm=rhythm, peice=piece"""
CAPITALS = """France=Paris, Italy=Rome, Spain=Madrid, Germany=Berlin, Portugal=Lisbon, Greece=Athens, Austria=Vienna,
    Poland=Warsaw, Norway=Oslo, Sweden=Stockholm, Finland=Helsinki, Ireland=Dublin, Hungary=Budapest, Japan=Tokyo,
    China=Beijing, Thailand=Bangkok, Egypt=Cairo, Kenya=Nairobi, Cuba=Havana, Canada=Ottawa, Peru=Lima, Chile=Santiago,
    Turkey=Ankara, Iceland=Reykjavik"""
CATEGORIES = {
    "fruit": "apple, banana, cherry, peach, pineapple",
    "vegetable": "carrot, cabbage, onion, turnip, radish",
    "animal": "horse, rabbit, goat, elephant, camel",
    "tool": "hammer, saw, drill, spanner, chisel",
    "vehicle": "truck, tram, bicycle, van, taxi",
}
UNITS = [
    ("hour", "minutes", 60),
    ("day", "hours", 24),
    ("week", "days", 7),
    ("year", "months", 12),
    ("metre", "centimetres", 100),
]
SPELLED = """bird, cloud, dog, fish, gold, hand, juice, king, lemon, music, night, paint, quick, rain, salt, train,
    under, world, young, zebra"""  # no letter comes twice
SORTED = "ant, bear, cow, duck, fox, lion, monkey, tiger"  # each has a first letter of its own
NAMES = "Anna, Ben, Clara, David, Emma, Tom"
CITIES = "Boston, Chicago, Geneva, Milan, Toronto"
COLOURS = "red, blue, yellow, white, black"
THINGS = "books, lamps, chairs, hats, cups, bags"
NUMBERS = "zero one two three four five six seven eight nine ten".split()
AGENTS = """the farmer, the teacher, my uncle, the girl, our neighbour, the old man, a student, my sister, the guests,
    a stranger, the mayor, the nurse"""
DEEDS = """painted=the door, washed=the car, cleaned=the kitchen, opened=the letter, found=the key, repaired=the roof,
    carried=the piano, watched=the film, built=the wall, sold=the boat, moved=the table, cooked=the soup"""
HABITS = """plays=play=the piano, drinks=drink=coffee, reads=read=the newspaper, likes=like=spicy food,
    lives=live=near the park, works=work=at the bank, speaks=speak=Italian, sings=sing=in a choir, drives=drive=a bus,
    needs=need=a new coat, wears=wear=glasses, collects=collect=stamps"""


def _list(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


def _pairs(table: str) -> Callable[[random.Random], Iterable[Fact]]:
    """a=b of each entry."""
    return lambda rng: [dict(zip("ab", entry.split("="), strict=True)) for entry in _list(table)]


def _an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _letters(rng: random.Random) -> Iterator[Fact]:
    for word in _list(SPELLED):
        yield {"a": word, "letters": " ".join(word), "first": word[0], "last": word[-1]}


def _categories(rng: random.Random) -> Iterator[Fact]:
    for category, words in CATEGORIES.items():
        for word in _list(words):
            other = rng.choice([name for name in CATEGORIES if name != category])
            one, two = rng.sample([category, other], 2)
            yield {"a": word, "an": _an(word), "b": _an(category), "one": _an(one), "two": _an(two)}


def _units(rng: random.Random) -> Iterator[Fact]:
    for unit, parts, size in UNITS:
        for n in range(2, 7):
            yield {"n": str(n), "unit": f"{unit}s", "parts": parts, "m": str(n * size)}


def _word_lists(rng: random.Random) -> Iterator[Fact]:
    for _ in range(DRAWS):
        words = rng.sample(_list(SORTED), 3)
        yield {"words": ", ".join(words), "sorted": ", ".join(sorted(words))}


def _number_lists(rng: random.Random) -> Iterator[Fact]:
    for _ in range(DRAWS):
        numbers = rng.sample(range(10, 90, 10), 3)
        up = [str(number) for number in sorted(numbers)]
        yield {"numbers": ", ".join(map(str, numbers)), "up": ", ".join(up)}


def _baskets(rng: random.Random) -> Iterator[Fact]:
    for _ in range(DRAWS):
        n = rng.randint(2, 6)
        yield {"things": ", ".join(rng.sample(_list(THINGS), n)), "n": NUMBERS[n]}


def _sums(rng: random.Random) -> Iterator[Fact]:
    for z in range(4, 10):
        for x in range(2, z - 1):
            numbers = {"x": x, "y": z - x, "z": z}
            story = {"name": rng.choice(_list(NAMES)), "things": rng.choice(_list(THINGS))}
            yield {key: str(value) for key, value in numbers.items()} | story


def _purchases(rng: random.Random) -> Iterator[Fact]:
    lists = {"name": NAMES, "city": CITIES, "colour": COLOURS, "things": THINGS}
    for _ in range(DRAWS):
        fact = {key: rng.choice(_list(words)) for key, words in lists.items()}
        carrier = rng.choice(
            [
                "Yesterday my friend {name} bought {colour} {things} in {city}.",
                "This morning my cousin {name} sold {colour} {things} to a shop in {city}.",
                "In {city}, my neighbour {name} found {colour} {things} at the market.",
                "My friend {name} has sent {colour} {things} to an aunt in {city}.",
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

FACTS: dict[str, Callable[[random.Random], Iterable[Fact]]] = {
    "opposite": _pairs(OPPOSITES),
    "synonym": _pairs(SYNONYMS),
    "past tense": _pairs(PAST),
    "plural": _pairs(PLURALS),
    "correction": _pairs(MISSPELT),
    "spelling": _letters,
    "sorting": _word_lists,
    "ordering": _number_lists,
    "extraction": _purchases,
    "sum": _sums,
    "voice": _deeds,
    "rewriting": _habits,
    "counting": _baskets,
    "category": _categories,
    "capital": _pairs(CAPITALS),
    "unit": _units,
}

# A kind and its usual answer, then its wordings: "instruction", "instruction | input", or either with " => answer".
WORDINGS = """
opposite => The opposite of {a} is {b}.
What is the opposite of {a}?
Tell me the opposite of the word "{a}", please.
Give the opposite of the word below. | {a}
Find an antonym for this word. | {a}
Which word means the opposite of {a}?
Please name an antonym of {a}.
I am looking for a word that means the reverse of "{a}". Can you help?
Complete the sentence. | The opposite of {a} is ...
Which adjective is the contrary of {a}?
Antonym of {a}? => It is {b}.
If something is not {a} at all, what is it? => It is {b}.

synonym => Another word for {a} is {b}.
What is another word for {a}?
Give me a synonym for "{a}".
Suggest a word with the same meaning. | {a}
Could you find a synonym for the word {a}?
Name a word that means nearly the same as {a}.
What can I write instead of {a}?
Which word is close in meaning to "{a}"?
I keep using the word "{a}". What else could I say?
Replace this word by one of equal meaning. | {a}
Please offer one synonym of the given word. | {a}
Synonym for {a}? => It is {b}.
Replace {a} by a word that means the same. => It is {b}.

past tense => The past tense of {a} is {b}.
What is the past tense of {a}?
Put the verb in the past tense. | {a}
Turn this verb into its past form. | {a}
How do you say "{a}" in the past tense?
Please give the simple past of the verb "{a}".
Write down the past form of {a}.
I need this verb in the past. | {a}
The verb is "{a}". Which form do I need for yesterday?
Can you tell me the past form of "to {a}"?
Fill in the past of "{a}": Yesterday they ... => Yesterday they {b} ...
Today they {a}, and yesterday? => Yesterday they {b} ...

plural => The plural of {a} is {b}.
What is the plural of {a}?
Write the plural form of this noun. | {a}
Make the noun plural. | {a}
How do I write "{a}" if there is more than one?
Please tell me the plural form of "{a}".
Give me the plural of {a}, please.
Change the noun from one to many. | {a}
Which form of the word {a} is used for several of them?
Could you turn "{a}" into a plural, please?
Here is one {a}. What do I call two of them? => There are two {b}.
There was one {a}, then another came. What is there now? => There are two {b}.

correction => The correct spelling is {b}.
Correct the spelling of this word. | {a}
This word contains a mistake. Please fix it. | {a}
How should "{a}" be spelled?
I wrote "{a}" in a letter. What is the right spelling?
Find and repair the spelling error. | {a}
Someone typed "{a}". What did they mean to write?
Please check the spelling of the word "{a}".
Write {a} without the mistake.
Is "{a}" spelled correctly? => No, it should be {b}.
Did I spell this word right? | {a} => No, it should be {b}.
Fix the typo in {a}.

spelling => The word {a} is spelled {letters}.
Spell the word "{a}" letter by letter.
How do you spell {a}?
Please spell the following word. | {a}
Split this word into its letters. | {a}
Say {a} one letter at a time.
What letter does {a} begin with? => The word {a} begins with {first}.
Name the first letter of the given word. | {a} => The word {a} begins with {first}.
With which letter does "{a}" start? => The word {a} begins with {first}.
I look for {a} in a dictionary. Under which letter is it? => The word {a} begins with {first}.
Which letter comes last in {a}? => The word {a} ends with {last}.
Tell me the last letter of this word. | {a} => The word {a} ends with {last}.
What is the final letter of "{a}"? => The word {a} ends with {last}.
How does the word {a} end? Give me one letter. => The word {a} ends with {last}.

sorting => The order is {sorted}.
Sort these words alphabetically. | Animals: {words}
Put the words into alphabetical order. | Animals: {words}
Arrange the list from A to Z. | Animals: {words}
Please order the following words by the alphabet. | Animals: {words}
Could you sort {words} from A to Z?
Which order would a dictionary give these words? | Animals: {words}
I want this list in alphabetical order: {words}
Alphabetise: {words}.

ordering => The order is {up}.
Sort these numbers from smallest to largest. | Numbers: {numbers}
Put the numbers in ascending order. | Numbers: {numbers}
Please arrange the numbers {numbers} so that the smallest comes first.
Which order do these numbers have on a ruler? | Numbers: {numbers}
Can you list {numbers} from low to high?
List the numbers again, the smallest one first. | Numbers: {numbers}
I drew {numbers}. How do they go from low to high?
Order these numbers, please. | Numbers: {numbers}
I have the numbers {numbers}. Write them down in rising order.

extraction => The person is {name}.
Which person is mentioned in the text? | {text}
Extract the name of the person. | {text}
Who is this sentence about? | {text}
Somebody is named here. Who? | {text}
Find the city in this sentence. | {text} => The city is {city}.
Which city does the text name? | {text} => The city is {city}.
Pick out the name of the city. | {text} => The city is {city}.
What colour is mentioned? | {text} => The colour is {colour}.
Pick out the word for a colour. | {text} => The colour is {colour}.
Which colour do the things have? | {text} => The colour is {colour}.
Name the colour of the things in this sentence. | {text} => The colour is {colour}.

sum => The sum of {x} and {y} is {z}.
What is {x} plus {y}?
Add the two numbers. | {x} and {y}
Please add {x} and {y}.
Find the sum of {x} and {y}.
How much is {x} + {y}?
{name} has {x} {things} and gets {y} more. How many is that? => The sum of {x} and {y} is {z}.
What is {z} minus {x}? => The difference of {z} and {x} is {y}.
Find the difference of {z} and {x}. => The difference of {z} and {x} is {y}.
From {z} take {x}. => The difference of {z} and {x} is {y}.
Work out the difference. | {z} and {x} => The difference of {z} and {x} is {y}.
Subtract the second number from the first. | {z} and {x} => The difference of {z} and {x} is {y}.
{name} had {z} {things} and gave away {x}. How many are left? => The difference of {z} and {x} is {y}.

voice => {Passive}
Change the sentence to the passive voice. | {Active}
Rewrite this in the passive. | {Active}
How would you say this in the passive voice? | {Active}
Please turn this active sentence into a passive one. | {Active}
Make the object the subject of the sentence. | {Active}
Change the sentence to the active voice. | {Passive} => {Active}
Rewrite this in the active voice. | {Passive} => {Active}
Please turn this passive sentence into an active one. | {Passive} => {Active}
Say first who did it: use the active voice. | {Passive} => {Active}

rewriting => Does {who} {rest}?
Turn this statement into a question. | {Text}
Ask whether this is true. | {Text}
Please make a yes-or-no question out of the sentence. | {Text}
Rewrite the sentence as a question. | {Text}
Make the sentence negative. | {Text} => {Who} does not {rest}.
Please deny this statement. | {Text} => {Who} does not {rest}.
Rewrite the sentence so that it says the contrary, with the word "not". | {Text} => {Who} does not {rest}.
Put the sentence into the future tense. | {Text} => {Who} will {rest}.
Say the same about next year, with the word "will". | {Text} => {Who} will {rest}.

counting => There are {n} items in the list.
How many items are in this list? | {things}
Count the words. | {things} => There are {n} words.
Please count the things listed here. | {things}
What is the length of the list? | {things}
How many kinds of things are these: {things}? => These are {n} kinds of things.
Can you count what I have in my shop? I sell {things}. => You sell {n} kinds of things.
Count the entries: {things}

category => {An} is {b}.
What kind of thing is {an}?
Which category does the word belong to: fruit, vegetable, animal, tool or vehicle? | {a}
Classify the word "{a}".
Is {an} {one} or {two}?
Please sort this word into a group. | {a}
Tell me what {an} is, in general terms.
Decide whether this is {one} or {two}. | {a}
Into which class would you put {an}?
What sort of thing does this word name? | {a}
Say in one sentence what {an} is.
Name the category: {a}

capital => The capital of {a} is {b}.
What is the capital of {a}?
Name the capital city of this country. | {a}
Which city is the capital of {a}?
Can you tell me the capital of {a}, please?
I am learning about {a}. What is its capital called?
Tell me which city is the capital. | {a}
Give the capital of the country below. | {a}
{b} is the capital of which country? => The capital of {a} is {b}.
Name the country that has this capital. | {b} => The capital of {a} is {b}.
A quiz asks for the capital of {a}. What do I write? => It is {b}.
Capital of {a}? => It is {b}.

unit => There are {m} {parts} in {n} {unit}.
How many {parts} are there in {n} {unit}?
Convert {n} {unit} to {parts}.
Express the amount in {parts}. | {n} {unit}
Please change {n} {unit} into {parts}.
I have {n} {unit}. How much is that in {parts}?
What do {n} {unit} come to when counted in {parts}?
Work out how many {parts} make {n} {unit}.
{N} {unit}: how many {parts} is that?
Give this length of time or distance in {parts}. | {n} {unit}
The plan says {n} {unit}. Say it in {parts}.
Convert to {parts}. | {n} {unit}
"""
