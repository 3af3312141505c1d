"""Files to records: JSON, JSONL, CSV, TSV and Parquet, also gzipped, told apart by what is in them.

A file is streamed: whatever its size, a few MB of it are in memory. A record that can be stepped over comes as an
Unreadable in its place; everything else that is wrong with a file is a DataError, `PATH:ROW: what (what to do)`.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ift.data.reading.json_records import COMMENT, json_lines, json_list
from ift.data.reading.tables import csv_records, parquet_records
from ift.data.reading.window import Window, decoded
from ift.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # in a folder; each may be followed by .gz
MAX_RATIO, MIN_BOMB = 200, 100_000_000  # gzip: this many times larger than its file and this many bytes is a bomb
CHUNK = 2**18  # bytes of a file at a time
HEAD = 4096  # bytes that tell what a file is

Advance = Callable[[int], None]


def data_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files as they are; a folder stands for the data files in it, by name. Raises DataError where it holds none."""
    return [file for path in map(Path, paths) for file in (_files_in(path) if os.path.isdir(path) else [path])]


def _files_in(folder: Path) -> list[Path]:
    try:
        files = sorted(file for file in folder.iterdir() if not file.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    # a hidden one is no data: macOS leaves a ._rows.json beside each rows.json
    data = [file for file in files if _suffix(file) in SUFFIXES and not file.name.startswith(".")]
    if not data:
        raise DataError(f"{folder}: no data files in this folder ({' '.join(SUFFIXES)}, or one of them with .gz)")
    return data


def _suffix(path: Path) -> str:
    """What the name says of the content: ".csv" for rows.CSV and rows.csv.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_records(path: Path, advance: Advance = lambda n: None) -> Iterator[tuple[int, Any]]:
    """Number (from 1; the line for JSONL) and value of each record, an Unreadable where it can be stepped over.

    advance is called with the number of bytes of the file (packed ones for gzip) that were used up since the last
    call. Raises DataError where the file cannot be read on or holds no record.
    """
    _check_kind(path)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        start = _read(path, raw.peek, 4)
        if start.startswith(b"PAR1"):
            yield from parquet_records(path, advance, buffer=CHUNK)
        else:
            file = gzip.GzipFile(fileobj=raw) if start.startswith(b"\x1f\x8b") else raw
            head = _read(path, file.peek, HEAD)
            yield from _text_records(path, head, _chunks(path, file, raw, advance))


# ----------------------------------------------------------------------------------------------------------------------
# bytes


def _check_kind(path: Path) -> None:
    """Raises DataError for what is no file. Done before it is opened: opening a pipe waits for its other end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        code = getattr(error, "errno", errno.ENOENT)
        if code == errno.ELOOP:
            raise DataError(f"{path}: a link that leads back to itself (check data.path)") from error
        if code not in (errno.ENOENT, errno.ENOTDIR):
            raise DataError(f"{path}: cannot be read: {os.strerror(code)}") from error
        if path.parts[:1] in (("http:",), ("https:",)):
            raise DataError(f"{path}: an address, not a file (download it first)") from error
        what = f"a link to {os.readlink(path)!r}, which is not there" if os.path.islink(path) else "no such file"
        raise DataError(f"{path}: {what} (check data.path)") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise DataError(f"{path}: not a file but a {kind} (give one JSON, JSONL, CSV, TSV or Parquet file)")


def _chunks(
    path: Path, file: io.BufferedReader | gzip.GzipFile, raw: io.BufferedReader, advance: Advance
) -> Iterator[bytes]:
    """Bytes of `file`, which is `raw` itself or unpacks it. Raises DataError where they cannot be read or unpacked."""
    size, used, out = path.stat().st_size, 0, 0
    while chunk := _read(path, file.read, CHUNK):
        out += len(chunk)
        if file is not raw and out > max(MIN_BOMB, MAX_RATIO * size):
            raise DataError(f"{path}: a gzip bomb: {out:,} bytes so far out of {size:,} (is this the right file?)")
        yield chunk
        used, before = raw.tell(), used
        advance(used - before)
    advance(raw.tell() - used)


def _read(path: Path, read: Callable[[int], bytes], n: int) -> bytes:
    try:
        return read(n)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken gzip: {str(error)[:60]} (was it cut off?)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


MAGIC = {
    b"\x1f\x8b": "gzip inside gzip (unpack it once: gunzip)",
    b"PAR1": "Parquet inside gzip (unpack it: gunzip)",
    b"PK\x03\x04": "a zip or Excel file (export it as CSV)",
    b"\xd0\xcf\x11\xe0": "an Excel file (export it as CSV)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd (run: zstd -d)",
    b"BZh": "compressed with bzip2 (run: bunzip2)",
    b"\xfd7zXZ": "compressed with xz (run: unxz)",
    b"%PDF": "a PDF, no rows of text (export them as CSV)",
    b"<?xml": "an XML page, not data (was the download an error page?)",
    b"version https://git-lfs": "a Git LFS pointer, not the data (run: git lfs pull)",
}
ENCODINGS = {  # by the mark a file begins with; the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SKIPPED = codecs.BOM_UTF8 + b" \t\r\n"  # bytes that may stand before the first row


def _text_records(path: Path, head: bytes, chunks: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    """Records of JSON, JSONL, CSV or TSV. Raises DataError where the bytes are something else."""
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: {what}")
    if head.lstrip(SKIPPED).lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path}: an HTML page, not data (was the download an error page?)")
    encoding = next((encoding for mark, encoding in ENCODINGS.items() if head.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in head[:HEAD]:
        if re.match(rb"[ -~]\0|\0[ -~]", head):
            unmarked = "UTF-16BE" if head[0] == 0 else "UTF-16LE"
            raise DataError(f"{path}: {unmarked} without its mark (run: iconv -f {unmarked} -t UTF-8)")
        if not head.lstrip(SKIPPED).startswith((b"[", b"{")):  # with them, the row that holds the NUL will be named
            raise DataError(f"{path}: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)")

    window = Window(decoded(path, chunks, encoding))
    first = window.skip_space()
    if not first:
        raise DataError(f"{path}: no rows (the file is empty)")
    if first == "[":
        yield from json_list(window, path)
    elif first == "{":
        yield from json_lines(window, path)
    elif _suffix(path) in (".csv", ".tsv"):
        yield from csv_records(window, path, "\t" if _suffix(path) == ".tsv" else ",")
    else:
        begins = window.text[window.at : window.at + 20]
        what = f"neither JSON, JSONL, CSV, TSV nor Parquet (it begins {begins!r}) (a table's name ends in .csv or .tsv)"
        if begins.startswith("\ufeff"):
            what = "two byte order marks (take one out)"
        elif begins.startswith(COMMENT):
            what = "begins with a comment, which JSON does not have (take it out)"
        raise DataError(f"{path}:{window.line(window.at)}: {what}")
