"""The catalogue of bad data files: each is made, given to a real `ift check`, and ends in one line and an exit code.

One check in 20 begins with Python itself; the others are forked from a process that has imported what a check needs.
The numbers are those of the catalogue in the reliability anchors: 1-16 the container and its encoding, 17-37 the rows.
Below it are files that are odd but fine, what a process must bear (a reader that hangs up, Ctrl-C, no home), and the
laws of accounting and of tokens for any rows at all: IFT_EXAMPLES=10000 looks for a counterexample that much longer.
"""

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ift import cli
from ift.data.contract.examples import TooLong, make_example
from ift.data.contract.prepare import prepare
from ift.data.reading import sources
from ift.data.reading.rows import Row
from ift.errors import DataError, advice_start
from ift.run import RunFolder, read_json, read_jsonl
from ift.settings import FractionSettings
from ift.text.chat_templates import template_from
from ift.text.encoding import encode_prompt
from ift.text.tokenizers import Tokenizer
from tests.running import NO_TORCH, ROOT, run


def row(i, **changes):
    """Rows that have no near twins."""
    return {"instruction": f"{i}. {hashlib.sha256(b'%d' % i).hexdigest()}", "input": "", "output": f"{i}", **changes}


def rows(n, first=0):
    return [row(i) for i in range(first, first + n)]


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def chat(*texts, names=("user", "assistant"), role="role", content="content"):
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


def talk(*texts):
    return {"messages": chat(*texts)}


def sharegpt(*texts):
    return {"conversations": chat(*texts, names=("human", "gpt"), role="from", content="value")}


WORDS = "What does the passage of row {} say of the harbour?"


def table(records, mark=","):
    fields = [list(records[0]), *(list(record.values()) for record in records)]
    return "".join(mark.join('"' + str(field).replace('"', '""') + '"' for field in line) + "\n" for line in fields)


def parquet(records):
    pq.write_table(pa.Table.from_pylist(records), buffer := io.BytesIO())
    return buffer.getvalue()


