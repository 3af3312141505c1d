"""Tables are what stands in them: delimiter, header and quotes are read off the lines, never off the file's name."""

import csv
import io

import pytest

from ift.data.reading.containers import read_records
from ift.errors import DataError

ROWS = [{"instruction": f"Say {i}.", "output": f"It is {i}, yes."} for i in range(9)]
ROWS_SHORT = [{"instruction": f"Say {i}", "output": row["output"]} for i, row in enumerate(ROWS)]
ODD = [*ROWS[:3], {"instruction": 'He said "hi"\tto me', "output": 'one\n"two"; x|y\n\nthree'}, *ROWS[3:]]


def table(rows, **how):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), **how)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read(path):
    return [row for _, row in read_records(path)]


def error_of(path):
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.data", "a"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_is_read_whatever_it_is_called_and_separated_by(write, name, delimiter, quoting):
    assert read(write(name, table(ODD, delimiter=delimiter, quoting=quoting))) == ODD


def test_excels_unicode_text_is_utf_16_with_tabs(write):
    assert read(write("a.txt", table(ODD, delimiter="\t").encode("utf-16"))) == ODD


def plain(rows):
    return "instruction\toutput\n" + "".join(f"{row['instruction']}\t{row['output']}\n" for row in rows)


@pytest.mark.parametrize(
    "odd",
    [
        [{"instruction": '"Opening, never closed', "output": "A"}, {"instruction": 'A board of 20"', "output": "B"}],
        [{"instruction": '"Start', "output": "fine"}],
        [{"instruction": '"Hello" he said', "output": '"Bye"'}],
        [{"instruction": 'What\'s "up"?', "output": '5" wide'}],
        [{"instruction": "Quote it", "output": '"To be or not"'}],
    ],
    ids=lambda odd: odd[0]["instruction"],
)
def test_where_nothing_but_characters_are_quoted_a_quote_is_one_too_and_no_line_is_merged(write, odd):
    rows = [row for each in odd for row in (*ROWS, each)]
    assert read(write("a.tsv", plain(rows))) == rows


def test_excel_quotes_each_text_with_a_comma_and_no_other(write):
    path = write("a.txt", 'instruction\toutput\nSay\t"Yes, indeed"\n"Oh, no"\tfine\n')
    assert read(path) == [
        {"instruction": "Say", "output": "Yes, indeed"},
        {"instruction": "Oh, no", "output": "fine"},
    ]
    assert read(write("b.txt", 'instruction\toutput\na, b\tc\nSay\t"Yes, indeed"\n'))[1]["output"] == '"Yes, indeed"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'a\tb\nc\t"x\ty"\nd\te\n"open\tz\nlast"\tk\n',
            "a.tsv:1: the quote in line 4 is a character, that in line 2 hold",
        ),
        (
            'a\tb\nc\t"x\ty"\n' + "d\te\n" * 70_000 + '"open\tz\nlast"\tk\n',
            "a.tsv:70002: the quote in line 70003 swallo",
        ),
        (
            'a\tb\n"c\td\n' + "e\tf\n" * 70_000 + 'g\t"h\ni"\n',
            "a.tsv:70003: line 70004 holds a quote and has 1 of 2 col",
        ),
        (
            'a\tb\n"c\td\n' + "e\tf\n" * 70_000 + 'g\t"h ""i"""\n',
            "a.tsv:70002: line 70003 doubles a quote inside a tex",
        ),
        ('a,b\nc,d\n"open,e\nf,g\n20",h\n', "a.tsv:2: the quote in line 3 swallows lines up to 5, each a row by its"),
        ("a\tb\nc\td\te\n", "a.tsv:1: more columns than the header has (does a text hold a delimiter?"),
    ],
    ids=["both", "a character far below", "a sign far below", "doubled far below", "commas", "more columns"],
)
def test_where_lines_speak_for_both_meanings_the_line_is_named(write, content, message):
    error = error_of(write("a.tsv", content))
    assert error.startswith(message)
    assert len(error) < 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("My rows\nVersion 2\ninstruction,input,output\na,b,c\nd,e,f\n", "names stand in line 3 (delete what"),
        ("My rows,,\ninstruction,input,output\na,b,c\nd,e,f\n", "a.csv:1: a title above the table, whose columns"),
        ("训练数据\n指令,输出\na,b\nc,d\n", "names stand in line 2"),
        ("How many are there?,,Three of them.\nHow few?,,Two of them.\n", "(put a line with them above it: "),
        ("a,b\n1,2\na,b\n", "a.csv:2: the header stands here again (take this line out)"),
        ("a,b,\n1,2,3\n", "a.csv:1: column 3 holds text and has no name in the header (name it there"),
        ("a,b\n1,2,3\n", "a.csv:1: more columns than the header has (quote the text)"),
        ('a,b\n1, "2, 3"\n4,5,6,7\n', "a.csv:1: more columns than the header has (take out the blank before"),
        ("My rows\n\ninstruction,input,output\na,b,c\nd,e,f\n", "names stand in line 3 (delete what"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nThe end.\n", "a.csv:1: line 5 is no row of the table (take it out)"),
        ("| a | b |\n|---|---|\n| 1 | 2 | 3 |\n", r"a.csv:1: more columns than the header has (write \| for a bar"),
    ],
)  # fmt: skip
def test_a_header_that_is_missing_or_not_in_the_first_line_is_said_to_be_that(write, content, message):
    assert message in error_of(write("a.csv", content))


