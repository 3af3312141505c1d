"""Columns that nothing reads are counted, named and judged: what reads like a part of a row stops the run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ift.data.reading.columns import Column, Columns, unread
from ift.data.reading.names import FORMS, setting
from ift.data.reading.rows import BadRow, Reader

NAMES = ("instruction", "input", "output", "system", "history", "category", "tools", "messages", "conversations")
LONG = "Which of the four words of row {} is not like the others?"


def columns_of(records, *, ignore=(), **fields):
    """The columns of a chunk of these records, and the line on the first that must not be left out, or None."""
    reader, columns = Reader({**dict.fromkeys(NAMES), **fields}, ignore=ignore), Columns()
    for number, value in enumerate(records, start=1):
        made = reader.forms.plan(value)
        columns.count(value, made)
        columns.look_at(value, made, reader.row(value, file="f", number=number))
    return columns.columns, unread([("f", columns.columns)])


def rows(**column):
    return [
        {"instruction": f"Say {i}.", "output": f"{i}", **{name: value(i) for name, value in column.items()}}
        for i in range(20)
    ]


@pytest.mark.parametrize(
    "value",
    [
        lambda i: i,
        lambda i: i / 7,
        lambda i: f"{i:032x}",
        lambda i: f"https://example.com/a/long/path/to/page{i}.html",
        lambda i: f"2026-11-{i + 1:02} 10:00:00 UTC on a Monday",
        lambda i: "one of the three kinds of questions" if i % 2 else "another of the three kinds of questions",
        lambda i: "ShareGPT",
        lambda i: [0.1 * i, 0.2],
        lambda i: None,
        lambda i: {"source": "web", "id": f"{i:032x}"},
        lambda i: f"### Question: Say {i}.\n### Answer: {i}",  # as Alpaca's `text` is
        lambda i: f"Say {i}.",
    ],
)
def test_numbers_labels_links_and_copies_are_named_and_stop_nothing(value):
    columns, line = columns_of(rows(extra=value))
    assert line is None
    assert columns["extra"].to_json()["used"] is None


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "passage",
            LONG.format,
            'f: column "passage" is not used, and reads like a part of the prompt (data.fields.input=passage uses it, '
            "data.ignore=[passage] leaves it out)",
        ),
        (
            "output_1",
            LONG.format,
            'f: column "output_1" is not used, and reads like another answer (data.fields.output=output_1 learns it '
            "instead, data.ignore=[output_1] leaves it out)",
        ),
        (
            "choices",
            lambda i: [f"{word} {i}" for word in ("paddle", "monsoon", "anchor", "orbit")],
            'f: column "choices" is not used, and reads like a part of the prompt (it is no plain text: write it into '
            "the question, or data.ignore=[choices] leaves it out)",
        ),
        (
            "prompt",
            lambda i: [{"role": "user", "content": LONG.format(i)}],
            'f: column "prompt" is not used, and reads like a part of the prompt (it is no plain text: ',
        ),
        (
            "上下文",
            lambda i: f"这是第{i}行的上下文,问题需要它。",
            'f: column "上下文" is not used, and reads like a part of the prompt (\'data.fields.input="上下文"\' uses',
        ),
    ],
)
def test_a_column_that_reads_like_a_part_of_the_prompt_stops_with_the_line_to_type(name, value, line):
    assert columns_of(rows(**{name: value}))[1].startswith(line)


def passages(**column):
    """Rows that a question and an answer of some length are in, with a column by the row's number."""
    return [
        {
            "question": f"What is the name of the river number {i} here?",
            "answer": f"It is called the river of number {i}.",
            **{name: value(i) for name, value in column.items()},
        }
        for i in range(24)
    ]


SCHEMA = "CREATE TABLE rivers (name TEXT)"
PASSAGE = "The river number {} rises in the hills, and it has had the same name for as long as anyone remembers."


