"""Tokens in, pieces of text out: nothing lost, nothing twice, nothing of a stop string."""

import pytest

from ift.apps.serving.choices import Choice, Order, Piece
from ift.generation.engine import Generated
from ift.generation.likely import Likely
from ift.generation.sampling import GREEDY


def answered(text: str, *, stops=(), trim=False, top=None, echo=None) -> tuple[str, list[Piece]]:
    """A token a byte: the text that came, and the pieces."""
    pieces: list[Piece] = []
    order = Order(index=3, prompt=[1], max_tokens=99, sampling=GREEDY, stops=stops, trim=trim, top=top, echo=echo)
    choice = Choice(order, bytes, pieces.append)
    if echo is not None:
        choice.echo([])
    ids: list[int] = []
    for token in text.encode():
        ids.append(token)
        if top is not None:
            choice.on_likely(Likely(token, -1.0, []))
        if choice.until(ids):
            break
    choice.on_end(Generated(ids, "stop" if len(ids) < len(text.encode()) else "end"))
    assert choice.ended
    assert {piece.index for piece in pieces} == {3}
    return "".join(piece.text for piece in pieces), pieces


@pytest.mark.parametrize("text", ["plain", "ÄÖ€😀", "  a  b ", "", "\n"])
def test_the_pieces_are_the_text(text):
    assert answered(text)[0] == text
    assert answered(text, trim=True)[0] == text.strip()
    assert all(piece.text or piece.finish for piece in answered(text)[1])


def test_nothing_of_a_stop_string_comes_out():
    assert answered("one STOP two", stops=("STOP",))[0] == "one "
    assert answered("one STOP two", stops=("STOP",), trim=True)[0] == "one"
    assert answered("one STO", stops=("STOP",))[0] == "one STO"


def test_the_last_piece_says_why_and_how_many():
    last = answered("abc")[1][-1]
    assert (last.text, last.finish, last.tokens) == ("", "stop", 3)


@pytest.mark.parametrize("stops", [(), ("STOP",)])
def test_tokens_come_with_their_text_and_those_of_a_stop_string_do_not(stops):
    text, pieces = answered("a€ STOP b", stops=stops, top=0)
    scores = [score for piece in pieces for score in piece.scores]
    assert bytes(score.token for score in scores).decode() == text
    assert [score.offset for score in scores][:6] == [0, 1, 1, 1, 2, 3][: len(scores)]
    shown = 0
    for piece in pieces:  # no token before its text
        assert all(score.offset <= shown + len(piece.text) for score in piece.scores)
        shown += len(piece.text)


def test_an_echo_comes_first_and_counts():
    text, pieces = answered("ab", echo="€: ", top=0)
    assert text == "€: ab"
    assert [score.offset for piece in pieces for score in piece.scores] == [0, 3, 4]
