"""Files to records: JSON, JSONL, tables, Parquet and Arrow, also packed, told apart by what is in them.

A file is streamed: whatever its size, a few MB of it are in memory. A record that can be stepped over comes as an
Unreadable in its place; everything else that is wrong with a file is a DataError, `PATH:ROW: what (what to do)`.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ift.data.reading import archives
from ift.data.reading.arrow import PARQUET, arrow_records, is_arrow, parquet_records
from ift.data.reading.json_records import COMMENT, Note, json_list, json_objects
from ift.data.reading.tables import style_of, table_records
from ift.data.reading.window import Window, decoded
from ift.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")  # of data files in a folder
PACKED = (".gz", ".bz2", ".xz", ".lzma")  # may follow one of them
MAX_RATIO, MIN_BOMB = 200, 100_000_000  # this many times larger than its file and this many bytes is a bomb
CHUNK = 2**18  # bytes of a file at a time
HEAD = 4096  # bytes that tell what a file is

Advance = Callable[[int], None]


def suffix_of(name: str) -> str:
    """What a name says of the content: ".csv" for rows.CSV and rows.csv.gz."""
    name = name.lower()
    return Path(next((name.removesuffix(packed) for packed in PACKED if name.endswith(packed)), name)).suffix


def read_records(
    path: Path, advance: Advance = lambda n: None, note: Note = lambda key: None
) -> Iterator[tuple[int, Any]]:
    """Number (from 1; the line for JSONL) and value of each record, an Unreadable where it can be stepped over.

    path: a file; one in a zip, as if that were a folder; or a zip that holds one file.
    advance is called with the number of bytes of the file (packed ones where it is packed) that were used up since the
    last call, note with each key that stands beside the rows in one JSON object. Raises DataError where the file
    cannot be read on or holds no record.
    """
    archive = archives.zip_of(path)
    if archive is not None:
        yield from _zip_records(path, archive, path.relative_to(archive).as_posix(), advance, note)
        return
    _check_kind(path)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        start = _read(path, raw.peek, HEAD, "")
        if start.startswith(PARQUET):
            yield from parquet_records(path, advance, buffer=CHUNK)
        elif is_arrow(start):
            yield from arrow_records(path, start, advance)
        elif start.startswith(archives.ZIP):
            names = archives.names_in(path)
            if len(names) > 1:
                raise DataError(f"{path}: a zip of {len(names)} files (name one of them: {path / names[0]})")
            yield from _zip_records(path, path, names[0], advance, note)
        else:
            kind, file = _unpacked(raw, start)
            head = _read(path, file.peek, HEAD, kind)
            size = path.stat().st_size
            yield from _text_records(path, head, _chunks(path, file.read, kind, size, raw.tell, advance), kind, note)


def _unpacked(raw: io.BufferedReader, start: bytes) -> tuple[str, Any]:
    """How a file is packed, "" for not at all, and the file that gives what is in it."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip", gzip.GzipFile(fileobj=raw)
    if re.match(rb"BZh[1-9]1AY&SY", start):
        return "bzip2", bz2.BZ2File(raw)
    if start.startswith((b"\xfd7zXZ\0", b"]\0\0")):  # xz and its older form; no text begins with ] and two NULs
        return "xz", lzma.LZMAFile(raw)
    return "", raw


