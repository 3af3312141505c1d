"""Names of columns in what a person is told to type."""

from ift.data.reading.names import no_such, setting


def test_a_name_that_no_row_has_names_the_nearest_that_one_has():
    line = no_such("data.fields.input=contxt", "contxt", ["a.jsonl"], ["instruction", "context"])
    assert line == "data.fields.input=contxt: no row of a.jsonl has it (nearest: context)"


def test_names_are_typed_so_that_a_shell_and_the_command_line_take_them():
    assert setting("data.fields.input", "context") == "data.fields.input=context"
    assert setting("data.fields.input", "it's") == """'data.fields.input="it'"'"'s"'"""
    assert setting("data.ignore", ["a,b"]) == """'data.ignore=["a,b"]'"""


def test_a_long_name_is_typed_whole():
    assert setting("data.ignore", ["a" * 90]) == f"data.ignore=[{'a' * 90}]"
