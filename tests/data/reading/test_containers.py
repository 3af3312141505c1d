"""The laws of reading files: what goes in comes out, in bounded memory; what is broken is named with its place."""

import gzip
import io
import json
import os
import sys
import tracemalloc
from functools import partial
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ift.data.reading import containers, json_records, window
from ift.data.reading.containers import read_records
from ift.data.reading.window import Unreadable
from ift.errors import DataError, MachineError

RECORDS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": 'Say "é",\nplease.', "input": "", "output": "é\u2028日本😀"},
]
ROW = json.dumps(RECORDS[0])
HEADER = "instruction,output\n"
zipped = partial(gzip.compress, mtime=0)  # the same bytes each time: they are names of tests


def read(path, chunk=containers.CHUNK):
    """All records, with so many bytes of the file at a time; and `advance` must have added up to the file."""
    used = []
    with mock.patch.object(containers, "CHUNK", chunk):
        records = list(read_records(path, used.append))
    assert sum(used) == path.stat().st_size
    return records


def error_of(path):
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.removeprefix(str(path.parent))) <= 140  # 60 are left for the folder
    return message.removeprefix(f"{path.parent}/")


def parquet(records, **options):
    buffer = io.BytesIO()
    table = records if isinstance(records, pa.Table) else pa.Table.from_pylist(records)
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def separated(records, mark):
    """CSV or TSV with every field quoted."""
    lines = [list(records[0]), *(list(record.values()) for record in records)]
    return "".join(mark.join('"' + field.replace('"', '""') + '"' for field in line) + "\r\n" for line in lines)


LIST = json.dumps(RECORDS, indent=1, ensure_ascii=False)
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


# ----------------------------------------------------------------------------------------------------------------------
# what goes in comes out


@pytest.mark.parametrize("chunk", [1, 2, 7, 2**18])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", LIST),
        ("a.json", json.dumps(RECORDS)),  # escapes: "\ud83d\ude00"
        ("a.jsonl", LINES),
        ("a.json", LINES),  # told apart by what is in it, not by its name
        ("a.jsonl", LIST),
        ("a.txt", LIST),
        ("a.csv", LIST),
        ("a.csv", separated(RECORDS, ",")),
        ("a.tsv", separated(RECORDS, "\t")),
        ("a.csv", separated(RECORDS, ";")),  # as Excel saves it where a comma stands in numbers
        ("a.csv", separated(RECORDS, "\t")),
        ("a.csv", "sep=|\r\n" + separated(RECORDS, "|")),
        ("a.csv", "\r\n" + separated(RECORDS, ",")),
        ("a.csv", separated(RECORDS, ",").replace("\r\n", "\r")),  # of an old Macintosh
        ("a.csv.gz", zipped(separated(RECORDS, ",").encode())),
        ("a.json", zipped(LIST.encode("utf-16"))),
        ("a.jsonl.gz", b"".join(zipped(line.encode() + b"\n") for line in LINES.split("\n"))),
        ("a.parquet", parquet(RECORDS)),
        ("a", parquet(RECORDS, row_group_size=1)),
        ("a.json", b"\xef\xbb\xbf" + LIST.encode()),
        ("a.csv", b"\xef\xbb\xbf" + separated(RECORDS, ",").encode()),
        ("a.csv", b"\xff\xfe" + separated(RECORDS, ",").encode("utf-16-le")),
        ("a.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be")),
        ("a.jsonl", b"\xff\xfe\0\0" + LINES.encode("utf-32-le")),
        ("a.jsonl", LINES.replace("\n", "\r\n")),
        ("a.jsonl", LINES.rstrip()),
    ],
)
def test_the_same_records_come_out_of_every_container(write, name, content, chunk):
    assert read(write(name, content), chunk) == [(1, RECORDS[0]), (2, RECORDS[1])]