def test_questions_as_names_are_a_survey_and_no_row(write):
    path = write("a.csv", "How are you?,What is it?\nfine,a thing\nwell,another\n")
    assert read(path)[0] == {"How are you?": "fine", "What is it?": "a thing"}


def test_commas_in_texts_make_no_title_of_a_line_with_the_names(write):
    rows = [{"instruction": f"Say {i}, please.", "output": "So be it."} for i in range(9)]
    assert read(write("a.tsv", plain(rows))) == rows
    assert error_of(write("a.csv", "text\nHello, world\nBye, you\nWell, so\n")).startswith("a.csv:1: more columns")


def test_prose_is_no_table(write):
    path = write("a.txt", "Once upon a time, there was\na king, who lived, and died.\nThe end.\n")
    assert error_of(path).startswith("a.txt:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins 'Once upon")


@pytest.mark.parametrize(
    ("content", "first"),
    [
        (",instruction,output\n100,a,b\n101,c,d\n", {"index": "100", "instruction": "a", "output": "b"}),
        ("\tinstruction\toutput\n0\ta\tb\n", {"index": "0", "instruction": "a", "output": "b"}),
        ("Unnamed: 0,instruction,output\n0,a,b\n", {"index": "0", "instruction": "a", "output": "b"}),
        ("instruction, output\na, \"b, c\"\n", {"instruction": "a", "output": "b, c"}),
        (" instruction ,Output (en)\na,b\n", {"instruction": "a", "Output (en)": "b"}),
        ("instruction | output\na | b\n", {"instruction": "a", "output": "b"}),
        ("instruction,output,\na,b,\n", {"instruction": "a", "output": "b"}),
        ("| instruction | output |\n|:--|--:|\n| a | b \\| c |\n", {"instruction": "a", "output": "b | c"}),
        ("instruction | output\n--- | ---\na | b\n", {"instruction": "a", "output": "b"}),
        ("text\n\"a, b\"\n", {"text": "a, b"}),
    ],
)  # fmt: skip
def test_the_names_of_columns_are_as_they_stand_without_white_space_round_them(write, content, first):
    assert read(write("a.csv", content))[0] == first


def test_a_blank_between_comma_and_quote_belongs_to_no_field_where_rows_fit_the_header_so(write):
    rows = "".join(f'Say {i}, "It is {i}, yes."\n' for i in range(9))
    assert read(write("a.csv", f"instruction,output\n{rows}")) == ROWS_SHORT
    assert read(write("b.csv", 'a,b\n1, "2"\n')) == [{"a": "1", "b": ' "2"'}]  # as it stands: it fits


def test_blank_lines_as_excel_writes_them_are_no_rows(write):
    assert read(write("a.csv", "a,b,c\n1,2,3\n,,\n , ,\n\n,5,\n,,\n")) == [
        {"a": "1", "b": "2", "c": "3"},
        {"a": "", "b": "5", "c": ""},
    ]


def test_columns_that_a_row_does_not_reach_are_none(write):
    assert read(write("a.tsv", "a\tb\nc\n")) == [{"a": "c", "b": None}]