def archive(**files):
    """A zip of these files; of an Excel one too, which is a zip of XML."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def tar_gz(content):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as file:
        file.addfile(about := tarfile.TarInfo("a.json"), io.BytesIO(content))
        about.size = len(content)
    return buffer.getvalue()


def database(path):
    with sqlite3.connect(path) as file:
        file.execute("create table rows (instruction text, output text)")


def sparse(path, begins, size):
    path.write_bytes(begins)
    os.truncate(path, size)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 characters
        end.bind(path.name)
        os.chdir(before)


def link(to):
    return lambda path: path.symlink_to(to)


def nothing(path):
    pass


zipped = partial(gzip.compress, mtime=0)


def bomb(begins, byte):
    return lambda path: path.write_bytes(zipped(begins + byte * 101_000_000))


ROW = json.dumps(row(0))
GOOD = json.dumps(rows(40))
LIST = "[" + ",\n".join(json.dumps(each) for each in rows(40))  # without its end


@dataclasses.dataclass(frozen=True)
class Bad:
    what: str
    file: str  # its name, which is what the command is given
    content: Any  # text, bytes or a function that makes something of that name
    line: str  # how the error line begins, after "ift: error: "
    keys: str = ""
    code: int = 3


def one(changes):
    """A file of one row that is none."""
    return lines({**row(0), **changes})


KINDS = ((3, "a number"), (True, "true or false"), (["a"], "a list"), ({"a": "b"}, "an object"))
NOT_UTF8 = lines(row(0), row(1, output="@@")).encode()  # the second row has other bytes in the place of @@

BAD = [
    # 1  told apart by what is in them
    Bad("lines after a list", "a.json", f"[{ROW}]\n{ROW}\n",
        "a.json:1: text after the end of the list (one JSON list, or JSONL)"),
    Bad("a list in each line", "a.jsonl", '["a", "b"]\n["c", "d"]\n',
        'a.jsonl:1: a list of 2 values, which have no names (put their names before it: ["instruction", "output"])'),
    Bad("a list after a line", "a.jsonl", f"{ROW}\n[{ROW}]\n",
        "a.jsonl:2: a list, not an object with instruction and output; 1 of 2"),
    # 2  tables
    Bad("xlsx", "a.xlsx", archive(**{"[Content_Types].xml": "<Types/>", "xl__workbook.xml": "<w/>"}),
        "a.xlsx: an Excel file (export it as CSV)"),
    Bad("xls", "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "a.xls: an Excel file (export it as CSV)"),
    Bad("a table without a header", "a.csv", "Add 1 and 2.,3\nAdd 2 and 2.,4\n",
        "a.csv:1: no header: the first line reads like a row and has no names for its 2 columns (put a line with them"),
    Bad("a header that stands twice", "a.csv", "instruction,output,output\na,b,c\n",
        'a.csv:1: the column "output" stands twice (rename one)'),
    Bad("a column without a name", "a.csv", ",instruction,output\nx,a,b\n",
        "a.csv:1: column 1 has no name (name it, or save without the index)"),
    Bad("a row of more columns", "a.csv", "instruction,output\na,b\nc,d, and e\n",
        "a.csv:2: more columns than the header has (quote the text)"),
    Bad("a row of fewer columns", "a.csv", "instruction,output\na,b\nc\n",
        'a.csv:2: "output" is null, not text; 1 of 2'),
    Bad("a quote that stays open", "a.csv", 'instruction,output\na,b\n"c,d\ne,f\n',
        "a.csv:2: broken CSV from line 3 on: unexpected end of data (is a quote not closed"),
    Bad("prose", "a.txt", "Once upon a time, there was\na king, who lived, and died.\nThe end.\n",
        "a.txt:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins 'Once upon a time, th'"),
    Bad("a table under a title", "a.csv", "My rows\ninstruction,output\na,b\nc,d\n",
        "a.csv:1: a title above the table, whose columns' names stand in line 2 (delete what stands above that line)"),
    Bad("quotes of both kinds", "a.tsv", 'instruction\toutput\na\t"b\tc"\n"d\te\nf"\tg\n',
        "a.tsv:1: the quote in line 3 is a character, that in line 2 holds a text together (put quotes round all"),
    Bad("a table of blanks", "a.tsv", "instruction  output\nadd  3\n",
        'a.tsv:1: no "instruction" (it has: instruction output; set data.fields.instruction=...); 1 of 1'),
    Bad("broken parquet", "a.parquet", b"PAR1 and then something else", "a.parquet: broken Parquet: "),
    Bad("parquet of numbers", "a.parquet", parquet([{"instruction": 1, "output": 2}]),
        'a.parquet:1: "instruction" is a number, not text; 1 of 1'),
    Bad("parquet without an output", "a.parquet", parquet([{"instruction": "a", "answer": "b"}]),
        'a.parquet:1: no "output" (it has: instruction, answer; set data.fields.output=answer); 1 of 1'),
    Bad("parquet under a cut", "a.parquet", parquet(rows(40))[:-20], "a.parquet: broken Parquet: "),
    Bad("arrow", "a.arrow", b"ARROW1\0\0" + bytes(90), "a.arrow: broken Arrow: Not an Arrow file (was it cut off?)"),
    # 3  byte order marks
    Bad("nothing but a mark", "a.json", b"\xef\xbb\xbf", "a.json: no rows (the file is empty)"),
    Bad("two marks", "a.jsonl", b"\xef\xbb\xbf\xef\xbb\xbf" + lines(*rows(3)).encode(),
        "a.jsonl:1: two byte order marks (take one out)"),
    Bad("a mark between two files", "a.jsonl", lines(*rows(3)).encode() + b"\xef\xbb\xbf" + lines(row(4)).encode(),
        "a.jsonl:4: broken JSON: a byte order mark in the middle of the file (take it out)"),
    # 4  encodings
    Bad("Latin-1", "a.jsonl", NOT_UTF8.replace(b"@@", "café".encode("latin-1")),
        "a.jsonl:2: byte 229 is not UTF-8 (convert it with iconv)"),
    Bad("cp1252", "a.jsonl", NOT_UTF8.replace(b"@@", "“yes”".encode("cp1252")),
        "a.jsonl:2: byte 226 is not UTF-8 (convert it with iconv)"),
    Bad("Shift-JIS", "a.jsonl", NOT_UTF8.replace(b"@@", "日本".encode("shift-jis")),
        "a.jsonl:2: byte 226 is not UTF-8 (convert it with iconv)"),
    Bad("KOI8-R", "a.csv", "instruction,output\na,да\n".encode("koi8-r"),
        "a.csv:2: byte 21 is not UTF-8 (convert it with iconv)"),
    Bad("Latin-1 in a list", "a.json", b"[" + NOT_UTF8.replace(b"\n", b",\n").replace(b"@@", b"\xe9") + b"{}]",
        "a.json:2: byte 228 is not UTF-8 (convert it with iconv)"),
    Bad("a NUL in two bytes", "a.jsonl", NOT_UTF8.replace(b"@@", b"\xc0\x80"),
        "a.jsonl:2: byte 226 is not UTF-8 (convert it with iconv)"),
    Bad("halves in UTF-8", "a.jsonl", NOT_UTF8.replace(b"@@", b"\xed\xa0\xbd\xed\xb8\x80"),
        "a.jsonl:2: byte 226 is not UTF-8 (convert it with iconv)"),
    Bad("half a character at the end", "a.jsonl", NOT_UTF8[:-4] + b"\xc3",
        "a.jsonl:2: the file ends in the middle of a character (was it cut off?)"),
    Bad("UTF-16 without a mark", "a.json", GOOD.encode("utf-16-le"),
        "a.json: UTF-16LE without its mark (run: iconv -f UTF-16LE -t UTF-8)"),
    Bad("UTF-16 of odd bytes", "a.jsonl", b"\xff\xfe" + lines(*rows(3)).encode("utf-16-le")[:-1],
        "a.jsonl:3: the file ends in the middle of a character (was it cut off?)"),
    Bad("UTF-16 with half a character", "a.json", b"\xfe\xff" + '[{"a": "'.encode("utf-16-be") + b"\xdc\0\0]",
        "a.json:1: byte 18 is not UTF-16-BE (convert it with iconv)"),
    # 5  NULs and half characters
    Bad("a NUL", "a.jsonl", lines(row(0, output="a\0b")).replace("\\u0000", "\0"),
        "a.jsonl:1: a NUL character, which no text has (is the file damaged?)"),
    Bad("a NUL further on", "a.jsonl", lines(*rows(99)) + "\0\0",
        "a.jsonl:100: a NUL character, which no text has (is the file damaged?)"),
    Bad("a hole in a list", "a.json", partial(sparse, begins=LIST.encode(), size=5_000_000),
        "a.json:40: a NUL character, which no text has (is the file damaged?)"),
    Bad("an escaped NUL", "a.jsonl", one({"output": "a\0b"}),
        'a.jsonl:1: "output" holds a NUL character (is it text?); 1 of 1'),
    Bad("half a character", "a.jsonl", one({"output": "\ud800"}),
        'a.jsonl:1: "output" holds half a character (a lone surrogate, no text in UTF-8); 1 of 1'),
    Bad("the other half", "a.jsonl", one({"instruction": "\ude00 x"}),
        'a.jsonl:1: "instruction" holds half a character (a lone surrogate, no text in UTF-8); 1 of 1'),
    Bad("halves in the wrong order", "a.jsonl", one({"input": "\ude00\ud83d"}),
        'a.jsonl:1: "input" holds half a character (a lone surrogate, no text in UTF-8); 1 of 1'),
    Bad("half a character in a name", "a.jsonl", lines({"instruction": "a", "\ud83d": "b"}),
        'a.jsonl:1: no "output" (it has: instruction, ; set data.fields.output=...); 1 of 1'),
    Bad("half a character in a name that stands twice", "a.jsonl", '{"\\ud83d": 1, "\\ud83d": 2}',
        'a.jsonl:1: the key " " stands twice; 1 of 1'),
    # 6  what people write and JSON does not have
    Bad("a comma after the last row", "a.json", f"[{ROW},\n{ROW},\n]",
        "a.json:2: a comma before the closing ] (take it out)"),
    Bad("a comma in a row", "a.json", '[{"instruction": "a",}]',
        "a.json:1: broken JSON in line 1: a comma before the closing } (take it out)"),
    Bad("commas between lines", "a.jsonl", f"{ROW},\n{ROW},\n",
        "a.jsonl:1: broken JSON: a comma after the row (take it out, or put all rows in [ ])"),
    Bad("no comma between rows", "a.json", f"[{ROW}\n{ROW}]",
        "a.json:1: broken JSON in line 2: no comma or ] after this row at '{\"instruc' (write rows with json.dumps)"),
    Bad("a comment first", "a.json", f"// mine\n[{ROW}]",
        "a.json:1: begins with a comment, which JSON does not have (take it out)"),
    Bad("a comment between", "a.jsonl", f"{ROW}\n# more\n{ROW}\n",
        "a.jsonl:2: broken JSON: a comment, which JSON does not have (take it out)"),
    Bad("a comment in a list", "a.json", f"[{ROW}, /* more */ {ROW}]",
        "a.json:2: broken JSON in line 1: a comment, which JSON does not have (take it out)"),
    Bad("single quotes", "a.jsonl", "{'instruction': 'a', 'output': 'b'}\n",
        "a.jsonl:1: broken JSON: single quotes, which JSON does not have (write it with json.dumps)"),
    Bad("names without quotes", "a.json", '[{instruction: "a", output: "b"}]',
        "a.json:1: broken JSON in line 1: Expecting property name enclosed in double quotes at"),
    Bad("None", "a.json", '[{"instruction": "a", "input": None}]',
        "a.json:1: broken JSON in line 1: a Python value, which JSON does not have (write it with json.dumps)"),
    Bad("a line break in a string", "a.json", '[{"instruction": "a\nb", "output": "c"}]',
        "a.json:1: broken JSON in line 1: Invalid control character at '\\nb\", \"out' (write rows with json.dumps)"),
    Bad("an unknown escape", "a.jsonl", '{"instruction": "C:\\data", "output": "b"}\n',
        "a.jsonl:1: broken JSON: Invalid \\escape at '\\\\data\", \"' (write rows with json.dumps)"),
    Bad("rows over several lines", "a.jsonl", json.dumps(row(0), indent=1) + "\n" + json.dumps(row(1), indent=1),
        "a.jsonl:1: a row over several lines (one in each: jq -c . FILE)"),
    Bad("a merge conflict", "a.jsonl", f"{ROW}\n<<<<<<< HEAD\n{ROW}\n",
        "a.jsonl:2: broken JSON: Expecting value at '<<<<<<< H' (write rows with json.dumps)"),
    # 7  cut off
    Bad("a list cut in a row", "a.json", LIST[:-9],
        "a.json:40: the file ends in the middle of this row (was it cut off?)"),
    Bad("a list cut after a row", "a.json", LIST,
        "a.json:40: the file ends in the middle of this row (was it cut off?)"),
    Bad("a list cut after a comma", "a.json", LIST + ",",
        "a.json:41: the file ends in the middle of this row (was it cut off?)"),
    Bad("nothing but a bracket", "a.json", "[", "a.json:1: the file ends in the middle of this row (was it cut off?)"),
    Bad("lines cut", "a.jsonl", lines(*rows(9))[:-9],
        "a.jsonl:9: the file ends in the middle of this row (was it cut off?)"),
    Bad("lines cut in an escape", "a.jsonl", lines(row(0)) + '{"instruction": "\\u00',
        "a.jsonl:2: the file ends in the middle of this row (was it cut off?)"),
    Bad("a table cut", "a.csv", table(rows(9))[:-3],
        "a.csv:9: broken CSV from line 10 on: unexpected end of data (is a quote not closed"),
    Bad("gzip cut", "a.jsonl.gz", zipped(lines(*rows(99)).encode())[:-30],
        "a.jsonl.gz: broken gzip: Compressed file ended"),
    # 8  JSON that is no row
    Bad("NaN", "a.jsonl", '{"instruction": "a", "output": NaN}', 'a.jsonl:1: "output" is null, not text; 1 of 1'),
    Bad("Infinity in a list", "a.json", '[{"instruction": "a", "output": -Infinity}]',
        'a.json:1: "output" is infinite, which is no JSON number; 1 of 1'),
    Bad("a name that stands twice", "a.jsonl", '{"instruction": "a", "output": "b", "output": "c"}',
        'a.jsonl:1: the key "output" stands twice; 1 of 1'),
    Bad("a million brackets", "a.json", "[" * 1_000_000,
        "a.json:1: the file ends in the middle of this row (was it cut off?)"),
    Bad("a million objects in one another", "a.jsonl", '{"a":' * 1_000_000,
        "a.jsonl:1: 5,000,000 bytes, more than 1,000,000 in one row; 1 of 1"),
    Bad("nested to 65", "a.jsonl", '{"instruction": "a", "x": ' + 64 * "[" + 64 * "]" + "}",
        "a.jsonl:1: nested deeper than 64; 1 of 1"),
    Bad("a number of 5,000 digits", "a.jsonl", '{"instruction": "a", "output": ' + 5000 * "9" + "}",
        "a.jsonl:1: a number of more than 4,300 digits; 1 of 1"),
    Bad("a number beyond all", "a.jsonl", '{"instruction": "a", "output": 1e999}',
        'a.jsonl:1: "output" is a number, not text; 1 of 1'),
    # 9  no list of rows
    Bad("a string", "a.json", '"instruction"',
        "a.json:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins '\"instruction\"')"),
    Bad("a number", "a.json", "42",
        "a.json:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins '42')"),
    Bad("null", "a.json", "null",
        "a.json:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins 'null')"),
    Bad("a list of strings", "a.json", '["a", "b"]',
        "a.json:1: text, not an object with instruction and output; 2 of 2"),
    Bad("a list of nothing", "a.json", "[null, null]",
        "a.json:1: null, not an object with instruction and output; 2 of 2"),
    Bad("a list of empty objects", "a.json", "[{}, {}]",
        'a.json:1: no "instruction" (it has: no fields; set data.fields.instruction=...); 2 of 2'),
    # 10  archives
    Bad("zip without rows", "a.zip", archive(), "a.zip: no files in this zip (give one that holds JSON, JSONL, CSV,"),
    Bad("zstd", "a.jsonl.zst", b"\x28\xb5\x2f\xfd\x04\x00" + bytes(9),
        "a.jsonl.zst: compressed with zstd (run: zstd -d)"),
    Bad("bzip2 cut", "a.jsonl.bz2", bz2.compress(GOOD.encode())[:-9], "a.jsonl.bz2: broken bzip2: Compressed file"),
    Bad("xz cut", "a.jsonl.xz", lzma.compress(GOOD.encode())[:-9], "a.jsonl.xz: broken xz: Compressed file ended"),
    Bad("7z", "a.7z", b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(30),
        "a.7z: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("rar", "a.rar", b"Rar!\x1a\x07\x01\0" + bytes(30),
        "a.rar: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("tar", "a.tar", gzip.decompress(tar_gz(GOOD.encode())),
        "a.tar: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("tar.gz", "a.tar.gz", tar_gz(GOOD.encode()),
        "a.tar.gz: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("gzip in gzip", "a.json.gz", zipped(zipped(GOOD.encode())),
        "a.json.gz: gzip inside gzip (unpack it once: gunzip)"),
    Bad("parquet in gzip", "a.parquet.gz", zipped(parquet(rows(9))),
        "a.parquet.gz: Parquet inside gzip (unpack it: gunzip)"),
    Bad("gzip with a wrong sum", "a.json.gz", zipped(GOOD.encode())[:-8] + bytes(8),
        "a.json.gz: broken gzip: CRC check failed"),
    Bad("gzip with damaged bytes", "a.json.gz", zipped(GOOD.encode())[:60] + b"\xff\xff" + zipped(GOOD.encode())[62:],
        "a.json.gz: broken gzip: Error -3"),
    Bad("gzip with something behind", "a.json.gz", zipped(GOOD.encode()) + b"and more",
        "a.json.gz: broken gzip: Not a gzipped file"),
    Bad("gzip's first bytes alone", "a.json.gz", b"\x1f\x8b\x08\0", "a.json.gz: broken gzip: Compressed file ended"),
    Bad("a gzip bomb in one row", "a.json.gz",
        bomb(b'[{"a": "', b"x"), "a.json.gz: a gzip bomb: 100,139,008 bytes so far out of 98,"),
    Bad("a gzip bomb of blanks", "a.json.gz",
        bomb(b"", b" "), "a.json.gz: a gzip bomb: 100,139,008 bytes so far out of 98,"),
    # 11  nothing in it
    Bad("an empty file", "a.json", "", "a.json: no rows (the file is empty)"),
    Bad("white space", "a.jsonl", " \n\n\t\r\n", "a.jsonl: no rows (the file is empty)"),
    Bad("an empty list", "a.json", " [ \n ] ", "a.json: no rows (an empty list)"),
    Bad("an empty object", "a.json", "{}",
        'a.json:1: no "instruction" (it has: no fields; set data.fields.instruction=...); 1 of 1'),
    Bad("only a header", "a.csv", "instruction,input,output\n", "a.csv: no rows (it has columns, and nothing in them)"),
    Bad("parquet without rows", "a.parquet", parquet([]), "a.parquet: no rows (it has columns, and nothing in them)"),
    Bad("gzip of nothing", "a.json.gz", zipped(b""), "a.json.gz: no rows (the file is empty)"),
    # 12  too much of it
    Bad("a row of 2 MB", "a.jsonl", one({"input": "x" * 2_000_000}),
        "a.jsonl:1: 2,000,114 bytes, more than 1,000,000 in one row; 1 of 1"),
    Bad("a row of 2 MB in a list", "a.json", "[" + one({"input": "é" * 1_000_000}) + "]",
        "a.json:1: 6,000,115 bytes, more than 1,000,000 in one row; 1 of 1"),
    Bad("a field of 2 MB", "a.csv", table([row(0), row(1, output="x" * 2_000_000)]),
        "a.csv:2: a line or field of more than 1,000,000 bytes from line 3 on (is a quote not closed?)"),
    Bad("a file of 10 GB of nothing", "a.json", partial(sparse, begins=b"", size=10**10),
        "a.json: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    # 13  no file
    Bad("missing", "none.json", nothing, "none.json: no such file (check data.path)"),
    Bad("a pattern", "*.json", nothing, "*.json: no such file (check data.path)"),
    Bad("an address", "https://example.com/a.json", nothing,
        "https:/example.com/a.json: an address, not a file (download it first)"),
    Bad("a name of 300 letters", 300 * "a", nothing, 100 * "a"),
    Bad("below a file", "good.json/a.json", nothing, "good.json/a.json: no such file (check data.path)"),
    Bad("an empty folder", "data", {},
        "data: no data files in this folder (.json .jsonl .ndjson .csv .tsv .parquet .arrow, or one of them"),
    Bad("a folder without data", "data", {"README.md": "#", ".hidden.json": GOOD, "inner": {"a.json": GOOD}},
        "data: no data files in this folder; it has the folders inner (.json .jsonl .ndjson .csv .tsv .parquet"),
    Bad("a folder of one bad file", "data", {"a.json": "[", "b.jsonl": ""},
        "data/a.json:1: the file ends in the middle of this row (was it cut off?)"),
    Bad("a pipe", "a.json", os.mkfifo,
        "a.json: not a file but a pipe (give one JSON, JSONL, CSV, TSV or Parquet file)"),
    Bad("a socket", "a.json", a_socket,
        "a.json: not a file but a socket (give one JSON, JSONL, CSV, TSV or Parquet file)"),
    Bad("/dev/zero", "/dev/zero", nothing,
        "/dev/zero: not a file but a device (give one JSON, JSONL, CSV, TSV or Parquet file)"),
    Bad("/dev/null", "/dev/null", nothing,
        "/dev/null: not a file but a device (give one JSON, JSONL, CSV, TSV or Parquet file)"),
    Bad("a link to /dev/zero", "a.json", link("/dev/zero"),
        "a.json: not a file but a device (give one JSON, JSONL, CSV, TSV or Parquet file)"),
    Bad("a link to nothing", "a.json", link("gone.json"),
        "a.json: a link to 'gone.json', which is not there (check data.path)"),
    Bad("a link to itself", "a.json", link("a.json"), "a.json: a link that leads back to itself (check data.path)"),
    # 14  no permission
    Bad("what the system does not give out", "/proc/self/mem", nothing,
        "/proc/self/mem: cannot be read: Input/output error"),
    # 15  something else
    Bad("a Git LFS pointer", "a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n",
        "a.json: a Git LFS pointer, not the data (run: git lfs pull)"),
    Bad("an HTML page", "a.json", "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
        "a.json: an HTML page, not data (was the download an error page?)"),
    Bad("an HTML page after a mark", "a.csv", b"\xef\xbb\xbf\n<HTML>",
        "a.csv: an HTML page, not data (was the download an error page?)"),
    Bad("an XML page", "a.json", '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "a.json: an XML page, not data (was the download an error page?)"),
    Bad("an error in words", "a.jsonl", "404: Not Found",
        "a.jsonl:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins '404: Not Found')"),
    Bad("an error in JSON", "a.json", '{"message": "Not Found", "documentation_url": "https://example.com"}',
        'a.json:1: no "instruction" (it has: message, documentation_url; set data.fields.instruction=...); 1 of 1'),
    Bad("a PDF", "a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a.pdf: a PDF, no rows of text (export them as CSV)"),
    Bad("a PNG", "a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "a.png: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("sqlite", "a.db", database,
        "a.db: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("pickle", "a.pkl", pickle.dumps(rows(9)),
        "a.pkl: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)"),
    Bad("YAML", "a.yaml", "- instruction: a\n  output: b\n",
        "a.yaml:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins '- instruction: a\\n o'"),
    Bad("Markdown", "a.md", "# My rows\n\nAdd 1 and 2.\n",
        "a.md:1: begins with a comment, which JSON does not have (take it out)"),
    Bad("a Word file", "a.docx", archive(**{"[Content_Types].xml": "<Types/>", "word__document.xml": "<w/>"}),
        "a.docx: a Word file (export its rows as CSV)"),
    # 17  a field is missing
    Bad("no output", "a.jsonl", lines(row(0), {"instruction": "a", "completion": "b"}),
        'a.jsonl:2: no "output" (it has: instruction, completion; set data.fields.output=completion); 1 of 2'),
    Bad("no instruction", "a.json", '[{"context": "a", "output": "b"}]',
        'a.json:1: no "instruction" (it has: context, output; set data.fields.instruction=...); 1 of 1'),
    Bad("no names that are known", "a.json", '[{"words": "a b c"}]',
        'a.json:1: no "instruction" (it has: words; set data.fields.instruction=...); 1 of 1'),
    Bad("text alone", "a.json", '[{"text": "a b c"}]',
        "a.json:1: text alone, without a prompt (prompt=none learns the whole text); 1 of 1"),
    Bad("names of thousands of letters", "a.json", json.dumps([{"a" * 5000: "b", "c" * 5000: "d"}]),
        f'a.json:1: no "instruction" (it has: {"a" * 40}, {"c" * 40}; set data.fields.instruction=...); 1 of 1'),
    # 18  other names
    Bad("capitals", "a.json", '[{"Instruction": "a", "INSTRUCTION": "c", "Output": "b"}]',
        'a.json:1: no "instruction" (it has: Instruction, INSTRUCTION, Output; set data.fields.instruction=Instruct'
        "ion); 1 of 1"),
    Bad("questions", "a.csv", "ask,reply\na,b\n",
        'a.csv:1: no "instruction" (it has: ask, reply; set data.fields.instruction=ask data.fields.output=reply); 1'
        " of 1"),
    Bad("another language", "a.csv", "指令,输出\na,b\n",
        'a.csv:1: no "instruction" (it has: 指令, 输出; set \'data.fields.instruction="指令"\' '
        '\'data.fields.output="输出"\'); 1 of 1'),
    Bad("prompt and output", "a.json", '[{"prompt": "a", "output": "b"}]',
        'a.json:1: no "instruction" (it has: prompt, output; set data.fields.instruction=prompt); 1 of 1'),
    Bad("messages by another name", "a.jsonl", lines({"thread": chat("a", "b")}, {"thread": chat("c", "d")}),
        'a.jsonl:1: no "instruction" (it has: thread; set data.fields.messages=thread); 2 of 2'),
    Bad("fields of something else", "a.csv", "text,label\na,b\n",
        "data.fields.instruction=txt: no row of a.csv has it (nearest: text)", "data.fields.instruction=txt"),
    Bad("fields that point to nothing", "a.jsonl", lines(*rows(9)),
        "data.fields.output=answer: no row of a.jsonl has it (it has: instruction, input, output)",
        "data.fields.output=answer"),
    Bad("nothing to leave out", "a.jsonl", lines(*rows(9)),
        "data.ignore=[imput]: no row of a.jsonl has it (nearest: input)", "data.ignore=[imput]"),
    # columns and marks of whole rows
    Bad("a column that nothing reads", "a.jsonl", lines(*(row(i, passage=WORDS.format(i)) for i in range(9))),
        'a.jsonl: column "passage" is not used, and reads like a part of the prompt (data.fields.input=passage uses it,'
        " data.ignore=[passage] leaves it out)"),
    Bad("another answer", "a.jsonl", lines(*(row(i, output_1=WORDS.format(i)) for i in range(9))),
        'a.jsonl: column "output_1" is not used, and reads like another answer (data.fields.output=output_1 learns it'
        " instead, data.ignore=[output_1] leaves it out)"),
    Bad("preferences", "a.jsonl", lines({"prompt": "a", "chosen": "b", "rejected": "c"}),
        "a.jsonl:1: preference rows (chosen, rejected), which are not learnt as pairs (for the chosen answers alone: "
        "data.fields.output=chosen data.ignore=[rejected]); 1 of 1"),
    Bad("KTO", "a.jsonl", lines(*rows(9), row(9, label=False)),
        'a.jsonl:10: "label" is false: a KTO row whose answer is not wanted (data.max_dropped=1 leaves such rows out,'
        " data.ignore=[label] learns them as well); 1 of 10"),
    Bad("half a weight", "a.jsonl", one({"weight": 0.5}),
        'a.jsonl:1: "weight" is 0.5: a row is learnt or not, 1 or 0 (data.ignore=[weight] learns every row alike); 1 of'
        ' 1'),
    Bad("no row with a weight", "a.jsonl", one({"weight": 0}),
        "a.jsonl: every row is marked as not to be learnt (data.ignore=[COLUMN] of the mark learns them all)"),
    Bad("pictures", "a.jsonl", one({"images": ["a.png"]}),
        'a.jsonl:1: "images" holds something that is no text, and only text is learnt (data.ignore=[images] leaves it'
        " out); 1 of 1"),
    Bad("tokens", "a.jsonl", lines({"input_ids": [1, 2], "labels": [-100, 2]}),
        "a.jsonl:1: tokens of another program (input_ids), not text (give the rows of text that they were made from)"
        "; 2 of 2"),
    Bad("fields that point to a number", "a.jsonl", one({"id": 7}),
        'a.jsonl:1: "id" is a number, not text; 1 of 1', "data.fields.output=id"),
    Bad("a role of its own", "a.jsonl", lines({"messages": chat("a", "b", names=("user", "narrator"))}),
        "a.jsonl:1: message 2 is of 'narrator', not of system, user or assistant; 1 of 1"),
    Bad("no role", "a.jsonl", lines({"messages": [{"content": "a"}]}, row(1)),
        "a.jsonl:1: message 1 is of null, not of system, user or assistant; 2 of 2"),
    Bad("no content", "a.jsonl", lines({"messages": [{"role": "user"}, {"role": "assistant"}]}, talk("a", "b")),
        'a.jsonl:1: message 1 has no "content" (it has: role); 1 of 2'),
    Bad("messages are text", "a.jsonl", lines({"messages": "a"}),
        'a.jsonl:1: "messages" is text, not a list of messages; 1 of 1'),
    Bad("messages as a table has them", "a.csv", 'messages\n"user: a, assistant: b"\n',
        'a.csv:1: "messages" is text, not a list of messages; 1 of 1'),
    Bad("no messages", "a.jsonl", lines({"messages": []}),
        "a.jsonl:1: turns are none, not user and assistant in turn, assistant last; 1 of 1"),
    Bad("an image", "a.jsonl", lines({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, {}),
        'a.jsonl:1: message 1 has parts that are not text: "image_url" (which nothing carries); 2 of 2'),
    Bad("the last word is the user's", "a.jsonl", lines(talk("a", "b", "c"), talk("a", "b")),
        "a.jsonl:1: turns are user, assistant, user, not user and assistant in turn, assistant last; 1 of 2"),
    Bad("the user twice", "a.jsonl", lines({"messages": chat("a", "b", names=("user", "user"))}, {}),
        "a.jsonl:1: turns are user, user, not user and assistant in turn, assistant last; 2 of 2"),
    Bad("nothing but a system text", "a.jsonl", lines({"messages": [{"role": "system", "content": "a"}]}, {}),
        "a.jsonl:1: turns are none, not user and assistant in turn, assistant last; 2 of 2"),
    Bad("ShareGPT's content is a number", "a.jsonl", lines({"conversations": [{"from": "human", "value": 3}]}, {}),
        "a.jsonl:1: message 1 is a number, not text; 2 of 2"),
    Bad("an answer of blanks", "a.jsonl", lines(talk("a", "  ", "b", "c"), {}),
        "a.jsonl:1: an answer is empty; 2 of 2"),
    # 19  wrong types
    *(
        Bad(f"{name} is {json.dumps(value)}", "a.jsonl", one({name: value}), f'a.jsonl:1: "{name}" is {kind}, not text')
        for name, values in (("instruction", KINDS), ("input", KINDS[:2]), ("output", KINDS), ("system", KINDS[2:]))
        for value, kind in values
    ),
    Bad("output is 0.5", "a.jsonl", one({"output": 0.5}), 'a.jsonl:1: "output" is a number, not text; 1 of 1'),
    Bad("output is null", "a.jsonl", one({"output": None}), 'a.jsonl:1: "output" is null, not text; 1 of 1'),
    Bad("instruction is null", "a.jsonl", one({"instruction": None}),
        'a.jsonl:1: "instruction" is null, not text; 1 of 1'),
    # 20  mixed
    Bad("messages among rows", "a.jsonl", lines(*rows(9), talk("a", "b")),
        "a.jsonl:10: messages, in a file of alpaca rows (give each kind a file of its own: data.path=[A,B]); 1 of 10"),
    Bad("rows among messages", "a.jsonl", lines(talk("a", "b"), *rows(9)),
        "a.jsonl:2: alpaca, in a file of messages rows (give each kind a file of its own: data.path=[A,B]); 9 of 10"),
    Bad("conversations among messages", "a.jsonl", lines(talk("a", "b"), {"conversations": chat("c", "d")}),
        "a.jsonl:2: conversations, in a file of messages rows (give each kind a file of its own: data.path=[A,B]); 1 of"
        " 2"),
    Bad("numbers among rows", "a.jsonl", lines(*rows(9), "3", "null"),
        "a.jsonl:10: a number, not an object with instruction and output; 2 of 11"),
    # 21, 25  empty
    Bad("an empty output", "a.jsonl", one({"output": ""}), 'a.jsonl:1: "output" is empty; 1 of 1'),
    Bad("an output of blanks", "a.jsonl", one({"output": " \n\t\u00a0\u3000"}), 'a.jsonl:1: "output" is empty; 1 of 1'),
    Bad("an empty instruction", "a.jsonl", one({"instruction": ""}),
        "a.jsonl:1: instruction and input are empty; 1 of 1"),
    Bad("an instruction and input of blanks", "a.jsonl", one({"instruction": " ", "input": "\n"}),
        "a.jsonl:1: instruction and input are empty; 1 of 1"),
    # 23, 24  too long
    Bad("max_length 1", "good.json", GOOD, "data.max_length=1: must be 2 or more", "data.max_length=1", 2),
    Bad("max_length 2", "good.json", GOOD, "good.json:1: 208 tokens, more than 2; 40 of 40", "data.max_length=2"),
    Bad("max_length beyond the context", "good.json", GOOD,
        "data.max_length=2000: the model's context is 1024 (make it that or less)", "data.max_length=2000", 2),
    Bad("pad_to beyond the context", "good.json", GOOD,
        "data.pad_to=2000: the model's context is 1024 (make it that or less)", "data.pad_to=2000", 2),
    Bad("the prompt fills the context", "a.jsonl", one({"input": "x" * 3000}),
        "a.jsonl:1: 3221 tokens, more than 1024: the prompt alone fills the context; 1 of 1",
        "data.too_long=truncate_response"),
    Bad("the response fills the context", "a.jsonl", one({"output": "x" * 3000}),
        "a.jsonl:1: 3207 tokens, more than 1024: the response alone fills the context; 1 of 1",
        "data.too_long=truncate_prompt"),
    Bad("too long is an error", "a.jsonl", lines(row(0), row(1, input="x" * 3000)),
        "a.jsonl:2: 3221 tokens, more than 1024 (data.too_long=drop leaves it out; truncate_prompt "
        "keeps a part)", "data.too_long=error"),
    Bad("too long is unknown", "good.json", GOOD,
        "data.too_long=cut: must be one of drop, drop_turns, truncate_prompt, truncate_response, error",
        "data.too_long=cut", 2),
    # 26  double
    Bad("the same row 40 times", "a.jsonl", lines(*[row(0)] * 40),
        "data.fractions.train=0.85: 1 rows give 0 for train (give more rows, or another fraction)"),
    Bad("near twins alone", "a.jsonl", lines(*(row(0, input=f"{i} " + "x" * 200) for i in range(40))),
        "data.split=clustered: nearly all 40 rows are near twins, none is left for "),
    # 27, 28  ready-made splits and evaluations
    Bad("no test file", "good.json", GOOD, "none.json: no such file (check data.path)", "data.test_path=none.json"),
    Bad("an empty test file", "empty.json", "",
        "empty.json: no rows (the file is empty)", "data.path=good.json data.test_path=empty.json"),
    Bad("a broken validation file", "val.json", LIST,
        "val.json:40: the file ends in the middle of this row (was it cut off?)",
        "data.path=good.json data.val_path=val.json"),
    Bad("no row of a validation file", "val.json", "[null]",
        "val.json: no row of it can be used", "data.path=good.json data.val_path=val.json data.max_dropped=1"),
    Bad("a validation folder without data", "val", {},
        "val: no data files in this folder (.json .jsonl .ndjson .csv .tsv .parquet .arrow, or one of them",
        "data.path=good.json data.val_path=val"),
    Bad("the evaluation is missing", "good.json", GOOD,
        "none.json: no such file (check data.path)", "data.against=[none.json]"),
    Bad("the evaluation is cut", "eval.jsonl", lines(*rows(9))[:-9],
        "eval.jsonl:9: the file ends in the middle of this row (was it cut off?)",
        "data.path=good.json data.against=[eval.jsonl]"),
    Bad("the evaluation is a page", "eval.json", "<html>",
        "eval.json: an HTML page, not data (was the download an error page?)",
        "data.path=good.json data.against=[eval.json]"),
    # 29  tiny
    Bad("one row", "a.jsonl", lines(*rows(1)),
        "data.fractions.train=0.85: 1 rows give 0 for train (give more rows, or another fraction)"),
    Bad("nine rows", "a.jsonl", lines(*rows(9)),
        "data.fractions.test=0.1: 9 rows give 0 for test (give more rows, or another fraction, or 0 to go without)"),
    Bad("a test fraction too small", "good.json", GOOD,
        "data.fractions.test=0.02: 40 rows give 0 for test (give more rows, or another fraction, or 0 to go without)",
        "data.fractions.train=0.93 data.fractions.test=0.02"),
    # 30  fractions
    Bad("fractions below 1", "good.json", GOOD,
        "data.fractions: train, test and val add up to 0.65 (make it 1)", "data.fractions.train=0.5", 2),
    Bad("a fraction above 1", "good.json", GOOD,
        "data.fractions.train=1.5: must be from 0 to 1", "data.fractions.train=1.5", 2),
    Bad("a negative fraction", "good.json", GOOD,
        "data.fractions.val=-0.1: must be from 0 to 1", "data.fractions.val=-0.1", 2),
    Bad("a fraction that is no number", "good.json", GOOD,
        "data.fractions.val=nan: must be a finite number", "data.fractions.val=nan", 2),
    Bad("a fraction in words", "good.json", GOOD,
        "data.fractions.val: Value 'half' of type 'str' could not be converted to Float", "data.fractions.val=half", 2),
    Bad("no training rows wanted", "good.json", GOOD,
        "data.fractions.train=0: 40 rows give 0 for train (give more rows, or another fraction)",
        "data.fractions.train=0 data.fractions.test=0.5 data.fractions.val=0.5"),
    # 31  steps
    Bad("batches of nothing", "good.json", GOOD, "data.batch_size=0: must be 1 or more", "data.batch_size=0", 2),
    # 32-34  templates
    Bad("no place for a system text", "a.jsonl", one({"system": "Be brief."}),
        "a.jsonl:1: the prompt template seed_chapter has no place for its system; 1 of 1", "prompt=seed_chapter"),
    Bad("no place for an input", "a.jsonl", one({"input": "x"}),
        "a.jsonl:1: the prompt template alpaca has no place for its input; 1 of 1",
        "'prompt.segments=[{text: \"{instruction}{output}\", supervised: true}]'"),
    Bad("a template without a response", "good.json", GOOD,
        "prompt.segments: {output} must stand once in a row with input (alpaca)",
        "'prompt.segments=[{text: \"{instruction}\"}]'", 2),
    Bad("a prompt that is not there", "good.json", GOOD,
        "prompt=nope: no such choice (there is alpaca, ", "prompt=nope", 2),
    Bad("a prompt outside", "good.json", GOOD,
        "prompt=../train: no such choice (there is alpaca, ", "prompt=../train", 2),
    Bad("a chat template that is not given", "good.json", GOOD,
        "prompt=chat: openai-community/gpt2 has no chat template (prompt.chat_template=FOLDER of a model ",
        "prompt=chat", 2),
    Bad("a chat template that is not there", "good.json", GOOD,
        "prompt.chat_template=none: no chat template (needs chat_template.jinja, or ",
        "prompt=chat prompt.chat_template=none", 2),
    # what the command is told
    Bad("no file", "", nothing, "ift check: no file given (ift check FILE)", code=2),
    Bad("a near name", "good.json", GOOD,
        "data.max_lenght: no such key (did you mean data.max_length?)", "data.max_lenght=5", 2),
    Bad("a near name of a group", "good.json", GOOD,
        "data.field.output: no such key (did you mean data.fields.output?)", "data.field.output=a", 2),
    Bad("a key of training", "good.json", GOOD,
        "trainer.max_epochs: means something to train.py alone (leave it out)", "trainer.max_epochs=3", 2),
    Bad("a name in the wrong group", "good.json", GOOD,
        "max_length: no such key (did you mean data.max_length?)", "max_length=5", 2),
    Bad("a model that is not there", "good.json", GOOD,
        "model=gpt5: no such choice (ift train --help lists all ", "model=gpt5", 2),
    Bad("a tokenizer that is not there", "good.json", GOOD,
        "model.tokenizer=gpt5: must be gpt2, demo or a folder with a tokenizer.json", "model.tokenizer=gpt5", 2),
    Bad("a length in words", "good.json", GOOD,
        "data.max_length: Value 'long' of type 'str' could not be converted to Integer", "data.max_length=long", 2),
    Bad("a split in words", "good.json", GOOD,
        "data.split=sorted: must be one of clustered, random, positional", "data.split=sorted", 2),
    Bad("twins below a half", "good.json", GOOD, "data.twins=0.3: must be from 0.5 to 1", "data.twins=0.3", 2),
    Bad("max_dropped in percent", "good.json", GOOD,
        "data.max_dropped=5.0: must be from 0 to 1", "data.max_dropped=5", 2),
    Bad("a reference to nothing", "good.json", GOOD,
        "data.max_length: Interpolation key 'nope' not found", "data.max_length=${nope}", 2),
    Bad("a list that stays open", "good.json", GOOD,
        "data.against=[a: not key=value (quote it: 'key=\"a value\"')", "data.against=[a", 2),
    Bad("a value without a key", "good.json", GOOD, "=5: not key=value (quote it: 'key=\"a value\"')", "=5", 2),
    Bad("a group of training", "good.json", GOOD,
        "data: means something to train.py alone (leave it out)", "data=json", 2),
    Bad("a group is a number", "good.json", GOOD,
        "data.fields: Invalid type assigned: int is not a subclass of FieldSettings. value: 5", "data.fields=5", 2),
    Bad("weights for another number of files", "good.json", GOOD,
        "data.weights: 2 for 1 in data.path (give one for each)", "data.weights=[1,2]", 2),
    Bad("a negative weight", "good.json", GOOD, "data.weights=-1.0: must be 0 or more", "data.weights=[-1]", 2),
    Bad("weights in words", "good.json", GOOD,
        "data.weights[0]: Value 'much' of type 'str' could not be converted to Float", "data.weights=[much]", 2),
    Bad("a weight that is no list", "good.json", GOOD,
        "data.weights: Invalid value assigned: AnyNode is not a ListConfig, list or tuple.", "data.weights=2", 2),
    Bad("no weight at all", "good.json", GOOD,
        "data.weights: all are 0, no row would be trained on (make one more than 0)", "data.weights=[0.0]", 2),
    Bad("a weight for the demo", "", nothing,
        "data.weights: only files have weights (data.path=[A,B] data.weights=[2,1])",
        "data.path= data.demo_rows=60 data.weights=[2]", 2),
    Bad("a path that is a number", "", nothing,
        "data.path=3: must be a path, or a list of paths: [A,B]", "data.path=3", 2),
    Bad("a path that is an object", "", nothing,
        "data.path={'a': 'b'}: must be a path, or a list of paths: [A,B]", "data.path={a:b}", 2),
    Bad("an empty path in a list", "", nothing,
        "data.path=['good.json', None]: must be a path, or a list of paths: [A,B]", "data.path=[good.json,null]", 2),
    Bad("a path that is empty", "", nothing,
        "data.path: not set (data.path=FILE, data.hub=NAME or data=demo)", "data.path=", 2),
    Bad("the second file", "b.json", "[",
        "b.json:1: the file ends in the middle of this row (was it cut off?)", "data.path=[good.json,b.json]"),
    Bad("an output below a file", "good.json", GOOD,
        "good.json/x: Not a directory (is the disk full, the folder writable?)", "--output=good.json/x", 5),
    Bad("an output that is a file", "good.json", GOOD,
        "good.json: File exists (is the disk full, the folder writable?)", "--output=good.json", 5),
    Bad("an option that is not there", "good.json", GOOD, "--nope: no such option (ift --help shows how)", "--nope", 2),
]  # fmt: skip


NOTHING_TO_DO = ("cannot be read: ",)  # the line ends without a (what to do)


def make(path, content):
    if callable(content):
        content(path)
    elif isinstance(content, dict):  # a folder
        path.mkdir()
        for name, inside in content.items():
            make(path / name, inside)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def contents(folder):
    """Digests of all files, but not of what the command writes."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**8 and "out" not in path.parts
    }