texts = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    ['"', "\\", "\\\\", "]", "},{", "😀", "é" * 9, "\u2028"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
records = st.lists(st.dictionaries(texts, values, min_size=2, max_size=5), min_size=2, max_size=5)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


def pack(text, encoding, newline, packed):
    content = text.replace("\n", newline).encode(encoding)
    return zipped(content) if packed else content


@settings(deadline=None)  # the machine may be busy
@given(
    rows=records,
    blanks=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    ascii=st.booleans(),
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
    chunk=st.integers(1, 100),
)
def test_jsonl_reads_back_as_it_was_and_each_row_has_the_number_of_its_line(
    tmp_path_factory, rows, blanks, ascii, encoding, newline, packed, chunk
):
    lines, expected = [], []
    for row, blank in zip(rows, blanks, strict=False):
        lines += [" "] * blank + [json.dumps(row, ensure_ascii=ascii)]
        expected.append((len(lines), row))
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    path.write_bytes(pack("\n".join(lines), encoding, newline, packed))
    assert read(path, chunk) == expected


@settings(deadline=None)  # the machine may be busy
@given(
    rows=st.lists(values.filter(lambda value: not isinstance(value, list)), min_size=1, max_size=5),
    indent=st.sampled_from([None, 0, 1, 4, "\t"]),
    ascii=st.booleans(),
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
    chunk=st.integers(1, 100),
)
def test_a_json_list_reads_back_as_it_was(tmp_path_factory, rows, indent, ascii, encoding, newline, packed, chunk):
    path = tmp_path_factory.getbasetemp() / "property.json"
    path.write_bytes(pack(json.dumps(rows, indent=indent, ensure_ascii=ascii), encoding, newline, packed))
    assert read(path, chunk) == list(enumerate(rows, start=1))


@settings(deadline=None)  # the machine may be busy
@given(
    rows=st.lists(
        st.tuples(texts, texts).filter(lambda row: "".join(row).replace("\0", "").strip()), min_size=1, max_size=5
    ),
    mark=st.sampled_from(",\t"),
    chunk=st.integers(1, 100),
)
def test_a_table_reads_back_as_it_was(tmp_path_factory, rows, mark, chunk):
    rows = [{"a": a.replace("\0", ""), "b;c": b.replace("\0", "")} for a, b in rows]
    path = tmp_path_factory.getbasetemp() / ("property.csv" if mark == "," else "property.tsv")
    path.write_bytes(separated(rows, mark).encode())
    assert read(path, chunk) == list(enumerate(rows, start=1))


def test_a_row_of_jsonl_is_numbered_by_its_line_and_any_other_by_its_place(write):
    assert [n for n, _ in read(write("a.jsonl", f"\n{ROW}\n\n{ROW}\n"))] == [2, 4]
    assert [n for n, _ in read(write("a.json", f"[\n\n{ROW},\n\n{ROW}]"))] == [1, 2]
    assert [n for n, _ in read(write("a.csv", 'instruction,output\n"a\nb",c\n\nd,e\n'))] == [1, 2]


def test_columns_that_a_row_does_not_reach_are_empty(write):
    assert read(write("a.csv", "a,b\nc\n")) == [(1, {"a": "c", "b": None})]


def test_a_single_row_is_a_file_of_rows_though_it_is_one_object(write):
    assert read(write("a.json", ROW)) == [(1, RECORDS[0])]


def test_half_characters_are_left_to_the_check_of_rows(write):
    assert read(write("a.jsonl", '{"a": "\\ud83d"}')) == [(1, {"a": "\ud83d"})]


# ----------------------------------------------------------------------------------------------------------------------
# memory


def rows_of_60_mb(path, before, between, after):
    row = json.dumps({"instruction": "Why?", "input": "", "output": "é word, \n" * 600}, ensure_ascii=False)
    long = json.dumps({"instruction": "[1, 2\\", "output": '"' * 8_000_000})
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        for _ in range(8000):
            file.write(row + between)
        file.write(long + between + row + after)


@pytest.mark.parametrize(("name", "marks"), [("a.jsonl", ("", "\n", "\n")), ("a.json", ("[", ",\n", "]"))])
def test_a_file_of_60_mb_is_read_in_less_than_10_with_a_row_of_16_mb_inside(tmp_path, name, marks):
    rows_of_60_mb(tmp_path / name, *marks)
    assert os.path.getsize(tmp_path / name) > 60_000_000
    tracemalloc.start()
    kept, unreadable = 0, []
    for number, value in read_records(tmp_path / name):
        if isinstance(value, Unreadable):
            unreadable.append((number, value.reason, len(value.raw)))
        else:
            kept += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept == 8001
    assert unreadable == [(8001, "16,000,040 bytes, more than 1,000,000 in one row", 1000)]
    assert peak < 10_000_000


@pytest.mark.parametrize("content", [LINES * 5000, json.dumps(RECORDS * 5000), separated(RECORDS * 5000, ",")])
def test_progress_is_told_in_steps_of_a_chunk(write, content):
    path = write("a.csv", content)
    used = []
    for _ in read_records(path, used.append):
        assert sum(used[len(used) - 1 :]) <= 262_144
    assert len(used) == 1 + -(-path.stat().st_size // 262_144)
    assert sum(used) == path.stat().st_size


@pytest.mark.parametrize("chunk", [1000, 2**18, 2**22])
@pytest.mark.parametrize(("name", "form"), [("a.jsonl", "{}\n{}\n{}\n"), ("a.json", "[{}, {} , {}]")])
def test_a_row_of_a_million_bytes_is_kept_and_one_of_a_byte_more_is_not(write, name, form, chunk):
    most = {"a": "x" + "é" * 499_995}
    row = json.dumps(most, ensure_ascii=False)
    assert len(row.encode()) == 1_000_000
    longer = row.replace('"}', 'x"}')
    path = write(name, form.format(row, longer, '{"b": 1}'))
    assert read(path, chunk) == [
        (1, most),
        (2, Unreadable("1,000,001 bytes, more than 1,000,000 in one row", longer[:1000])),
        (3, {"b": 1}),
    ]


@pytest.mark.parametrize("chunk", range(1, 30))
def test_a_long_row_ends_where_its_strings_and_brackets_do(write, chunk, monkeypatch):
    for module in (window, json_records):
        monkeypatch.setattr(module, "MAX_ROW", 50)
    row = '{"a": "' + "x" * 150 + r'\",]}\\", "b": [{}, "]"], "c": "\\\\\""}'
    expected = [(1, Unreadable("197 bytes, more than 50 in one row", row)), (2, {"d": 1})]
    assert read(write("a.json", f'[{row}, {{"d": 1}}]'), chunk) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_row_of_a_table_has_the_same_limit(write, name):
    rows = [{"a": "x", "b": "y"}, {"a": "x\n" * 300_000, "b": "y\n" * 200_000 + "z"}]
    path = write(name, separated(rows, ",") if name == "a.csv" else parquet(rows))
    (_, first), (_, second) = read(path)
    assert first == rows[0]
    assert second.reason == "1,000,001 bytes, more than 1,000,000 in one row"
    assert second.raw == '{"a": "' + "x\\n" * 331


# ----------------------------------------------------------------------------------------------------------------------
# records that can be stepped over


@pytest.mark.parametrize("chunk", [1, 5, 2**18])
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"b": 1, "a": [1, -Infinity], "c": "],}"}', '"a" is infinite, which is no JSON number'),
        ('{"a": 1, "b": "\\",", "a": 2}', 'the key "a" stands twice'),
        ('{"b": {"a": 1, "a": 1}}', 'the key "a" stands twice'),
        ('{"a": ' + 64 * "[" + 64 * "]" + "}", "nested deeper than 64"),
        ('{"a": ' + "9" * 5000 + "}", "a number of more than 4,300 digits"),
    ],
)
def test_a_record_that_is_no_row_is_stepped_over_with_its_reason_and_its_text(write, raw, reason, chunk):
    expected = [(1, {"b": 1}), (2, Unreadable(reason, raw)), (3, {"c": 2})]
    assert read(write("a.jsonl", f'{{"b": 1}}\n{raw}\n{{"c": 2}}\n'), chunk) == expected
    assert read(write("a.json", f'[{{"b": 1}}, {raw}, {{"c": 2}}]'), chunk) == expected


