import io
import json
import os
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ift.data.rows import Dropped, Row, check_records, fingerprint, read_hub, read_rows, read_stored_rows
from ift.errors import DataError, MachineError
from ift.run import read_jsonl, write_jsonl

FIELDS = {"instruction": "instruction", "input": "input", "output": "output"}
RECORDS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": 'Say "é",\nplease.', "input": "", "output": "é\u2028日本"},
]


def parquet(records):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer)
    return buffer.getvalue()


def separated(records, mark):
    """CSV or TSV with every field quoted."""
    lines = [list(records[0]), *(list(record.values()) for record in records)]
    return "".join(mark.join('"' + field.replace('"', '""') + '"' for field in line) + "\r\n" for line in lines)


ARRAY = json.dumps(RECORDS, indent=1, ensure_ascii=False)
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", ARRAY),
        ("rows.jsonl", LINES),
        ("rows.json", LINES),  # told apart by what is in it, not by its name
        ("rows.jsonl", ARRAY),
        ("rows.txt", ARRAY),
        ("rows.csv", separated(RECORDS, ",")),
        ("rows.tsv", separated(RECORDS, "\t")),
        ("rows.csv", ARRAY),
        ("rows.parquet", parquet(RECORDS)),
        ("rows", parquet(RECORDS)),
        ("bom.json", b"\xef\xbb\xbf" + ARRAY.encode()),
        ("bom.csv", b"\xef\xbb\xbf" + separated(RECORDS, ",").encode()),
        ("utf16.json", ARRAY.encode("utf-16")),
        ("utf16.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be")),
        ("utf16.csv", separated(RECORDS, ",").encode("utf-16")),
        ("crlf.json", ARRAY.replace("\n", "\r\n")),
        ("crlf.jsonl", LINES.replace("\n", "\r\n")),
        ("no-last-newline.jsonl", LINES.rstrip()),
    ],
)
def test_the_same_rows_come_out_of_every_container(write, name, content):
    path = write(name, content)
    kept, dropped = read_rows(path, FIELDS)
    assert [row.to_json() for row in kept] == [
        {**record, "file": str(path), "number": number} for number, record in enumerate(RECORDS, start=1)
    ]
    assert dropped == []


def test_a_row_of_jsonl_is_numbered_by_its_line_and_any_other_by_its_place(write):
    row = json.dumps(RECORDS[0])
    assert [r.number for r in read_rows(write("a.jsonl", f"\n{row}\n\n{row}\n"), FIELDS)[0]] == [2, 4]
    assert [r.number for r in read_rows(write("a.json", f"[\n\n{row},\n\n{row}]"), FIELDS)[0]] == [1, 2]
    assert [r.number for r in read_rows(write("a.csv", 'instruction,output\n"a\nb",c\nd,e\n'), FIELDS)[0]] == [1, 2]


def test_the_file_may_have_names_of_its_own(write):
    path = write("a.json", [{"question": "Why?", "completion": "So.", "input": "not asked for"}])
    fields = {"instruction": "question", "input": "context", "output": "completion"}
    assert read_rows(path, fields)[0] == [Row("Why?", "", "So.", str(path), 1)]


@pytest.mark.parametrize("record", [{"input": None}, {}, {"input": ""}])
def test_a_missing_or_null_input_is_an_empty_one(record):
    rows = check_records([(1, {"instruction": "a", "output": "b", **record})], file="f", fields=FIELDS)
    assert rows == ([Row("a", "", "b", "f", 1)], [])


def test_an_input_alone_is_a_row():
    rows = check_records([(1, {"instruction": "", "input": "2+2=", "output": "4"})], file="f", fields=FIELDS)
    assert rows == ([Row("", "2+2=", "4", "f", 1)], [])