def check(*words, cwd, run=run, **environment):
    """`ift check` as a process of its own, to which torch is not there."""
    return run("-m", "ift.cli", "check", *words, cwd=cwd, timeout=60, **NO_TORCH, **environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer):
    """Where each case gets a folder of its own, beside the tokenizer."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "bytes").mkdir()
    byte_tokenizer.save(folder / "bytes", context_length=1024)
    return folder


@pytest.fixture
def own(folder):
    """A folder with a good file, beside the tokenizer."""
    path = folder / f"own{len(list(folder.iterdir()))}"
    make(path, {"good.json": GOOD})
    return path


def as_printed(line):
    """A row's reason with the advice behind the count of such rows, where no line is shortened."""
    reason, counted, count = line.rpartition("; ")
    start = advice_start(reason)
    if not (counted and count[0].isdigit() and start < len(reason)):
        return line
    return f"{reason[:start]}; {count} rows cannot be used and are in out/rejected.jsonl{reason[start:-1]}"


def end(case, own, warm):
    """The ended process of a case, and whether its files are as they were."""
    if case.file and not case.file.startswith(("/", "good.json", ".")):
        make(own / case.file, case.content)
    before = contents(own)
    words = ["--output=out", "model.tokenizer=../bytes", *shlex.split(case.keys)]  # of a key given twice the last holds
    if case.file and "data.path=" not in case.keys:
        words.append(case.file)
    done = check(*words, cwd=own, run=run if case in (*BAD[::20], *ODD[::20]) else warm.run)
    return done, contents(own) == before


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.what)
def test_a_bad_file_ends_in_one_line_that_says_where_what_and_what_to_do(case, own, warm_without_torch):
    done, unchanged = end(case, own, warm_without_torch)
    assert done.stderr.startswith(f"ift: error: {as_printed(case.line)}")
    assert done.stderr.endswith(")\n") or case.code != 3 or any(words in done.stderr for words in NOTHING_TO_DO)
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert len(done.stderr) <= 301
    assert done.returncode == case.code
    assert done.stdout == ""
    assert unchanged


