"""One JSON object that holds rows: which it is, and when it is a row itself."""

import pytest

from ift.data.reading.json_layouts import Ambiguous, rows_of

ROWS = [{"instruction": f"Say {i}", "input": None, "output": f"It is {i}"} for i in range(3)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        ({"data": ROWS}, []),
        ({"version": 1, "status": "ok", "rows": ROWS, "tags": ["x"]}, ["version", "status", "tags"]),
        ({"schema": {"fields": [{"name": "instruction"}]}, "data": ROWS}, ["schema"]),
        (COLUMNS, []),
        ({name: {str(i): text for i, text in enumerate(texts)} for name, texts in COLUMNS.items()}, []),
        ({str(i): row for i, row in enumerate(ROWS)}, []),
        ({"columns": list(COLUMNS), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}, []),
    ],
    ids=["one key", "one key among others", "table", "lists", "columns", "index", "split"],
)
def test_the_rows_of_each_layout_come_out_and_what_stands_beside_them_is_named(value, beside):
    rows, others = rows_of(value)
    assert (list(rows), others) == (ROWS, beside)


@pytest.mark.parametrize(
    "value",
    [
        {"columns": list(COLUMNS), "index": ["x", "y", "z"], "data": [list(row.values()) for row in ROWS]},
        {name: dict(zip("xyz", texts, strict=True)) for name, texts in COLUMNS.items()},
        dict(zip("xyz", ROWS, strict=True)),
    ],
)
def test_labels_of_rows_that_say_something_are_a_column(value):
    rows, _ = rows_of(value)
    assert list(rows) == [{"index": label, **row} for label, row in zip("xyz", ROWS, strict=True)]


@pytest.mark.parametrize(
    "row",
    [
        {},
        ROWS[0],
        {"messages": TALK, "tools": [{"type": "function"}]},
        {"tools": [{"type": "function"}], "messages": TALK},
        {"dialog": TALK},
        {"prompt": TALK[:1], "completion": TALK[1:]},
        {"conversations": ["a", "b"], "tags": ["x", "y"]},
        {"conversations": {"from": ["human", "gpt"], "value": ["a", "b"]}},
        {"question": "a", "answer": "b", "documents": [{"title": "c"}]},
        {"message": "Not Found", "documentation_url": "https://example.com"},
    ],
)
def test_an_object_that_has_what_a_row_has_is_one(row):
    assert rows_of(row) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"train": ROWS, "test": ROWS},
            r'lists of rows under 2 keys: "train", "test" \(save each in a file of its own',
        ),
        ({"reply": {"data": ROWS}}, r'its rows under "reply", in there under "data" \(save that list alone\)'),
        ({"data": [["a", "b"]]}, r'lists of values without names under "data" \(write each row as an object\)'),
        ({"columns": ["a", "b"], "data": [[1]]}, r'rows under "data" that have not one value for each of "columns"'),
    ],
)
def test_what_could_be_read_in_several_ways_is_an_error(value, message):
    with pytest.raises(Ambiguous, match=message):
        rows_of(value)
