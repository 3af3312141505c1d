"""The text of an answer, piece by piece."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ift.generation.streaming import TextStream


def streamed(data: bytes, stops: list[str]) -> tuple[list[str], int]:
    """The pieces that are shown, a byte a token, and how many tokens were taken."""
    pieces: list[str] = []
    stream = TextStream(bytes, stops, pieces.append)
    taken = next((size for size in range(1, len(data) + 1) if stream(list(data[:size]))), len(data))
    stream.end()
    return pieces, taken


def test_a_character_is_shown_when_it_is_whole():
    pieces: list[str] = []
    stream = TextStream(bytes, [], pieces.append)
    for size in range(1, len("é€😀".encode()) + 1):
        stream(list("é€😀".encode())[:size])
    assert pieces == ["é", "€", "😀"]


@pytest.mark.parametrize(
    ("text", "stops", "pieces"),
    [
        ("a\n#b", ["\n##"], ["a", "\n#b"]),  # what may be a stop string waits, and comes when it is none
        ("a\n##b", ["\n##"], ["a"]),
        ("aab", ["ab"], ["a"]),  # a beginning within a beginning
        ("ab", ["", "b"], ["a"]),  # an empty one stops nothing
        ("a\n#", ["\n##"], ["a", "\n#"]),  # the answer ends while it waits
    ],
)
def test_a_stop_string_is_no_part_of_an_answer(text, stops, pieces):
    assert streamed(text.encode(), stops)[0] == pieces


def test_an_answer_ends_at_the_token_that_completes_a_stop_string():
    assert streamed(b"one, two", [", "]) == (["o", "n", "e"], 5)


def test_half_a_character_at_the_end_is_shown_as_one():
    assert streamed("é€".encode()[:-1], []) == (["é", "\ufffd"], 4)


@given(st.text(alphabet="ab\né😀", max_size=30), st.lists(st.text(alphabet="ab\né", max_size=3), max_size=3))
def test_all_pieces_are_the_text_before_the_stop_string_that_is_complete_first(text, stops):
    ends = sorted(place + len(stop) for stop in filter(None, stops) if (place := text.find(stop)) >= 0)
    whole = text[: ends[0]] if ends else text
    begins = [place for stop in filter(None, stops) if (place := whole.find(stop)) >= 0]
    assert "".join(streamed(text.encode(), stops)[0]) == whole[: min(begins, default=len(whole))]