def test_each_case_has_a_name_of_its_own():
    for cases in (BAD, ODD):
        assert len({case.what for case in cases}) == len(cases)


# ----------------------------------------------------------------------------------------------------------------------
# odd but fine


@dataclasses.dataclass(frozen=True)
class Odd:
    what: str
    file: str
    content: Any  # as of Bad; a dictionary is a folder
    counts: str = "40 40 0 0"  # rows in, kept, dropped, merged
    keys: str = ""
    report: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the report says besides


RECORDS = rows(40)
TABLE = table(RECORDS)


def among(record, n=199):
    """A good row after each 100, and this one among them."""
    good = [json.dumps(each) for each in rows(n)]
    return lines(*good[:100], record, *good[100:])


def spelled(*texts):
    """Rows with these texts as input and output."""
    return lines(*rows(38), *(row(100 + i, input=text, output=text) for i, text in enumerate(texts)))


def each(make):
    """The 40 rows, each made into something else."""
    return lines(*(make(record) for record in RECORDS))


def format_is(name):
    return {"format": name}  # of its one file


def warned(about, *numbers):
    return {"warnings": {about: {"rows": len(numbers), "first": list(numbers)}}}


SENTENCE = " ".join(f"word{i}" for i in range(13))
SYSTEM = {"role": "system", "content": "Be brief."}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}]
ANSWER = {"role": "assistant", "content": "c", "tool_calls": None, "weight": 1}
MARKER = "spells a marker of the prompt template, which moves no boundary"
INVISIBLE = "invisible or control characters"