def test_text_is_kept_as_it_stands_white_space_included():
    record = {"instruction": " a ", "input": "\n", "output": "b\n"}
    assert check_records([(1, record)], file="f", fields=FIELDS)[0] == [Row(" a ", "\n", "b\n", "f", 1)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "a"}, 'no "output" (it has: instruction; set data.fields.output=...)'),
        ({"prompt": "a", "output": "b"}, 'no "instruction" (it has: prompt, output; set data.fields.instruction=...)'),
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
        (None, "null, not an object with instruction and output"),
        (7, "a number, not an object with instruction and output"),
        ("text", "text, not an object with instruction and output"),
        (["a", "b"], "a list, not an object with instruction and output"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_place_reason_and_text(record, reason):
    kept, dropped = check_records([(4, record)], file="f", fields=FIELDS)
    assert kept == []
    assert dropped == [Dropped("f", 4, reason, record)]


def test_rows_in_are_rows_kept_and_rows_dropped():
    records = [RECORDS[0], None, {"instruction": "a"}, RECORDS[1], 3]
    kept, dropped = check_records(enumerate(records, start=1), file="f", fields=FIELDS)
    assert [row.number for row in kept] == [1, 4]
    assert [row.row for row in dropped] == [2, 3, 5]


def test_a_whole_emoji_is_no_half_character(write):
    path = write("a.json", '[{"instruction": "a", "output": "\\ud83d\\ude00"}]')
    assert read_rows(path, FIELDS)[0][0].output == "😀"


def test_whatever_was_dropped_can_be_written_down(tmp_path):
    raw = {"day": date(2026, 11, 21), "bytes": b"ab", "half": "\ud83d!", "é": 1}
    write_jsonl(tmp_path / "rejected.jsonl", [Dropped("f", 1, "why", raw).to_json()])
    assert read_jsonl(tmp_path / "rejected.jsonl") == [
        {"file": "f", "row": 1, "reason": "why", "raw": {"day": "2026-11-21", "bytes": "b'ab'", "half": "?!", "é": 1}}
    ]


ROW = json.dumps(RECORDS[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "a.json: no rows (the file is empty)"),
        ("a.jsonl", " \n\n", "a.jsonl: no rows (the file is empty)"),
        ("a.json", "[]", "a.json: no rows (an empty list)"),
        ("a.json", " [ \n ] ", "a.json: no rows (an empty list)"),
        ("a.csv", "instruction,input,output\n", "a.csv: no rows (it has columns, and nothing in them)"),
        ("a.parquet", parquet(RECORDS[:0]), "a.parquet: no rows"),
        ("a.parquet", parquet(RECORDS)[:-9], "a.parquet: broken Parquet: "),
        ("a.json", f"[{ROW},\n {ROW}\n {ROW}]", "a.json:2: broken JSON in line 3: no comma or ] after this row"),
        ("a.json", f'[{ROW},\n {{"instruction": x}}]', "a.json:2: broken JSON in line 2: Expecting value"),
        ("a.json", f"[{ROW},\n{ROW},\n]", "a.json:2: a comma before the closing ] (take it out)"),
        ("a.json", f"[{ROW}]\n[{ROW}]", "a.json:1: text after the end of the list"),
        ("a.json", f"[{ROW},\n{ROW}", "a.json:2: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{ROW},", "a.json:3: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{ROW[:-1]}", "a.json:2: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{ROW[:-5]}", "a.json:2: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{ROW[:20]}", "a.json:2: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{{", "a.json:2: the file ends in the middle of this row"),
        ("a.jsonl", f"{ROW}\n{ROW[:20]}", "a.jsonl:2: the file ends in the middle of this row"),
        ("a.jsonl", f"{ROW}\n{ROW[:20]}\n\n", "a.jsonl:2: the file ends in the middle of this row"),
        ("a.jsonl", f"{ROW}\n{ROW[:20]}\n{ROW}\n", "a.jsonl:2: broken JSON: Unterminated string"),
        ("a.jsonl", f"{ROW}\n{ROW} {ROW}\n{ROW}\n", "a.jsonl:2: broken JSON: Extra data"),
        ("a.jsonl", "{" + '"a":[' * 100_000 + "\n" + ROW, "a.jsonl:1: broken JSON: "),
        ("a.json", "[" * 100_000, "a.json:1: broken JSON in line 1: "),
        ("a.json", f'[{{"instruction": {"9" * 5000}}}]', "a.json:1: broken JSON in line 1: "),
        ("a.json", f'{{"data": [{ROW}]}}', 'a.json:1: one JSON object, not a list of rows; its rows are under "data"'),
        ("a.json", f'{{"v": 1,\n"data": [{ROW}]}}', 'one JSON object, not a list of rows; its rows are under "data"'),
        ("a.json", '{\n"a": 1\n}', "a.json:1: one JSON object, not a list of rows (save the list alone)"),
        ("a.csv", "instruction,output\na,b,c\n", "a.csv:1: more columns than the header has"),
        ("a.csv", 'instruction,output\na,b\n"c,d\ne,f\n', "a.csv:2: broken CSV from line 3 on: unexpected end of data"),
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a.json: a Git LFS pointer"),
        ("a.json", "<!DOCTYPE html>\n<html>", "a.json:1: neither JSON, JSONL, CSV, TSV nor Parquet"),
        ("a.txt", "instruction,output\na,b\n", "a.txt:1: neither JSON, JSONL, CSV, TSV nor Parquet"),
        ("a.json", f"[{ROW},\n".encode() + b'{"instruction": "\xe9"}]', "a.json:2: byte 78 is not UTF-8"),
    ],
)
def test_a_broken_file_is_an_error_that_names_its_row(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_rows(path, FIELDS)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_single_row_is_a_file_of_rows_though_it_is_one_object(write):
    assert len(read_rows(write("a.json", ROW), FIELDS)[0]) == 1


@pytest.mark.parametrize(("name", "message"), [("none.json", "no such file"), ("", "not a file")])
def test_a_path_that_is_no_file_is_an_error(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name, FIELDS)


def test_a_named_pipe_is_no_file_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="not a file"):
        read_rows(tmp_path / "pipe.json", FIELDS)


