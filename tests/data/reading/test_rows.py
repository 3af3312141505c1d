import json
import math
from datetime import date

import pytest

from ift.data.reading.rows import BadRow, Dropped, Row, format_of, make_row, read_stored_rows
from ift.data.reading.window import Unreadable
from ift.errors import DataError
from ift.run import read_jsonl, write_jsonl

FIELDS = {name: name for name in ("instruction", "input", "output", "system", "category", "messages", "conversations")}


def row_of(record, **fields):
    return make_row(record, {**FIELDS, **fields}, file="f", number=4)


def test_the_file_may_have_names_of_its_own():
    record = {"question": "Why?", "completion": "So.", "input": "not asked for", "kind": "short"}
    row = row_of(record, instruction="question", input="context", output="completion", category="kind")
    assert row == Row("Why?", "", "So.", file="f", number=4, category="short")


@pytest.mark.parametrize("record", [{"input": None}, {}, {"input": ""}])
def test_a_missing_or_null_input_is_an_empty_one(record):
    assert row_of({"instruction": "a", "output": "b", **record}) == Row("a", "", "b", file="f", number=4)


def test_an_input_alone_is_a_row():
    assert row_of({"instruction": "", "input": "2+2=", "output": "4"}) == Row("", "2+2=", "4", file="f", number=4)


def test_text_is_kept_as_it_stands_white_space_included():
    record = {"instruction": " a ", "input": "\n", "output": "b\n"}
    assert row_of(record) == Row(" a ", "\n", "b\n", file="f", number=4)


def turns(*texts, names=("user", "assistant"), role="role", content="content"):
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATION = Row("And 2+2?", "", "4", file="f", number=4, system="Be brief.", history=(("1+1?", "2"),))


@pytest.mark.parametrize(
    ("record", "kind", "row"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca", Row("a", "", "b", file="f", number=4)),
        (
            {"instruction": "a", "output": "b", "system": "s"},
            "alpaca",
            Row("a", "", "b", file="f", number=4, system="s"),
        ),
        ({"prompt": "a", "completion": "b"}, "prompt", Row("a", "", "b", file="f", number=4)),
        ({"messages": turns("a", "b")}, "messages", Row("a", "", "b", file="f", number=4)),
        ({"messages": [SYSTEM, *turns("1+1?", "2", "And 2+2?", "4")]}, "messages", CONVERSATION),
        ({"messages": turns("a", "b"), "prompt": "a"}, "messages", Row("a", "", "b", file="f", number=4)),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *turns("a", "b")[1:]]},
            "messages",
            Row("a", "", "b", file="f", number=4),
        ),
        (
            {"conversations": turns("a", "b", names=("human", "gpt"), role="from", content="value")},
            "conversations",
            Row("a", "", "b", file="f", number=4),
        ),
        (
            {
                "system": "Be brief.",
                "conversations": turns(
                    "1+1?", "2", "And 2+2?", "4", names=("human", "gpt"), role="from", content="value"
                ),
            },
            "conversations",
            CONVERSATION,
        ),
    ],
)
def test_each_known_format_is_told_by_its_keys(record, kind, row):
    assert format_of(record, FIELDS) == kind
    assert row_of(record) == row


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"instruction": "a"}, {"messages": "a"}, {"prompt": "a"}])
def test_anything_else_has_no_format(record):
    assert format_of(record, FIELDS) is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "turns are none, not user and assistant in turn, assistant last"),
        (turns("a"), "turns are user, not user and assistant in turn, assistant last"),
        (turns("a", "b", "c"), "turns are user, assistant, user, not user and assistant in turn, assistant last"),
        (turns("a", "b")[::-1], "turns are assistant, user, not"),
        ([SYSTEM], "turns are none, not"),
        ([*turns("a", "b"), SYSTEM], "turns are user, assistant, system, not"),
        (["text"], "message 1 is text, not an object"),
        ([{"role": "tool", "content": "x"}], "message 1 is of 'tool', not of system, user or assistant"),
        ([{"content": "x"}], "message 1 is of null, not of"),
        ([{"role": [], "content": "x"}], "message 1 is of a list, not of"),
        ([{"role": "user", "content": None}], "message 1 is null, not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has parts that are not text"),
        (turns("a", " "), '"output" is empty'),
        (turns("a", " ", "b", "c"), "an answer is empty"),
        (turns(" ", "a", "b", "c"), "an instruction is empty"),
    ],
)
def test_a_conversation_that_cannot_be_used_says_why(messages, reason):
    with pytest.raises(BadRow) as caught:
        row_of({"messages": messages})
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "a"}, 'no "output" (it has: instruction; set data.fields.output=...)'),
        (
            {"prompt": "a", "output": "b"},
            'no "instruction" (it has: prompt, output; set data.fields.instruction=prompt)',
        ),
        ({}, 'no "instruction" (it has: no fields; set data.fields.instruction=...)'),
        ({"instruction": "a", "output": None}, '"output" is null, not text'),
        ({"instruction": None, "output": "b"}, '"instruction" is null, not text'),
        ({"instruction": "a", "output": 3}, '"output" is a number, not text'),
        ({"instruction": "a", "output": 0.5}, '"output" is a number, not text'),
        ({"instruction": "a", "output": True}, '"output" is true or false, not text'),
        ({"instruction": "a", "output": ["b"]}, '"output" is a list, not text'),
        ({"instruction": "a", "input": {"b": 1}, "output": "c"}, '"input" is an object, not text'),
        ({"instruction": "a", "input": 0, "output": "c"}, '"input" is a number, not text'),
        ({"instruction": "a", "output": " \n"}, '"output" is empty'),
        ({"instruction": " ", "input": "\t", "output": "b"}, "instruction and input are empty"),
        ({"instruction": "", "output": "b"}, "instruction and input are empty"),
        (
            {"instruction": "a", "output": "\ud83d"},
            '"output" holds half a character (a lone surrogate, no text in UTF-8)',
        ),
        ({"instruction": "a", "output": "b\0c"}, '"output" holds a NUL character (is it text?)'),
        (
            {"Instruction": "a", "Answer": "b"},
            'no "instruction" (it has: Instruction, Answer; set data.fields.instruction=Instruction)',
        ),
        (
            {"instruction": "a", "Answer": "b"},
            'no "output" (it has: instruction, Answer; set data.fields.output=Answer)',
        ),
        ({"instruction": "a", "output": "b", "system": 3}, '"system" is a number, not text'),
        (Unreadable("NaN is no JSON number", "{"), "NaN is no JSON number"),
        (None, "null, not an object with instruction and output"),
        (7, "a number, not an object with instruction and output"),
        ("text", "text, not an object with instruction and output"),
        (["a", "b"], "a list, not an object with instruction and output"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record, reason):
    with pytest.raises(BadRow) as caught:
        row_of(record)
    assert str(caught.value) == reason