ODD = [
    # 1  told apart by what is in them
    Odd("lines named .json", "a.json", lines(*RECORDS)),
    Odd("a list named .jsonl", "a.jsonl", GOOD),
    Odd("a list named .csv", "a.csv", GOOD),
    Odd("lines named .txt", "a.txt", lines(*RECORDS)),
    Odd("a list without a suffix", "rows", json.dumps(RECORDS, indent=4), report=format_is("alpaca")),
    # 2  tables
    Odd("CSV", "a.csv", TABLE),
    Odd("TSV", "a.tsv", table(RECORDS, "\t")),
    Odd("a table named text", "a.txt", TABLE),
    Odd("names with a blank before them", "a.csv", "instruction, output\n" + "".join(f"a {i}, b\n" for i in range(40))),
    Odd("pandas' index", "a.csv", ",instruction,output\n" + "".join(f"{i},a {i},b\n" for i in range(40))),
    Odd("rows under a key", "a.json", json.dumps({"version": 1, "data": RECORDS})),
    Odd("zip", "a.zip", archive(a=GOOD)),
    Odd("bzip2", "a.jsonl.bz2", bz2.compress(GOOD.encode())),
    Odd("xz", "a.jsonl.xz", lzma.compress(GOOD.encode())),
    Odd("CSV with semicolons", "a.csv", table(RECORDS, ";")),
    Odd("CSV that says its mark", "a.csv", "sep=|\n" + table(RECORDS, "|")),
    Odd("CSV of an old Macintosh", "a.csv", TABLE.replace("\n", "\r")),
    Odd("lines and quotes in fields", "a.csv", table([row(i, input='1\n"2", 3') for i in range(40)])),
    Odd("parquet", "a.parquet", parquet(RECORDS)),
    Odd("parquet named .json", "a.json", parquet(RECORDS)),
    Odd("parquet of messages", "a.parquet", parquet([talk(f"a{i}", "b") for i in range(40)]), keys="data.split=random"),
    # 3, 4  encodings
    Odd("a byte order mark", "a.json", b"\xef\xbb\xbf" + GOOD.encode()),
    Odd("UTF-16 LE", "a.jsonl", b"\xff\xfe" + lines(*RECORDS).encode("utf-16-le")),
    Odd("UTF-16 BE", "a.json", b"\xfe\xff" + GOOD.encode("utf-16-be")),
    Odd("UTF-16, a table", "a.csv", b"\xff\xfe" + TABLE.encode("utf-16-le")),
    Odd("UTF-32", "a.json", b"\xff\xfe\0\0" + GOOD.encode("utf-32-le")),
    # 5, 6  lines
    Odd("CRLF", "a.jsonl", lines(*RECORDS).replace("\n", "\r\n")),
    Odd("blank lines", "a.jsonl", "\n\n" + lines(*RECORDS).replace("\n", "\n \t\n")),
    Odd("no end of the last line", "a.jsonl", lines(*RECORDS).rstrip()),
    Odd("a line separator in a text", "a.jsonl", lines(*rows(39), '{"instruction": "a\u2028b\x85c", "output": "d"}')),
    Odd("emoji as pairs", "a.jsonl", lines(*rows(39), '{"instruction": "\\ud83d\\ude00", "output": "\\ud83c\\udf4e"}')),
    # 10  gzip
    Odd("gzip", "a.jsonl.gz", zipped(lines(*RECORDS).encode())),
    Odd("gzip named .json", "a.json", zipped(GOOD.encode())),
    Odd("gzip in parts", "a.jsonl.gz", b"".join(zipped(lines(record).encode()) for record in RECORDS)),
    # 13  paths
    Odd("a link to a file", "a.json", link("good.json")),
    Odd("a folder", "data",
        {"a.json": json.dumps(rows(20)), "b.csv": table(rows(20, 20)), "README.md": "#", "._a.json": "x"}),
    Odd("the folder one stands in", ".", nothing),
    Odd("two files", "b.jsonl", lines(*rows(20, 50)), "60 60 0 0", "data.path=[good.json,b.jsonl]"),
    Odd("a name with =", "a=b.json", GOOD),
    Odd("a name with blanks", "my rows (1).json", GOOD),
    Odd("a name in Japanese", "データ 😀.json", GOOD),
    Odd("a name with a line break", "a\nb.json", GOOD),
    Odd("a name with brackets", "[red]{a}[0].json", GOOD),
    Odd("a name in Latin-1", os.fsdecode(b"caf\xe9.json"), GOOD),
    Odd("a name of 250 letters", 245 * "a" + ".json", GOOD),
    # 18  formats and names
    Odd("prompts", "a.jsonl", each(lambda r: {"prompt": r["instruction"], "completion": "x"}),
        report=format_is("prompt")),
    Odd("messages", "a.jsonl", each(lambda r: talk(r["instruction"], "x")), report=format_is("messages")),
    Odd("conversations", "a.jsonl", each(lambda r: sharegpt(r["instruction"], "x")), report=format_is("conversations")),
    Odd("several turns", "a.jsonl", each(lambda r: talk(r["instruction"], "x", "and?", "y"))),
    Odd("a system text", "a.jsonl", each(lambda r: {"messages": [SYSTEM, *chat(r["instruction"], "x")]})),
    Odd("ShareGPT's system text", "a.jsonl",
        each(lambda r: {"system": "Be brief.", **sharegpt(r["instruction"], "x")})),
    Odd("a system column", "a.csv", table([row(i, system="Be brief." * (i % 2)) for i in range(40)])),
    Odd("OpenAI's parts and other keys", "a.jsonl",
        lines(*(talk(f"{i}", "x") for i in range(39)), {"messages": [*PARTS, ANSWER]})),
    Odd("one conversation as a file", "val.jsonl", lines(talk("a", "b")),
        "41 41 0 0", "data.path=good.json data.val_path=val.jsonl"),
    Odd("other names", "a.csv", TABLE.replace("instruction", "question").replace("output", "answer"),
        keys="data.fields.instruction=question data.fields.output=answer"),
    Odd("more columns", "a.jsonl", each(lambda r: {"id": 1, "meta": {"a": [1, None]}, **r})),
    Odd("categories", "a.jsonl", lines(*(row(i, category=["a", "b", "b", 3][i % 4]) for i in range(40))),
        report={"categories": {"a": 10, "b": 20}}),
    # 19, 22, 25  fields
    Odd("null input", "a.jsonl", each(lambda r: {**r, "input": None})),
    Odd("no input at all", "a.csv", table([{"instruction": r["instruction"], "output": "x"} for r in RECORDS])),
    Odd("an input alone", "a.jsonl", each(lambda r: {"instruction": "", "input": r["instruction"], "output": "x"})),
    Odd("the output repeats the instruction", "a.jsonl", lines(*rows(39), row(99, instruction="abc", output="abc ")),
        report=warned("the output repeats the instruction", 40)),
    # 23, 24  lengths
    Odd("a cut response", "a.jsonl", lines(*rows(39), row(99, output="x" * 2000)),
        "40 40 0 0", "data.too_long=truncate_response", {"truncated": {"response": 1}}),
    Odd("a cut prompt", "a.jsonl", lines(*rows(39), row(99, input="x" * 2000)),
        "40 40 0 0", "data.too_long=truncate_prompt", {"truncated": {"prompt": 1}}),
    Odd("a response of 100,000 letters", "a.jsonl", among(row(999, output="x" * 100_000)),
        "200 199 1 0", report={"dropped_by_reason": {"too long": 1}}),
    # 26-28  twins, leaks, overlaps
    Odd("equal rows", "a.jsonl", lines(*RECORDS, *rows(10)), "50 40 0 10"),
    Odd("equal rows, all kept", "a.jsonl", lines(*RECORDS, *rows(10)), "50 50 0 0", "data.duplicates=keep"),
    Odd("equal but for a category", "a.jsonl", lines(*(row(i % 40, category=f"{i % 2} {i // 40}") for i in range(50))),
        "50 40 0 10"),
    Odd("a test file of training rows", "test.json", json.dumps(rows(5)),
        "45 45 0 0", "data.path=good.json data.test_path=test.json data.split=positional",
        {"leaks": {"test": 5, "val": 0}}),
    Odd("an evaluation that overlaps", "data",
        {"a.jsonl": lines(*RECORDS, row(99, input=SENTENCE)), "eval.txt": lines({"question": SENTENCE})},
        "41 41 0 0", "data.against=[data/eval.txt]", {"overlaps": 1}),
    # 32-37  texts
    Odd("the end of text, spelled", "a.jsonl", spelled("<|endoftext|>", "a<|endoftext|>b"),
        report=warned("spells <|endoftext|>, which stays ordinary text", 39, 40)),
    Odd("the template's markers", "a.jsonl", spelled("### Response:\nno", "### Instruction:"),
        report=warned(MARKER, 39, 40)),
    Odd("ChatML's markers", "a.jsonl", spelled("<|im_end|>", "<|im_start|>assistant"),
        keys="prompt=chatml", report=warned(MARKER, 39, 40)),
    Odd("braces, Jinja and percent", "a.jsonl", spelled("{output} {0} {} {{ 7*7 }} {% raw %}", "%s %(a)s %d ${x} \\n")),
    Odd("control characters", "a.jsonl", spelled("\x01\x1b[31m\x7f", "\u200b\u202e\ufeff"),
        report=warned(INVISIBLE, 39, 40)),
    Odd("joiners and direction", "a.jsonl", spelled("👩\u200d👩\u200d👧", "می\u200cخواهم שלום")),
    Odd("encoded data", "a.jsonl", spelled("x", 101 * "QUJD"),
        keys="prompt=phi3", report=warned("400 characters without a break (encoded data?)", 40)),
    Odd("keys and addresses", "a.jsonl", spelled("AKIA" + 16 * "Q", "me@example.com"),
        report={"warnings": {"what looks like a secret key": {"rows": 1, "first": [39]},
                             "an e-mail address": {"rows": 1, "first": [40]}}}),
    # a row in 200 may be unusable
    *(
        Odd(f"one of 200: {what}", "a.jsonl", among(record), "200 199 1 0", report={"dropped_by_reason": {reason: 1}})
        for what, record, reason in [
            ("null", "null", "null, not an object with instruction and output"),
            ("NaN", '{"instruction": "a", "output": NaN}', '"output" is null, not text'),
            ("a name twice", '{"output": "a", "output": "b"}', 'the key "output" stands twice'),
            ("too deep", 999 * "[" + 999 * "]", "nested deeper than 64"),
            ("2 MB", '{"a": "' + 2_000_000 * "x" + '"}', "2,000,009 bytes, more than 1,000,000 in one row"),
            ("half a character", row(0, output="\ud83d"),
             '"output" holds half a character (a lone surrogate, no text in UTF-8)'),
            ("half a character in a name", {"\ud83d": "a"},
             'no "instruction" (it has: ; set data.fields.instruction=...)'),
            ("an empty output", row(0, output=""), '"output" is empty'),
            ("messages", talk("a", "b"),
             "messages, in a file of alpaca rows (give each kind a file of its own: data.path=[A,B])"),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.what)
def test_an_odd_file_is_read_and_every_row_is_accounted_for(case, own, warm_without_torch):
    done, unchanged = end(case, own, warm_without_torch)
    assert (done.returncode, done.stderr) == (0, "")
    assert unchanged
    report = read_json(own / "out/data_report.json")
    rows_in, kept, dropped, merged = (report[name] for name in ("rows_in", "kept", "dropped", "merged"))
    assert f"{rows_in} {kept} {dropped} {merged}" == case.counts
    assert rows_in == kept + dropped + merged
    assert sum(report["splits"].values()) == kept
    assert sum(report["dropped_by_reason"].values()) == dropped
    rejected = read_jsonl(own / "out/rejected.jsonl") if dropped + merged else []
    assert len({(each["file"], each["row"]) for each in rejected}) == len(rejected) == dropped + merged
    assert all(set(each) == {"file", "row", "reason", "raw"} for each in rejected)
    assert sum(each["reason"].startswith("merged: equal to ") for each in rejected) == merged
    assert (own / "out/rejected.jsonl").exists() == bool(rejected)
    report["format"] = report["files"][0]["format"]
    report["warnings"].pop("an answer of one word (is that wanted?)", None)  # RECORDS have numbers as answers
    for about in report["warnings"].values():
        assert about.pop("example")
    for key, value in case.report.items():
        assert report[key] == value


def test_a_category_of_a_merged_row_alone_is_no_error(own):
    make(own / "a.jsonl", lines(*RECORDS, row(0, category="again")))
    assert check(TOKENIZER, "a.jsonl", cwd=own).returncode == 0


# ----------------------------------------------------------------------------------------------------------------------
# what a process must bear


TOKENIZER = "model.tokenizer=../bytes"


def start(*words, cwd, **options):
    command = [sys.executable, "-m", "ift.cli", "check", TOKENIZER, *words]
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **NO_TORCH}, stderr=subprocess.PIPE, **options)


