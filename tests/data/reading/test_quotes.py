"""What speaks for quotes that hold texts together, and what for quotes that are characters."""

import pytest

from ift.data.reading.quotes import Evidence, are_signs
from ift.errors import DataError


def evidence(text, delimiter="\t", columns=2, *, ends=True):
    return Evidence(text, delimiter, columns, 5, ends=ends)


@pytest.mark.parametrize(
    ("text", "sign", "character"),
    [
        ('a\t"b\tc"\n', 5, 0),  # it holds a delimiter
        ('a\tb\nc\t"d\ne"\n', 6, 0),  # a line break
        ('"a ""b"""\tc\n', 5, 0),  # a doubled quote
        ('"a\tb\nc"\td\n', 0, 5),  # it would swallow two rows
        ('a\tb\n"c" d\te\n', 0, 6),  # text behind the closing quote
        ('"a\tb\n', 0, 5),  # never closed
        ('a\t"b"\nc "d"\te\n', 0, 0),  # says nothing of the two
    ],
)
def test_lines_are_named_that_need_quotes_and_that_cannot_have_them(text, sign, character):
    found = evidence(text)
    assert (found.sign, found.character) == (sign, character)


def test_a_quote_that_is_not_closed_in_what_is_seen_is_none_only_if_many_lines_are_rows_without_it():
    assert evidence('a\t"b\n', ends=False).character == 0
    assert evidence('a\t"b\n' + "c\td\n" * 9, ends=False).character == 5
    assert evidence('a\t"b\n' + "only text\n" * 9, ends=False).character == 0


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ('"a"\tb\n', False),  # no writer puts needless quotes round some texts
        ('"a"\tb\n"c"\td\n', True),  # but round a whole column
        ('"a, b"\tc\n', True),  # Excel: because of the comma
        ('"a, b"\tc, d\n', False),  # but then round this one too
        ('""\tb\n', True),  # an empty text
        ('a "b"\tc\n', False),
    ],
)
def test_without_a_line_that_decides_it_writers_habits_do(text, signs):
    assert are_signs(evidence(text), "a.tsv:1", quoted_header=False, from_first_row=True) is signs


def test_a_file_that_says_both_is_refused():
    with pytest.raises(DataError, match=r"^a.tsv:1: the quote in line 6 is a character, that in line 5 holds"):
        are_signs(evidence('a\t"b\tc"\n"d\te\n'), "a.tsv:1", quoted_header=False, from_first_row=True)
