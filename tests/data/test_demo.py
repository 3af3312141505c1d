"""The built-in rows: no prompt twice, sixteen kinds in equal parts, and answers that are true."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ift.data.demo import CAPITALS, SORTED, SPELLED, demo_rows, normalised

ROWS = demo_rows()


def of(category: str, pattern: str) -> list[re.Match[str]]:
    """The pattern on "instruction | input => output" of each row of the kind, where it matches."""
    texts = [f"{r['instruction']} | {r['input']} => {r['output']}" for r in ROWS if r["category"] == category]
    found = [match for text in texts if (match := re.search(pattern, text))]
    assert len(found) >= 30  # a pattern that matches nothing would prove nothing
    return found


@pytest.mark.parametrize("rows", [ROWS, demo_rows(20_000, seed=1)], ids=["default", "20,000 rows"])
def test_no_prompt_comes_twice_even_without_case_and_punctuation(rows):
    assert len({normalised(row) for row in rows}) == len(rows)


def test_a_prompt_is_compared_by_its_letters_and_digits():
    assert normalised({"instruction": "Add them, please.", "input": "2 and 3"}) == "addthemplease2and3"


def test_equal_arguments_give_equal_rows_and_another_seed_gives_others():
    assert demo_rows(200, seed=7) == demo_rows(200, seed=7)
    assert demo_rows(200, seed=7) != demo_rows(200, seed=8)
    assert demo_rows(200) == ROWS[:200]


def test_sixteen_kinds_share_the_rows_equally():
    assert Counter(Counter(row["category"] for row in ROWS).values()) == {250: 16}


def test_more_rows_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(ValueError, match=r"demo_rows: 1000000 rows are more than the \d+ there are"):
        demo_rows(1_000_000)


def test_rows_come_with_and_without_input_and_no_field_is_left_open():
    assert 1_000 < sum(row["input"] != "" for row in ROWS) < 3_000
    for row in ROWS:
        assert list(row) == ["instruction", "input", "output", "category"]
        assert row["instruction"]
        assert row["output"]
        for text in row.values():
            assert text == text.strip()
            assert not re.search(r"[{}|]|=>|\s\s|\n", text)


def test_each_kind_is_asked_in_many_ways():
    for category in {row["category"] for row in ROWS}:
        openings = {row["instruction"].split()[0] for row in ROWS if row["category"] == category}
        assert len(openings) >= 5, category


def test_sums_and_differences_add_up():
    for match in of("sum", r"The sum of (\d+) and (\d+) is (\d+)"):
        x, y, z = map(int, match.groups())
        assert x + y == z
    for match in of("sum", r"The difference of (\d+) and (\d+) is (\d+)"):
        x, y, z = map(int, match.groups())
        assert x - y == z > 0


def test_sorted_answers_hold_the_same_things_in_order():
    for match in of("ordering", r"(\d+, \d+, \d+).*=> The order is (.*)\."):
        given, answer = ([int(n) for n in re.findall(r"\d+", text)] for text in match.groups())
        assert sorted(given) == answer
    for match in of("sorting", r"(\w+, \w+, \w+).*=> The order is (.*)\."):
        given, answer = (text.split(", ") for text in match.groups())
        assert sorted(given) == answer
    words = SORTED.split(", ")
    assert len({word[0] for word in words}) == len(words)


def test_spelled_words_are_their_letters():
    for match in of("spelling", r"The word (\w+) is spelled ([\w ]+)\."):
        assert match[1] == match[2].replace(" ", "")
    for match in of("spelling", r"The word (\w+) begins with (\w)\."):
        assert match[1][0] == match[2]
    for match in of("spelling", r"The word (\w+) ends with (\w)\."):
        assert match[1][-1] == match[2]
    assert all(len(set(word)) == len(word) for word in re.findall(r"\w+", SPELLED))


def test_counts_are_the_numbers_of_things():
    number = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    for match in of("counting", r"(\w+(?:, \w+)+).*=> .*\b(two|three|four|five|six)\b"):
        assert len(match[1].split(", ")) == number[match[2]]


def test_units_are_multiplied_out():
    size = {"minutes": 60, "hours": 24, "days": 7, "months": 12, "centimetres": 100}
    for match in of("unit", r"There are (\d+) (\w+) in (\d+) "):
        assert int(match[1]) == size[match[2]] * int(match[3])


def test_what_is_extracted_stands_in_the_text():
    for match in of("extraction", r"\| (.*) => The (?:person|city|colour) is (\w+)\."):
        assert match[2] in re.findall(r"\w+", match[1])


def test_passive_and_active_name_the_same_agent_deed_and_thing():
    for match in of("voice", r"\| (.*)\. => (.*)\."):
        passive, active = sorted(match.groups(), key=lambda text: " was " not in text)
        thing, verb, agent = re.fullmatch(r"(.+) was (\w+) by (.+)", passive).groups()
        assert active.lower() == f"{agent} {verb} {thing}".lower()


def test_a_capital_has_one_country_and_a_country_one_capital():
    pairs = [entry.strip().split("=") for entry in CAPITALS.split(",")]
    assert ["France", "Paris"] in pairs
    assert len({country for country, _ in pairs}) == len({city for _, city in pairs}) == len(pairs) == 24
    for match in of("capital", r"The capital of (\w+) is (\w+)\."):
        assert [match[1], match[2]] in pairs
