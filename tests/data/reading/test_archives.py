"""A zip: its one file is read, one of several by its name, and what is not safe or not whole is refused."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ift.data.reading import containers
from ift.data.reading.archives import names_in, zip_of
from ift.data.reading.containers import read_records
from ift.errors import DataError

ROWS = [{"instruction": f"Say {i}", "output": f"It is {i}"} for i in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def archive(files, how=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def arrow():
    buffer, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [LINES, json.dumps(ROWS), parquet(), arrow()], ids=["JSONL", "JSON", "Parquet", "Arrow"]
)
@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_one_file_of_a_zip_is_read_by_what_is_in_it(write, content, how):
    path = write("a.zip", archive({"x/rows": content, "__MACOSX/x/._rows": "?", "x/.DS_Store": "?"}, how))
    used = []
    assert [row for _, row in read_records(path, used.append)] == ROWS
    assert sum(used) == path.stat().st_size


@pytest.mark.parametrize("content", [bz2.compress(LINES.encode()), lzma.compress(LINES.encode()),
                                     lzma.compress(LINES.encode(), format=lzma.FORMAT_ALONE)])  # fmt: skip
def test_other_packers_are_known_by_their_first_bytes(write, content):
    path, used = write("a.json", content), []
    assert [row for _, row in read_records(path, used.append)] == ROWS
    assert sum(used) == path.stat().st_size


def test_a_file_in_a_zip_is_named_as_if_the_zip_were_a_folder(write):
    path = write("a.zip", archive({"train.jsonl": LINES, "test.jsonl": LINES}))
    assert names_in(path) == ["test.jsonl", "train.jsonl"]
    assert zip_of(path / "train.jsonl") == path
    assert zip_of(write("b", "x") / "train.jsonl") is None
    assert len(list(read_records(path / "train.jsonl"))) == 4


def encrypted():
    content = bytearray(archive({"a.jsonl": LINES}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def damaged():
    content = bytearray(archive({"a.jsonl": LINES}, zipfile.ZIP_STORED))
    content[60] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"a": LINES, "b": LINES}), "a zip of 2 files (name one of them: "),
        (archive({}), "no files in this zip (give one that holds JSON"),
        (
            archive({"../../a.json": LINES}),
            "a zip with a file named '../../a.json', which leads out of it (make it again)",
        ),
        (archive({"/a.json": LINES}), "which leads out of it"),
        (archive({"C:a.json": LINES}), "which leads out of it"),
        (archive({"a.zip": archive({"a": LINES})}), "zip inside zip (unpack it once: unzip)"),
        (archive({"a.gz": gzip.compress(LINES.encode())}), "gzip inside zip (unpack it: unzip)"),
        (archive({"a": LINES})[:-10], "broken zip: File is not a zip file (was it cut off?)"),
        (encrypted(), "a.jsonl: encrypted (unpack it with its password: unzip)"),
        (damaged(), "broken zip: Bad CRC-32 for file"),
        (archive({"[Content_Types].xml": "", "xl/workbook.xml": ""}), "an Excel file (export it as CSV)"),
        (archive({"[Content_Types].xml": "", "word/document.xml": ""}), "a Word file (export its rows as CSV)"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_zip_that_is_not_safe_or_not_whole_is_refused(write, content, message):
    path = write("a.zip", content)
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("pack", [lambda text: archive({"a": text}), lzma.compress, bz2.compress])
def test_a_bomb_is_not_unpacked_to_its_end(write, monkeypatch, pack):
    monkeypatch.setattr(containers, "MIN_BOMB", 1_000_000)
    path = write("a", pack(b'{"a": "' + b"x" * 5_000_000))
    with pytest.raises(DataError, match=r"an? (zip|xz|bzip2) bomb: 1,\d\d\d,\d\d\d bytes so far"):
        list(read_records(path))
