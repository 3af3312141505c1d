"""What templates of every page work with: texts in pieces of prose and code."""

import pytest

from ift.pages.page import blocks


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("plain\ntext", [(False, "plain\ntext")]),
        ("", []),
        ("see\n```python\nx = 1\n```\ndone", [(False, "see"), (True, "x = 1"), (False, "done")]),
        ("```\na\n```\n```\nb\n```", [(True, "a"), (True, "b")]),
        ("```py\nnever closed", [(True, "never closed")]),
        ("use ``` inside a line", [(False, "use ``` inside a line")]),
        ("  indented\n", [(False, "  indented\n")]),
    ],
)
def test_code_stands_between_lines_of_three_backquotes(text, pieces):
    assert blocks(text, 1000) == pieces


def test_a_long_text_loses_its_end_and_says_how_much():
    assert blocks(2345 * "x", 1000) == [(False, 1000 * "x"), (False, "… 1,345 more characters")]
