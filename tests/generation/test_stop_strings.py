"""An answer ends at the first complete stop string, wherever tokens and characters are cut."""

import pytest

from ift.generation.stop_strings import StopStrings

PIECES = {10: b"", 11: b"ab", 12: b"cEND and", 13: "é".encode()[:1], 14: "é".encode()[1:], 15: b"EN", 16: b"D"}


def decode(ids: list[int]) -> str:
    """Tokens from 32 on are their byte; those below are several bytes, none, or half a character."""
    return b"".join(PIECES.get(token, bytes([token])) for token in ids).decode(errors="replace")


def stops_at(stop: StopStrings, ids: list[int]) -> int | None:
    """Number of tokens after which an answer stops."""
    return next((n for n in range(1, len(ids) + 1) if stop(ids[:n])), None)


@pytest.mark.parametrize(
    ("texts", "ids", "tokens", "text"),
    [
        (["END"], list(b"abEND!"), 5, "ab"),
        (["END"], [11, 15, 16, 11], 3, "ab"),  # over two tokens
        (["END"], [11, 12, 11], 2, "abc"),  # in the middle of one
        (["x", "END", "b"], [97, 11, 15, 16], 2, "aa"),
        (["END"], [11, 15], None, "abEN"),  # not complete
        (["END"], list(b"E" * 30 + b"ND!"), 32, "E" * 29),  # only the end is decoded
        (["END"], [15, *[10] * 30, 16], 32, ""),  # tokens without text between
        (["é"], [11, 13, 14, 11], 3, "ab"),  # half of it is none
        (["\ufffd"], [11, 13, 14], None, "abé"),  # nor is half a character the sign that shows it
        (["END"], [*[13, 14] * 9, 15, 16], 20, "é" * 9),  # the decoded end begins with half a character
        ([""], [11, 10], None, "ab"),
        ([], [11], None, "ab"),
        (["b"], [], None, ""),
    ],
)
def test_an_answer_ends_with_the_token_that_completes_a_stop_string(texts, ids, tokens, text):
    stop = StopStrings(texts, decode)
    assert stops_at(stop, ids) == tokens
    assert stop.text(ids[:tokens]) == text


def test_text_is_cut_at_one_stop_string_after_the_other():
    """ "bc" is whole before "c" is looked for, and gone after: as lm-evaluation-harness cuts."""
    assert StopStrings(["bc", "c"], decode).text(list(b"abcd")) == "a"
    assert StopStrings(["c", "bc"], decode).text(list(b"abcd")) == "ab"


@pytest.mark.parametrize(
    ("written", "tokens", "text"),
    [
        (b"A: yes|no", 7, " yes"),
        (b"A:|no", 3, ""),
        (b"A", None, ""),  # the opening is not complete
        (b"B:|", 3, "B:"),  # another beginning is the answer's own
    ],
)
def test_an_opening_is_no_part_of_the_answer_and_nothing_stops_within_it(written, tokens, text):
    stop = StopStrings(["|", "A:"], decode, opening="A:")
    assert stops_at(stop, list(written)) == tokens
    assert stop.text(list(written)[:tokens]) == text