def _zip_records(path: Path, archive: Path, name: str, advance: Advance, note: Note) -> Iterator[tuple[int, Any]]:
    """Records of a file in a zip. path: its name in messages, which may be that of the zip."""
    with archives.member(archive, name) as (file, info):
        size = archive.stat().st_size if path == archive else info.compress_size
        head = _read(path, file.peek, HEAD, "zip")

        def used() -> int:
            return min(size, size * file.tell() // max(1, info.file_size))

        chunks = _chunks(path, file.read, "zip", size, used, advance)
        if head.startswith(PARQUET):
            with archives.on_disk(chunks) as unpacked:
                yield from parquet_records(path, lambda n: None, buffer=CHUNK, file=unpacked, size=0)
        elif is_arrow(head):
            with archives.on_disk(chunks) as unpacked:
                yield from arrow_records(path, head, lambda n: None, file=unpacked, size=0)
        else:
            yield from _text_records(path, head, chunks, "zip", note)


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
    path: Path, read: Callable[[int], bytes], kind: str, size: int, used: Callable[[], int], advance: Advance
) -> Iterator[bytes]:
    """What `read` gives, in pieces. Raises DataError where it cannot be read or unpacked.

    kind: how it is packed, "" for not at all; size: bytes that it is packed in; used: how many of them are used up
    """
    before, out = 0, 0
    while chunk := _read(path, read, CHUNK, kind):
        out += len(chunk)
        if kind and out > max(MIN_BOMB, MAX_RATIO * size):
            article = "an" if kind == "xz" else "a"
            what = f"{article} {kind} bomb: {out:,} bytes so far out of {size:,}"
            raise DataError(f"{path}: {what} (is this the right file?)")
        yield chunk
        now = used()
        advance(now - before)
        before = now
    advance(max(0, used() - before) if kind != "zip" else size - before)


def _read(path: Path, read: Callable[[int], bytes], n: int, kind: str) -> bytes:
    try:
        return read(n)
    except (lzma.LZMAError, gzip.BadGzipFile, *archives.ERRORS) as error:
        raise DataError(f"{path}: broken {kind}: {str(error)[:60]} (was it cut off?)") from error
    except OSError as error:
        if kind and error.errno is None:  # as bz2 says it
            raise DataError(f"{path}: broken {kind}: {str(error)[:60]} (was it cut off?)") from error
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


MAGIC = {
    b"\xd0\xcf\x11\xe0": "an Excel file (export it as CSV)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd (run: zstd -d)",
    b"%PDF": "a PDF, no rows of text (export them as CSV)",
    b"<?xml": "an XML page, not data (was the download an error page?)",
    b"version https://git-lfs": "a Git LFS pointer, not the data (run: git lfs pull)",
}
INSIDE = {  # what is read only where it is not packed once more
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow",
    b"PK\x03\x04": "zip",
    b"BZh91AY": "bzip2",
    b"\xfd7zXZ": "xz",
}
UNPACK = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz", "zip": "unzip"}
ENCODINGS = {  # by the mark a file begins with; the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SKIPPED = codecs.BOM_UTF8 + b" \t\r\n"  # bytes that may stand before the first row


def _text_records(path: Path, head: bytes, chunks: Iterator[bytes], kind: str, note: Note) -> Iterator[tuple[int, Any]]:
    """Records of JSON, JSONL or a table. Raises DataError where the bytes are something else."""
    for magic, what in INSIDE.items():
        if head.startswith(magic):
            once = " once" if what == kind else ""
            raise DataError(f"{path}: {what} inside {kind} (unpack it{once}: {UNPACK[kind]})")
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
        yield from json_objects(window, path, note)
    elif first == "\ufeff":
        raise DataError(f"{path}:{window.line(window.at)}: two byte order marks (take one out)")
    else:
        window.at = window.text.rfind("\n", 0, window.at) + 1  # a table may begin with a column without a name
        style = style_of(window, path, named=suffix_of(path.name) in (".csv", ".tsv"))
        if style is None:
            raise _nothing_known(window, path)
        yield from table_records(window, path, style)


def _nothing_known(window: Window, path: Path) -> DataError:
    begins = window.text[window.at :].lstrip()[:20]
    what = (
        f"neither JSON, JSONL, CSV, TSV nor Parquet (it begins {begins!r}) (a table has its columns' names in line 1)"
    )
    if begins.startswith(COMMENT):
        what = "begins with a comment, which JSON does not have (take it out)"
    return DataError(f"{path}:{window.line(window.at)}: {what}")