def test_a_whole_emoji_is_no_half_character():
    assert row_of(json.loads('{"instruction": "a", "output": "\\ud83d\\ude00"}')).output == "😀"


def test_two_rows_that_say_the_same_have_the_same_digest_wherever_they_stand():
    row = Row("a", "", "b", file="f", number=1)
    assert row.digest == Row("a", "", "b", file="g", number=2, category="c").digest
    others = [
        Row("a", "b", "", file="f", number=1),
        Row("a", "", "b", file="f", number=1, system="s"),
        Row("a", "", "b", file="f", number=1, history=(("c", "d"),)),
    ]
    assert len({row.digest, *(other.digest for other in others)}) == 4


def test_the_prompt_of_a_row_is_all_text_before_its_output():
    assert CONVERSATION.prompt == "Be brief. | 1+1? | 2 | And 2+2? | "
    assert Row("a", "b", "c", file="f", number=1).prompt == "a | b"


def test_whatever_was_dropped_can_be_written_down(tmp_path):
    raw = {"day": date(2026, 11, 21), "bytes": b"ab", "half": "\ud83d!", "é": 1, "nan": [math.nan, -math.inf]}
    write_jsonl(tmp_path / "rejected.jsonl", [Dropped("f", 1, "why", raw).to_json()])
    written = {"day": "2026-11-21", "bytes": "b'ab'", "half": "?!", "é": 1, "nan": ["NaN", "-Infinity"]}
    assert read_jsonl(tmp_path / "rejected.jsonl") == [{"file": "f", "row": 1, "reason": "why", "raw": written}]


def test_rows_that_a_run_kept_come_back_as_they_were(tmp_path):
    rows = [Row("a", "", "b\u2028", file="f.json", number=3, category="c"), CONVERSATION]
    write_jsonl(tmp_path / "test.jsonl", (row.to_json() for row in rows))
    assert read_stored_rows(tmp_path / "test.jsonl") == rows
    assert set(read_jsonl(tmp_path / "test.jsonl")[0]) == {
        "instruction",
        "input",
        "output",
        "file",
        "number",
        "category",
    }
    with pytest.raises(DataError, match="no such file"):
        read_stored_rows(tmp_path / "none.jsonl")