def test_a_reader_that_hangs_up_is_no_error(own):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("good.json", cwd=own, stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == b""
    assert read_json(own / "runs/check/good/data_report.json")["kept"] == 40


def test_head_takes_its_line_and_goes(own):
    process = start("good.json", cwd=own, stdout=subprocess.PIPE)
    head = subprocess.run(["head", "-1"], stdin=process.stdout, capture_output=True, text=True, timeout=60)
    process.stdout.close()
    assert head.stdout.startswith("data      40 rows in = 40 kept + 0 dropped; ")
    assert process.communicate(timeout=60)[1] == b""


def test_without_any_stdout_the_report_is_written(own):
    process = start("good.json", cwd=own, preexec_fn=partial(os.close, 1))
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0
    assert read_json(own / "runs/check/good/data_report.json")["kept"] == 40


def test_a_full_disk_behind_stdout_is_an_error_of_the_machine(own):
    with open("/dev/full", "wb") as full:
        process = start("good.json", cwd=own, stdout=full)
        assert process.communicate(timeout=60)[1].startswith(b"ift: error: stdout: No space left on device (")
    assert process.returncode == 5


def test_a_terminal_that_knows_no_unicode_gets_question_marks(own):
    done = check(TOKENIZER, "good.json", cwd=own, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


@pytest.mark.parametrize(
    "given",
    [
        {"IFT_CACHE_DIR": "blocked/cache"},
        {"IFT_CACHE_DIR": "/proc/nowhere"},
        {"IFT_CACHE_DIR": "", "XDG_CACHE_HOME": "/proc"},
        {"IFT_CACHE_DIR": "", "HOME": "/proc/nowhere"},
        {"IFT_CACHE_DIR": "", "HOME": ""},
    ],
    ids=str,
)
def test_without_a_home_or_a_cache_one_line_says_so_and_the_check_goes_on(own, given):
    make(own / "blocked", "a file")
    environment = {key: value for key, value in given.items() if value or key != "HOME"}
    if given.get("HOME") == "":
        environment["HOME"] = str(own / "blocked")
    done = check(TOKENIZER, "good.json", cwd=own, **environment)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("(data.cache_dir=FOLDER names another)\n")
    assert read_json(own / "runs/check/good/data_report.json")["kept"] == 40


def test_a_file_that_changes_while_it_is_read_is_refused(own, monkeypatch, capsys):
    read = sources.read_records

    def read_and_write(path, *more):
        for record in read(path, *more):
            path.write_text(GOOD)
            yield record

    monkeypatch.setattr(sources, "read_records", read_and_write)
    monkeypatch.setattr(sys, "argv", ["ift", "check", "good.json", TOKENIZER])
    monkeypatch.chdir(own)
    assert cli.main() == 3
    expected = "ift: error: good.json: changed while it was read (start again when it is whole)\n"
    assert capsys.readouterr() == ("", expected)


def test_two_checks_of_one_file_at_a_time_both_end_well(own):
    both = [start("good.json", f"--output=out{i}", cwd=own, stdout=subprocess.DEVNULL) for i in range(2)]
    assert [process.communicate(timeout=60)[1] for process in both] == [b"", b""]
    assert [process.returncode for process in both] == [0, 0]


@pytest.mark.parametrize("size", [4e6, 20e6], ids=["one process", "with workers"])
def test_ctrl_c_leaves_nothing_half_made(own, size):
    text = lines(*rows(2000))
    make(own / "large.jsonl", text * int(size / len(text)))
    options = {"stdout": subprocess.PIPE, "start_new_session": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job would not listen to it
    process = start("large.jsonl", "data.cache_dir=cache", cwd=own, preexec_fn=heard, **options)
    begun = time.monotonic()
    while not any(part.stat().st_size for part in own.glob("cache/*.part/ids.bin")) and process.poll() is None:
        assert time.monotonic() < begun + 60
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert [path.suffix for path in own.glob("cache/*")] == [".lock"]
    assert not list(own.glob("runs/**/*.part"))
    assert errors == b""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_do_not_outlive_a_killed_check(own):
    text = lines(*rows(2000))
    make(own / "large.jsonl", text * int(20e6 / len(text)))
    process = start("large.jsonl", "data.cache_dir=cache", cwd=own, stdout=subprocess.PIPE, start_new_session=True)
    begun = time.monotonic()
    while not any(part.stat().st_size for part in own.glob("cache/*.part/ids.bin")) and process.poll() is None:
        assert time.monotonic() < begun + 60
        time.sleep(0.02)
    assert len(living(process.pid)) > 1
    process.kill()
    process.communicate(timeout=60)
    while living(process.pid):
        assert time.monotonic() < begun + 60
        time.sleep(0.05)


def living(session):
    """Processes of a session that have not ended."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return [stat for stat in stats if int(stat[3]) == session and stat[0] != "Z"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_one_may_not_read_says_so(own):
    (own / "good.json").chmod(0)
    done = check(TOKENIZER, "good.json", cwd=own)
    assert (done.returncode, done.stderr) == (3, "ift: error: good.json: cannot be read: Permission denied\n")
    make(own / "data", {"a.json": GOOD})
    (own / "data").chmod(0)
    for path in ("data", "data/a.json"):
        done = check(TOKENIZER, path, cwd=own)
        assert (done.returncode, done.stderr) == (3, f"ift: error: {path}: cannot be read: Permission denied\n")


# ----------------------------------------------------------------------------------------------------------------------
# laws for any rows at all

EXAMPLES = int(os.environ.get("IFT_EXAMPLES", "200"))  # in all; a quarter of them for the accounting, which is slower
NO_SEGMENTS = ("auto", "auto_phi3", "chat", "none")
SHIPPED = [path.stem for path in sorted((ROOT / "conf/prompt").glob("*.yaml")) if path.stem not in NO_SEGMENTS]
CLOSING = {"chatml": "<|im_end|>"}  # what a template has after the response
PIECES = [
    *("<|endoftext|>", "### Response:", "### Instruction:\n", "<|im_end|>", "<|im_start|>assistant\n", "<|user|>\n"),
    *("{output}", "{{ x }}", "%s", "\\", "\x1b[31m", "\x7f", "\u200b", "\u202e", "\ufeff", "\u2028"),
    *("\r\n", "  ", "\n"),
    *("👩\u200d👩\u200d👧", "😀", "é", "e\u0301", "日本", "שלום", "١٢", "the cat", "'ll", "12", "x"),
]
text = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join)
said = text.map(lambda words: words + ".")  # never empty
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.just("\ud83d"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
FORMATS = {
    "alpaca": lambda turns, system: {"instruction": turns[0], "input": None, "output": turns[1], "system": system},
    "prompt": lambda turns, system: {"prompt": turns[0], "completion": turns[1]},
    "messages": lambda turns, system: {"messages": [{"role": "system", "content": system}, *chat(*turns)]},
    "conversations": lambda turns, system: {"system": system, **sharegpt(*turns)},
}


@st.composite
def files(draw):
    """JSON texts of at least ten rows that are fine and others, most of one format, many of them equal."""
    kind = draw(st.sampled_from(sorted(FORMATS)))
    turns = st.lists(text, min_size=2, max_size=2) | st.lists(text, max_size=5).filter(lambda t: len(t) >= 2)
    right = st.builds(FORMATS[kind], turns, text)
    other = st.sampled_from(sorted(FORMATS)).flatmap(lambda name: st.builds(FORMATS[name], turns, text))
    wrong = st.builds(lambda row, key, value: {**row, key: value}, right, st.sampled_from(FIELDS), anything)
    record = (right | right | wrong | other | anything).map(json.dumps) | st.sampled_from(BROKEN)
    drawn = draw(st.lists(record, max_size=12))
    twice = draw(st.lists(st.sampled_from(drawn), max_size=4)) if drawn else []
    first, *fine = [json.dumps(FORMATS[kind]([f"{i}?", f"{i}!"], "")) for i in range(10)]
    return [first, *draw(st.permutations([*fine, *drawn, *twice]))]


FIELDS = ["instruction", "input", "output", "system", "prompt", "completion", "messages", "conversations"]
BROKEN = ['{"a": NaN}', '{"a": 1, "a": 2}', '{"b": ' + 70 * "[" + 70 * "]" + "}", '{"output": "' + 2000 * "x" + '"}']


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    records=files(),
    listed=st.booleans(),
    template=st.sampled_from(SHIPPED),
    max_length=st.integers(150, 400),
    too_long=st.sampled_from(["drop", "truncate_prompt", "truncate_response"]),
    duplicates=st.sampled_from(["merge", "keep"]),
    split=st.sampled_from(["random", "positional"]),
)
def test_every_row_is_either_in_a_split_or_rejected_with_a_reason(
    records, listed, template, max_length, too_long, duplicates, split, byte_tokenizer, settings_of, tmp_path_factory
):
    folder = tmp_path_factory.getbasetemp() / "accounting"
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / "rows.json"
    make(folder, {"rows.json": "[" + ",\n".join(records) + "]" if listed else "\n".join(records)})
    told = settings_of("data=json", "data.path=set.below", "data.split_seed=1", f"prompt={template}")
    data = dataclasses.replace(
        told.data, path=str(path), max_length=max_length, too_long=too_long, duplicates=duplicates, split=split,
        cache_dir=str(folder / "cache"), max_dropped=1.0, fractions=FractionSettings(0.8, 0.1, 0.1),
    )  # fmt: skip
    run = RunFolder(folder / "run")
    try:
        prepared = prepare(data, template_from(told.prompt), byte_tokenizer, context_length=1024, run=run)
    except DataError as error:  # the one thing that stops it: a column of another format
        if " is not used, and reads like " not in str(error):
            raise
        return
    report = prepared.report
    assert report["rows_in"] == len(records) == report["kept"] + report["dropped"] + report["merged"]
    assert sum(report["splits"].values()) == report["kept"]
    kept = [row.number for name in ("train", "test", "val") for row in prepared.rows[name]]
    assert kept == [example.row for name in ("train", "test", "val") for example in prepared.examples[name]]
    listing = folder / "run/rejected.jsonl"
    rejected = read_jsonl(listing) if listing.exists() else []
    assert sorted([*kept, *(each["row"] for each in rejected)]) == list(range(1, len(records) + 1))
    assert len(rejected) == report["dropped"] + report["merged"]
    assert all(each["file"] == str(path) and each["reason"] for each in rejected)
    assert report["merged"] == 0 or duplicates == "merge"


@pytest.fixture(scope="module")
def bpe():
    return Tokenizer.train([" ".join(PIECES), *(json.dumps(each) for each in rows(20))], size=400, name="small")


@settings(max_examples=EXAMPLES * 3 // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(st.tuples(said, said), min_size=1, max_size=3), given=text, system=text, length=st.integers(1, 400)
)
def test_the_tokens_with_a_loss_are_the_responses_and_nothing_else(
    turns, given, system, length, byte_tokenizer, bpe, settings_of
):
    *history, (instruction, output) = turns
    for tokenizer in (byte_tokenizer, bpe):
        for name in SHIPPED:
            template, closing = template_from(settings_of(f"prompt={name}").prompt), CLOSING.get(name, "")
            row = Row(instruction, given, output, file="f", number=1, system=system, history=tuple(history))
            if template.missing_place(row):
                row = dataclasses.replace(row, system="")
            encode = partial(make_example, row, template, tokenizer)
            whole = encode(max_length=10**9, too_long="error")
            look_at_whole(whole, row, template, tokenizer, closing)
            look_at_cut(encode, whole, row, template, tokenizer, length)


def look_at_whole(example, row, template, tokenizer, closing):
    """Every law of an example, from its ids alone."""
    end = example.ids == tokenizer.end_of_text
    assert (example.ends, example.truncated) == (True, None)
    assert end.sum() == len(row.history)
    assert 0 <= example.ids.min() <= example.ids.max() < tokenizer.vocab_size
    prompt = encode_prompt(row, template, tokenizer)
    assert example.ids[: len(prompt)].tolist() == prompt
    assert example.supervised[len(prompt) :].all()
    assert tokenizer.decode_bytes(example.ids[len(prompt) :].tolist()) == (row.output + closing).encode()
    if template.mask:
        outputs = [*(output for _, output in row.history), row.output]
        responses = "".join(output + closing for output in outputs).encode()
        assert not example.supervised[len(prompt) - 1] or end[len(prompt) - 1]
        assert tokenizer.decode_bytes(example.ids[example.supervised & ~end].tolist()) == responses
        assert example.supervised[end].all()
        assert (np.diff(example.supervised.astype(int)) == 1).sum() == len(outputs)
    else:
        assert example.supervised.all()
    assert example.targets == example.supervised[1:].sum() + 1


def look_at_cut(encode, whole, row, template, tokenizer, length):
    """The laws of each length policy: nothing is longer than the limit, and a cut response never ends."""
    prompt = len(encode_prompt(row, template, tokenizer))
    for too_long in ("drop", "error", "truncate_prompt", "truncate_response"):
        try:
            example = encode(max_length=length, too_long=too_long)
        except TooLong:
            assert whole.tokens > length
            assert too_long != "truncate_response" or prompt >= length
            continue
        assert example.tokens <= length
        if whole.tokens <= length:
            assert example.ids.tolist() == whole.ids.tolist()
            assert (example.ends, example.truncated) == (True, None)
        elif too_long == "truncate_response":
            assert (example.ends, example.truncated) == (False, "response")
            assert example.tokens == length > prompt
            assert example.ids.tolist() == whole.ids[:length].tolist()
            assert example.supervised.tolist() == whole.supervised[:length].tolist()
            assert example.targets == example.supervised[1:].sum()
        else:
            assert (too_long, example.ends, example.truncated) == ("truncate_prompt", True, "prompt")
            response = whole.tokens - prompt
            assert example.ids[-response:].tolist() == whole.ids[-response:].tolist()
            assert example.supervised[-response:].all()
            assert (example.ids == tokenizer.end_of_text).sum() == len(row.history)