@pytest.mark.parametrize(
    "column",
    [
        {"passage": lambda i: LONG.format(i // 4)},
        {"definition": lambda i: "Name the river."},
        {"system prompt": lambda i: "Talk as a pirate does."},
        {"persona": lambda i: "You are a pirate of few words."},
        {"schema": lambda i: SCHEMA},
        {"sql_context": lambda i: SCHEMA},
        {"instruction": lambda i: "Answer with the name only."},
        {"wiki": lambda i: PASSAGE.format(i // 4)},
        {"wiki": lambda i: PASSAGE.format(0)},
        {"passage": lambda i: PASSAGE.format(i) if i % 6 == 0 else None},
        {"notes": lambda i: PASSAGE.format(i) if i > 19 else "short"},
        {"text": lambda i: f"{PASSAGE.format(i)} What is the name of the river number {i} here?"},
        {"text": lambda i: f"{PASSAGE.format(0)} What is the name of the river number {i} here?"},
        {"source": lambda i: 5 * PASSAGE.format(i)},
    ],
)
def test_a_repeated_a_rare_and_a_mixed_text_is_no_label_and_no_copy(column):
    ((name, _),) = column.items()
    line = columns_of(passages(**column))[1]
    assert f'column "{name}" is not used, and reads like ' in line
    assert setting("data.ignore", [name]) in line


ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@pytest.mark.parametrize(
    "column",
    [
        {
            "text": lambda i: (
                f"{ALPACA}\n\n### Instruction:\nWhat is the name of the river number {i} here?\n\n### Response:"
            )
        },
        {"prompt": lambda i: f"<|im_start|>user\nWhat is the name of the river number {i} here?<|im_end|>\n"},
        {"text": lambda i: f"Assistant: It is called the river of number {i}."},
        {"user": lambda i: "John Smith" if i % 2 else "Jane Smith"},
        {"category": lambda i: "open question answering" if i % 2 else "closed question answering"},
        {"source": lambda i: f"Rivers of the World, page {i}, by somebody"},
        {"title": lambda i: f"The long river of number {i}"},
        {"header": lambda i: f"Mozilla/5.0 (X11; Linux x86_64) Gecko build {i} Firefox browser"},
        {"metadata": lambda i: {"note": PASSAGE.format(i), "by": "somebody"}},
        {"rejected_reason": lambda i: f"This was not the best answer of {i}."},
    ],
)
def test_formatted_copies_labels_and_what_is_about_the_row_stop_nothing(column):
    assert columns_of(passages(**column))[1] is None


def test_what_is_about_the_row_is_named_so():
    columns, _ = columns_of(passages(author=lambda i: f"Somebody of the town number {i}"))
    assert columns["author"].to_json()["why"] == "about the row"


@pytest.mark.parametrize(
    "columns",
    [
        {name: lambda i, name=name: f"{name}{i}" for name in "ABCD"},
        {f"option_{name}": lambda i: "yes" for name in "ab"},
        {"choices": lambda i: ["yes", "no"]},
        {"answer_choices": lambda i: ["yes", "no"]},
        {name: lambda i: "yes" for name in ("opa", "opb")},
        {"options": lambda i: {"A": "3", "B": "4"}},
    ],
)
def test_the_choices_of_a_question_stop_unless_it_holds_them(columns):
    line = columns_of(passages(**columns))[1]
    assert "into the question" in line
    assert setting("data.ignore", list(columns)) in line
    inside = [
        {**value, "question": f"{value['question']} {' '.join(map(str, value.values()))} yes no 3 4"}
        for value in passages(**columns)
    ]
    assert columns_of(inside)[1] is None


def test_the_line_names_all_columns_to_leave_out_and_those_left_out_now():
    reader_line = columns_of(passages(passage=LONG.format, wiki=PASSAGE.format, id=str), ignore=["id"])[1]
    assert reader_line.endswith("data.ignore=[id,passage,wiki] leaves all such columns out)")


def test_reasoning_is_said_to_be_of_the_answer():
    line = columns_of(passages(Complex_CoT=PASSAGE.format))[1]
    assert line == (
        'f: column "Complex_CoT" is not used, and reads like a part of the answer (write it into the answer, or '
        "data.ignore=[Complex_CoT] leaves it out)"
    )


def test_the_line_says_which_column_another_would_take_the_place_of():
    _, line = columns_of(rows(input=lambda i: f"input {i}", context=LONG.format))
    assert '(data.fields.input=context uses it in the place of "input", ' in line


def test_a_copy_of_the_messages_beside_them_is_one():
    records = [
        {
            "prompt": LONG.format(i),
            "messages": [{"role": "user", "content": LONG.format(i)}, {"role": "assistant", "content": "3"}],
        }
        for i in range(20)
    ]
    columns, line = columns_of(records)
    assert line is None
    assert columns["prompt"].to_json() == {
        "name": "prompt",
        "used": None,
        "rows": 20,
        "why": "a copy of what is used",
        "example": LONG.format(0),
    }


def test_columns_add_up_over_chunks():
    first, _ = columns_of(rows(extra=lambda i: i, passage=LONG.format))
    second, _ = columns_of(rows(extra=lambda i: None, passage=LONG.format))
    first["extra"].add(second["extra"])
    first["passage"].add(second["passage"])
    assert first["extra"].to_json()["rows"] == 20
    assert (first["passage"].rows, first["passage"].texts) == (40, 40)
    assert Column("a", rows=3).to_json() == {
        "name": "a",
        "used": None,
        "rows": 3,
        "why": "labels, numbers, names or links",
    }


# -- the law ---------------------------------------------------------------------------------------------------------

TEXT = st.integers(0, 10**6).map("which word of the long list is number {}?".format)
COLUMNS = st.sampled_from(
    "instruction input output context response question answer system_prompt system prompt completion inputs targets "
    "query id passage choices text output_1 message_1 message_2 original_question Output problem solution".split()
)


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(FORMS), pair=st.tuples(TEXT, TEXT), more=st.dictionaries(COLUMNS, TEXT, max_size=4))
def test_the_text_of_every_column_is_in_the_row_or_the_column_is_named_as_not_used(form, pair, more):
    record = {**more, **dict(zip(form[1:], pair, strict=True))}
    reader = Reader(dict.fromkeys(NAMES))
    try:
        row = reader.row(record, file="f", number=1)
    except BadRow:
        return
    made, columns = reader.forms.plan(record), Columns()
    columns.count(record, made)
    text = "\n".join((row.prompt, row.output, row.category))
    for name, value in record.items():
        column = columns.columns[name].to_json()
        assert column["rows"] == 1
        assert value in text if column["used"] else name in (*made.unknown, *made.known)
