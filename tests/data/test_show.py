"""What a row looks like in a terminal."""

import pytest

from ift.data.contract.examples import make_example
from ift.data.reading.rows import Row
from ift.data.show import show_example
from ift.text.templates import Segment, Template

TEMPLATE = Template("small", (Segment("Q:{instruction} A:"), Segment("{output}", supervised=True)))


@pytest.mark.parametrize(
    ("marks", "max_length", "shown"),
    [
        ({}, 100, [("Q:who A:", "dim"), ("▸me", "green"), ("⏎", "bold green")]),
        ({"unlearnt": (0,)}, 100, [("Q:who A:me", "dim"), ("⏎", "dim")]),
        ({"unlearnt_parts": ((0, 0, 1),)}, 100, [("Q:who A:m", "dim"), ("▸e", "green"), ("⏎", "bold green")]),
        ({"unlearnt_parts": ((0, 1, 2),)}, 100, [("Q:who A:", "dim"), ("▸m", "green"), ("e", "dim"), ("⏎", "dim")]),
        ({}, 9, [("Q:who A:", "dim"), ("▸m", "green"), ("✂", "bold red")]),
    ],
)
def test_an_end_is_learnt_or_stands_there_unlearnt_or_is_cut_off(byte_tokenizer, marks, max_length, shown):
    row = Row("who", "", "me", file="f.json", number=1, **marks)
    example = make_example(row, TEMPLATE, byte_tokenizer, max_length=max_length, too_long="truncate_response")
    text = show_example(example, byte_tokenizer)
    assert [(text.plain[span.start : span.end], span.style) for span in text.spans] == shown