def test_the_fingerprint_is_of_the_text_alone_and_of_its_order():
    def rows(*texts, file="f", first=1):
        return [Row(text, "", "b", file, number) for number, text in enumerate(texts, start=first)]

    assert fingerprint(rows("x", "y")) == fingerprint(rows("x", "y", file="elsewhere", first=5))
    different = [rows("x", "y"), rows("y", "x"), rows("xy"), rows("x"), rows("x", "z"), []]
    assert len({fingerprint(some) for some in different}) == len(different)
    assert fingerprint([Row("a", "", "b", "f", 1)]) != fingerprint([Row("", "a", "b", "f", 1)])


def test_rows_that_a_run_kept_come_back_as_they_were(tmp_path):
    rows = [Row("a", "", "b\nc", "f.json", 3), Row("é", "d", "日本", "f.json", 9)]
    write_jsonl(tmp_path / "test.jsonl", (row.to_json() for row in rows))
    assert read_stored_rows(tmp_path / "test.jsonl") == rows
    with pytest.raises(DataError, match="no such file"):
        read_stored_rows(tmp_path / "none.jsonl")


# ----------------------------------------------------------------------------------------------------------------------
# the Hub, through the real library and without a network


@pytest.fixture
def offline(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason='needs pip install "ift[hub]"')
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets


@pytest.mark.parametrize(("name", "content"), [("train.parquet", parquet(RECORDS)), ("train.jsonl", LINES)])
def test_the_train_split_of_a_dataset_is_read_as_a_file_is(offline, write, name, content):
    folder = str(write(f"dataset/{name}", content).parent)
    kept, dropped = read_hub(folder, FIELDS)
    assert [(row.instruction, row.input, row.output) for row in kept] == [tuple(r.values()) for r in RECORDS]
    assert [(row.file, row.number) for row in kept] == [(folder, 1), (folder, 2)]
    assert dropped == []


def test_a_dataset_has_names_of_its_own_and_rows_that_cannot_be_used_as_a_file_has(offline, write):
    records = [{"ask": "a", "answer": "b"}, {"ask": "c", "answer": None}]
    folder = write("dataset/train.parquet", parquet(records)).parent
    kept, dropped = read_hub(str(folder), {"instruction": "ask", "input": "input", "output": "answer"})
    assert [row.output for row in kept] == ["b"]
    assert [(row.row, row.reason) for row in dropped] == [(2, '"answer" is null, not text')]


@pytest.mark.parametrize("name", ["nobody/nothing", "./nothing"])
def test_a_dataset_that_cannot_be_loaded_is_an_error_with_the_way_around_it(offline, name):
    with pytest.raises(MachineError, match=rf"^{name}: not loaded from the Hub .* data.path=FILE$"):
        read_hub(name, FIELDS)