def test_a_depth_of_64_is_fine_and_so_are_many_brackets_beside_one_another(write):
    deep = '{"b": [], "a": ' + 63 * "[" + 63 * "]" + "}"
    wide = json.dumps({"a": [{}] * 100})
    assert read(write("a.jsonl", f"{deep}\n{wide}\n")) == [(1, json.loads(deep)), (2, {"a": [{}] * 100})]


@pytest.mark.parametrize("closed", [True, False])
def test_a_million_brackets_are_one_record_that_is_stepped_over(write, closed):
    deep = "[" * 1_000_000 + "]" * 1_000_000 * closed
    text = f"[{deep}, {ROW}]" if closed else f"[{deep}"
    found = read_records(write("a.json", text))
    number, value = next(found)
    assert (number, value.raw) == (1, "[" * 1000 if closed else "[" * 1_000_000)
    assert value.reason == ("2,000,000 bytes, more than 1,000,000 in one row" if closed else "nested deeper than 64")
    if closed:
        assert list(found) == [(2, RECORDS[0])]
    else:
        with pytest.raises(DataError, match="ends in the middle of this row"):
            next(found)


# ----------------------------------------------------------------------------------------------------------------------
# broken files


ROWS = ['{"a": [-1.5e+10, true, null], "b\\\\": "\\ud83d\\ude00 \\"é😀"}', '{"a": [], "b": false}']


