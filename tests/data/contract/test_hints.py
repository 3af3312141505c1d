"""Hints about rows: each has the rows that it is about, and rows close to them that it is not about."""

import pytest

from ift.data.contract.hints import NO_VALUE, Found, hints
from ift.data.reading.rows import Row

STOP = "ends in a stop marker of older tools (###, END, ->)"
SPECIAL = "spells a special token of a model family, which stays ordinary text"
HTML, PLACE = "HTML tags or entities", "a placeholder that nothing was put into"
MOJIBAKE, ONE_WORD = "characters of a wrong encoding (Ã©, â€™)", "an answer of one word (is that wanted?)"
BEGINS, REPEATS = "the answer begins with the prompt", "the output repeats the instruction"


def told(instruction, output, own="", given=""):
    row = Row(instruction, given, output, file="f", number=1)
    return {name: found.excerpt() for name, found in hints(row, f"{row.prompt}\n{row.output}", own)}


@pytest.mark.parametrize(
    ("instruction", "output", "hint"),
    [
        ("Dear {{ first name }},", "Hello you.", PLACE),
        ("Sum up {text}.", "A short one.", PLACE),
        ("Write to {the company}!", "Dear all of you.", PLACE),
        ("Name a river.\n\n###\n\n", "the Rhine, say", STOP),
        ("Name a river ->", "the Rhine, say", STOP),
        ("Name a river.", " the Rhine END", STOP),
        ("Name a river.", "the Rhine ###", STOP),
        ("Hi", "it is me<|im_end|>", SPECIAL),
        ("Hi", "it is me</s>", SPECIAL),
        ("Hi", "it is me<|eot_id|>", SPECIAL),
        ("[INST] Hi [/INST]", "it is me", SPECIAL),
        ("<start_of_turn>user", "it is me", SPECIAL),
        ("Hi", "it is me<｜end▁of▁sentence｜>", SPECIAL),
        ("Say &amp; do", "as you like", HTML),
        ("One<br>two", "as you like", HTML),
        ("<p>One", "as you like", HTML),
        ("It is a cafÃ©", "as you like", MOJIBAKE),
        ("Itâ€™s", "as you like", MOJIBAKE),
        ("a \ufffd", "as you like", MOJIBAKE),
        ("Which river flows through Bonn?", "Which river flows through Bonn? The Rhine.", BEGINS),
        ("Which river?", " Which river?\n", REPEATS),
        ("Which river?", " Rhine\n", ONE_WORD),
    ],
)
def test_a_trace_of_another_tool_is_found_and_shown(instruction, output, hint):
    found = told(instruction, output)
    assert list(found) == [hint]
    assert found[hint].strip("…") in f"{instruction} | \n{output}"


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("What is {1, 2} and {x: 1}?", 'print(f"{n} {self.x}") in "${name}" and \\frac{a}{b}'),
        ("Is 1 < 2 & 3 > 2?", "if a <b: c<d>e, R&D; <table>"[:-8]),
        ("An END of it", "# a heading\n### another\nin the END."),
        ("NÃO", "a câmara — “naïve” Ângela"),
        ("Say it", "Say it in other words"),
        ("你好吗", "我很好"),
        ("<s> is old HTML", "<|> and <||> are none"),
    ],
)
def test_text_that_only_looks_like_one_is_left_alone(instruction, output):
    assert told(instruction, output) == {}


def test_what_the_template_itself_spells_is_told_of_once():
    assert told("<|im_start|>user", "it is me", own="<|im_start|>user\n<|im_end|>") == {}
    assert SPECIAL in told("<|im_start|>user </s>"[16:], "it is me", own="<|im_start|>user\n<|im_end|>")


@pytest.mark.parametrize("given", ["NaN", "null", " None ", "N/A", "<NA>"])
def test_an_empty_cell_that_another_program_spelled_is_told_of(given):
    assert told("Name a river.", "the Rhine", given=given) == {NO_VALUE: given}
    assert told(given, "the Rhine") == {}


def test_an_empty_cell_that_is_a_system_text_is_told_of_and_a_word_is_not():
    row = Row("Name a river.", "none of them", "the Rhine", "nan", file="f", number=1)
    assert [(name, found.text) for name, found in hints(row, row.output)] == [(NO_VALUE, "nan")]
    assert told("Name a river.", "the Rhine", given="none of them") == {}


def test_the_end_of_text_has_a_line_of_its_own():
    assert list(told("a <|endoftext|>", "it is me")) == ["spells <|endoftext|>, which stays ordinary text"]


def test_an_excerpt_is_short_shows_its_place_and_hides_what_is_secret():
    text = 200 * "a" + "HERE" + 200 * "b"
    assert Found(text, 200, 204).excerpt() == "…" + 30 * "a" + "HERE" + 30 * "b" + "…"
    assert len(Found(text, 0, 400).excerpt()) == 101
    assert Found("ab").excerpt() == "ab"
    key, address = "AKIA" + 16 * "Q", "someone@example.com"
    found = told(f"my key is {key} of {address}", "it is me")
    assert found == {"what looks like a secret key": "not shown", "an e-mail address": "not shown"}
