"""JSON in other layouts than one list or lines: rows in one object of any size, lists in lists, lists in lines."""

import json
import tracemalloc

import pytest

from ift.data.reading.containers import read_records
from ift.data.reading.json_records import decode
from ift.errors import DataError

ROWS = [{"instruction": f"Say {i}", "output": "x" * 500} for i in range(4000)]  # 2 MB, more than a row may have
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def read(path):
    beside = []
    return [row for _, row in read_records(path, note=beside.append)], beside


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        ({"version": 1, "data": ROWS, "info": {"x": [1]}}, ["version", "info"]),
        ({name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}, []),
        ({"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}, []),
        ({name: [row[name] for row in ROWS] for name in ROWS[0]}, []),
        ([ROWS[:7], ROWS[7:]], []),
    ],
    ids=["data", "columns", "split", "lists", "nested"],
)
@pytest.mark.parametrize("rows", [len(ROWS), 9])
def test_a_layout_is_the_same_for_few_rows_and_for_more_than_fit_one(write, value, beside, rows):
    if rows < len(ROWS):
        text = json.dumps(value)
        value = json.loads(text)
        if isinstance(value, list):
            value = [value[0], value[1][: rows - 7]]
        elif "columns" in value or beside:
            value["data"] = value["data"][:rows]
        else:
            for name, column in value.items():
                value[name] = column[:rows] if isinstance(column, list) else dict(list(column.items())[:rows])
    assert read(write("a.json", value)) == (ROWS[:rows], beside)


def test_rows_under_a_key_are_streamed(write):
    path = write("a.json", {"data": ROWS * 15})
    assert path.stat().st_size > 30_000_000
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"data": ROWS})[:-700], "a.json:3999: the file ends in the middle of this row"),
        (
            json.dumps({"data": ROWS}).replace('"Say 3000"', "Say"),
            "a.json:3001: broken JSON in line 1: Expecting value",
        ),
        (json.dumps({"data": ROWS})[:-1] + ",}", "a.json:4000: broken JSON in line 1: a comma before the closing }"),
        (json.dumps({"data": ROWS}) + "\n[]", "a.json:4000: text after the end of the object"),
        (json.dumps({"train": ROWS, "test": ROWS}), 'lists of rows under 2 keys: "train", "test" (save each'),
        (
            '["a", "b"]\n["c", "d"]\n',
            'a.json:1: a list of 2 values, which have no names (put their names before it: ["',
        ),
        ('[["a", "b"], ["c", "d"]]', "a.json:1: a list of 2 values, which have no names"),
        ('["instruction", "output"]\n["c"]\n', "a.json:2: 1 values for 2 names (give one for each)"),
    ],
)
def test_what_is_wrong_with_a_layout_is_said_with_its_row(write, content, message):
    path = write("a.json", content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ['["question", "answer"]\n["a", "b"]\n', '[["question", "answer"], ["a", "b"]]'])
def test_values_have_the_names_of_the_first_list(write, content):
    assert read(write("a.json", content))[0] == [{"question": "a", "answer": "b"}]


@pytest.mark.parametrize("content", [json.dumps([TALK, TALK]), f"{json.dumps(TALK)}\n{json.dumps(TALK)}\n"])
def test_a_bare_list_of_messages_is_a_conversation(write, content):
    assert read(write("a.json", content))[0] == [{"messages": TALK}] * 2


@pytest.mark.parametrize("indent", [None, 1])
def test_one_row_is_a_file_of_one_row_however_it_is_spelled(write, indent):
    row = {"tools": [{"type": "function"}], "messages": TALK}
    assert read(write("a.json", json.dumps(row, indent=indent)))[0] == [row]


def test_a_first_line_that_is_too_long_is_stepped_over_as_any_other(write):
    long = {"tags": ["x" * 100] * 20_000}
    (first, second), _ = read(write("a.jsonl", f"{json.dumps(long)}\n{json.dumps(ROWS[0])}\n"))
    assert first.reason == "2,080,010 bytes, more than 1,000,000 in one row"
    assert second == ROWS[0]


def test_nan_is_null_as_pandas_means_it(write):
    assert read(write("a.jsonl", '{"a": NaN, "b": [1, NaN], "c": {"d": NaN}}'))[0] == [
        {"a": None, "b": [1, None], "c": {"d": None}}
    ]


def test_a_whole_text_is_one_value_with_nan_as_null():
    assert decode(' {"a": [NaN, 1]}\n') == {"a": [None, 1]}
    for text in ("1 2", '{"a": 1, "a": 2}', '{"a": Infinity}', ""):
        with pytest.raises(ValueError, match=r"."):
            decode(text)