@pytest.mark.parametrize("chunk", [3, 2**18])
def test_a_list_that_was_cut_off_says_so_wherever_that_was(write, chunk):
    content = f"[{ROWS[0]},\n{ROWS[1]}]".encode()
    for end in range(1, len(content)):
        path = write("a.json", content[:end])
        with pytest.raises(DataError, match=r"a.json:[12]: the file ends in the middle .* \(was it cut off\?\)"):
            read(path, chunk)


@pytest.mark.parametrize("chunk", [3, 2**18])
def test_lines_that_were_cut_off_say_so_wherever_that_was_but_between_two(write, chunk):
    content = "\n".join(ROWS).encode()
    for end in {*range(1, len(content))} - {len(ROWS[0].encode()), len(ROWS[0].encode()) + 1}:
        path = write("a.json", content[:end])
        with pytest.raises(DataError, match=r"a.json:[12]: the file ends in the middle .* \(was it cut off\?\)"):
            read(path, chunk)


NO_ROWS = parquet(pa.Table.from_pylist(RECORDS)[:0])
PACKED = zipped(LINES.encode() * 9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # nothing in it
        ("a.json", "", "a.json: no rows (the file is empty)"),
        ("a.jsonl", " \n\n", "a.jsonl: no rows (the file is empty)"),
        ("a.json", b"\xef\xbb\xbf", "a.json: no rows (the file is empty)"),
        ("a.json.gz", zipped(b""), "a.json.gz: no rows (the file is empty)"),
        ("a.json", " [ \n ] ", "a.json: no rows (an empty list)"),
        ("a.csv", HEADER, "a.csv: no rows (it has columns, and nothing in them)"),
        ("a.parquet", parquet(RECORDS[:0]), "a.parquet: no rows (it has columns, and nothing in them)"),
        ("a.parquet", NO_ROWS, "a.parquet: no rows (it has columns, and nothing in them)"),
        # something else
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a.json: a Git LFS pointer, not the"),
        ("a.json", " <!DOCTYPE html>\n<html>", "a.json: an HTML page, not data (was the download an error page?)"),
        ("a.csv", b"\xef\xbb\xbf<HTML>", "a.csv: an HTML page"),
        ("a.csv", b"PK\x03\x04\x14\0", "a.csv: broken zip: File is not a zip file (was it cut off?)"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\0", "a.jsonl: compressed with zstd (run: zstd -d)"),
        ("a.jsonl", b"BZh91AY&SY", "a.jsonl: broken bzip2: Compressed file ended before"),
        ("a.jsonl", b"\xfd7zXZ\0", "a.jsonl: broken xz: Compressed file ended before"),
        ("a.json", "%PDF-1.7", "a.json: a PDF"),
        ("a.json", b"\x7fELF\0\0\0", "a.json: a binary file, no rows of text"),
        ("a.txt", HEADER, "a.txt: no rows (it has columns, and nothing in them)"),
        ("a.txt", "Once upon. a time\n", "a.txt:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins 'Once upon"),
        ("a.json", '\n"text"', "a.json:2: neither JSON, JSONL, CSV, TSV nor Parquet"),
        ("a.json", f"// rows\n[{ROW}]", "a.json:1: begins with a comment, which JSON does not have (take it out)"),
        # gzip
        ("a.gz", PACKED[:-9], "a.gz: broken gzip: Compressed file ended before"),
        ("a.gz", PACKED[:40] + b"\xff\xff" + PACKED[42:], "a.gz: broken gzip: "),
        ("a.gz", PACKED + b"and more", "a.gz: broken gzip: Not a gzipped file"),
        ("a.gz", zipped(PACKED), "a.gz: gzip inside gzip (unpack it once: gunzip)"),
        ("a.gz", zipped(parquet(RECORDS)), "a.gz: Parquet inside gzip (unpack it: gunzip)"),
        ("a.gz", zipped(b"- a: b"), "a.gz:1: neither JSON, JSONL, CSV, TSV nor Parquet"),
        # encoding
        ("a.json", f"[{ROW},\n".encode() + b'{"a": "\xe9"}]', "a.json:2: byte 68 is not UTF-8 (convert it with iconv)"),
        ("a.json", b"\xef\xbb\xbf" + b'{"a": "\xe9"}]', "a.json:1: byte 10 is not UTF-8"),
        ("a.json", b"\xff\xfe" + '{"a": "\n'.encode("utf-16-le") + b"\0\xdc\0\0", "a.json:2: byte 18 is not UTF-16-LE"),
        ("a.csv", ("\ufeff" + HEADER + "a,b\n" * 99_999).encode("utf-16-be") + b"\xdc\0", "a.csv:100001: byte 800032 "),
        ("a.json", f'[{ROW},\n{{"a": "é'.encode()[:-1], "a.json:2: the file ends in the middle of a character"),
        ("a.csv", HEADER + "a,b\n" * 2000 + "\0", "a.csv:2002: a NUL character, which no text has"),
        # a list
        ("a.json", f"[{ROW},\n {ROW}\n {ROW}]", "a.json:2: broken JSON in line 3: no comma or ] after this row"),
        ("a.json", f'[{ROW},\n {{"a": x}}]', "a.json:2: broken JSON in line 2: Expecting value"),
        ("a.json", f"[{ROW},\n{ROW},\n]", "a.json:2: a comma before the closing ] (take it out)"),
        ("a.json", '[{"a": 1,}]', "a.json:1: broken JSON in line 1: a comma before the closing } (take it out)"),
        ("a.json", '[{"a": [1, ]}]', "a.json:1: broken JSON in line 1: a comma before the closing ] (take it out)"),
        ("a.json", f"[\n// one\n{ROW}]", "a.json:1: broken JSON in line 2: a comment, which JSON does not have"),
        ("a.json", f"[{ROW} # one\n]", "a.json:1: broken JSON in line 1: a comment, which JSON does not have"),
        ("a.json", "[{'a': 1}]", "a.json:1: broken JSON in line 1: single quotes, which JSON does not have (write it"),
        ("a.json", '[{"a": None}]', "a.json:1: broken JSON in line 1: a Python value, which JSON does not have"),
        ("a.json", f"[{ROW}]\n[{ROW}]", "a.json:1: text after the end of the list (one JSON list, or JSONL)"),
        ("a.json", f"[{ROW},\n{ROW}", "a.json:2: the file ends in the middle of this row (was it cut off?)"),
        ("a.json", f"[{ROW},\n{ROW},", "a.json:3: the file ends in the middle of this row"),
        ("a.json", f"[{ROW},\n{ROW[:20]}", "a.json:2: the file ends in the middle of this row"),
        # lines
        ("a.jsonl", f"{ROW}\n{ROW[:20]}\n\n", "a.jsonl:2: the file ends in the middle of this row"),
        ("a.jsonl", f"{ROW[:20]}", "a.jsonl:1: the file ends in the middle of this row"),
        ("a.jsonl", f"{ROW}\n{ROW[:20]}\n{ROW}\n", "a.jsonl:2: broken JSON: Unterminated string"),
        ("a.jsonl", f"{ROW}\n{ROW} {ROW}\n{ROW}\n", "a.jsonl:2: broken JSON: Extra data"),
        ("a.jsonl", f'{ROW}\n{{"a": oops}}', "a.jsonl:2: broken JSON: Expecting value"),
        ("a.jsonl", f"{ROW},\n{ROW},\n", "a.jsonl:1: broken JSON: a comma after the row (take it out, or put all rows"),
        ("a.jsonl", "{'a': 1}\n", "a.jsonl:1: broken JSON: single quotes, which JSON does not have (write it"),
        ("a.jsonl", f"{ROW}\n# one\n{ROW}\n", "a.jsonl:2: broken JSON: a comment, which JSON does not have (take it"),
        ("a.jsonl", f'{{"a": 1,\n{ROW}\n', "a.jsonl:1: broken JSON: Expecting property name"),
        # one object
        ("a.json", '{"a": [{"b": 1}], "c": [{"d": 1}]}', 'a.json:1: one JSON object with lists of rows under 2 keys: '),
        ("a.json", '{\n"a": 1,\n"b": x\n}', "a.json:1: broken JSON in line 3: Expecting value at 'x"),
        ("a.json", '{\n"a": 1\n}\n{\n"a": 2\n}\n', "a.json:1: a row over several lines (one in each: jq -c . FILE)"),
        # tables
        ("a.csv", "a,b\nc,d,e\n", "a.csv:1: more columns than the header has (quote the text)"),
        ("a.csv", "a,b,a\n", 'a.csv:1: the column "a" stands twice (rename one)'),
        ("a.csv", ",a,b\n?,c,d\n", "a.csv:1: column 1 has no name (name it, or save without the index)"),
        ("a.csv", 'a,b\nc,d\n"e,f\ng,h\n', "a.csv:2: broken CSV from line 3 on: unexpected end of data"),
        ("a.csv", '\nsep=;\na;b\nc;"d"e\n', "a.csv:1: broken CSV from line 4 on: ';' expected after '\"'"),
        ("a.csv", 'a,b\nc,d\n"e,f\n' + "g,h\n" * 300_000, "a.csv:2: a line or field of more than 1,000,000 bytes from"),
        ("a.csv", "a,b\nc,d\ne" + "f" * 2_000_000, "a.csv:2: a line or field of more than 1,000,000 bytes from"),
        ("a.csv", "a" * 2_000_000, "a.csv:1: a line or field of more than 1,000,000 bytes from line 1 on"),
        ("a.parquet", parquet(RECORDS)[:-9], "a.parquet: broken Parquet: "),
        ("a.parquet", b"PAR1 and then something else", "a.parquet: broken Parquet: "),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_broken_file_is_an_error_that_names_its_place_and_what_to_do(write, name, content, message):
    assert message in error_of(write(name, content))


def test_rows_before_the_broken_one_are_given(write):
    found = read_records(write("a.jsonl", f"{ROW}\n{ROW[:9]}\n{ROW}\n"))
    assert next(found) == (1, RECORDS[0])
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        next(found)


def test_a_gzip_bomb_is_not_unpacked_to_its_end(write, monkeypatch):
    monkeypatch.setattr(containers, "MIN_BOMB", 1_000_000)
    packed = zipped(b'{"a": "' + b"x" * 3_000_000)
    assert 200 * len(packed) < 1_000_000
    assert "a.gz: a gzip bomb: 1,048,576 bytes so far out of" in error_of(write("a.gz", packed))


def test_parquet_without_its_package_says_what_to_install(write, monkeypatch):
    path = write("a.parquet", parquet(RECORDS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MachineError, match=r'pyarrow \(pip install "ift\[parquet\]"\)'):
        list(read_records(path))


def test_long_lines_of_a_broken_parquet_are_cut(write):
    damaged = bytearray(parquet(RECORDS * 100))
    damaged[10:200] = bytes(190)
    assert "broken Parquet: " in error_of(write("a.parquet", bytes(damaged)))


# ----------------------------------------------------------------------------------------------------------------------
# paths


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("gone.json")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "file").touch()
    assert error_of(tmp_path / "none") == "none: no such file (check data.path)"
    assert error_of(tmp_path / "pipe").startswith("pipe: not a file but a pipe")
    assert error_of(tmp_path / "folder").startswith("folder: not a file but a folder")
    assert error_of(tmp_path / "zeros").startswith("zeros: not a file but a device")
    assert error_of(tmp_path / "nowhere") == "nowhere: a link to 'gone.json', which is not there (check data.path)"
    assert error_of(tmp_path / "loop") == "loop: a link that leads back to itself (check data.path)"
    assert error_of(tmp_path / "file/below") == "below: no such file (check data.path)"
    assert error_of(tmp_path / "a\0b") == "a\0b: no such file (check data.path)"


def test_a_link_to_a_file_is_that_file(tmp_path, write):
    (tmp_path / "link").symlink_to(write("a.json", [1]))
    assert read(tmp_path / "link") == [(1, 1)]


@pytest.mark.parametrize("when", ["open", "read"])
def test_a_file_that_the_system_does_not_give_out_is_an_error(write, when):
    path = write("a.json", [1])
    if when == "open":
        with mock.patch.object(type(path), "open", side_effect=PermissionError(13, "Permission denied")):
            assert error_of(path) == "a.json: cannot be read: Permission denied"
    else:
        file = mock.MagicMock(io.BufferedReader)
        file.peek.return_value = b"[1]"
        file.read.side_effect = OSError(5, "Input/output error")
        with mock.patch.object(type(path), "open", return_value=file):
            assert error_of(path) == "a.json: cannot be read: Input/output error"
