"""Records of tables: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ift.data.reading.window import MAX_ROW, Unreadable, Window, lines_of, most_common, too_long, utf8_size
from ift.errors import DataError, missing_extra


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "" in names:
        raise DataError(f"{path}:1: column {names.index('') + 1} has no name (name it, or save without the index)")
    if len(set(names)) < len(names):
        raise DataError(f'{path}:1: the column "{most_common(names)[:40]}" stands twice (rename one)')


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path}: no rows (it has columns, and nothing in them)")


def _unless_too_long(record: dict[str, Any]) -> dict[str, Any] | Unreadable:
    size = sum(utf8_size(value) for value in record.values() if isinstance(value, str))
    return too_long(json.dumps(record, ensure_ascii=False, default=str), size) if size > MAX_ROW else record


def csv_records(window: Window, path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Each line of the table by the names of its header. The delimiter is a guess where the header says otherwise."""
    window.at = window.text.rfind("\n", 0, window.at) + 1  # white space before a column's name is part of it
    lines = _csv_lines(window)
    line, number = window.line(window.at), 0  # the line where the next row begins; rows so far
    csv.field_size_limit(MAX_ROW)
    try:
        header = next(lines)
        if re.fullmatch('sep=[^"]', header.rstrip("\r\n"), re.IGNORECASE):  # Excel's way to say it
            header, delimiter, line = next(lines, ""), header[4], line + 1
        elif delimiter not in header:  # as a table program saves it where a comma stands in numbers
            delimiter = max(delimiter + ",;\t", key=header.count)
        # strict: a quote that nothing closes is an error here, and not one field that swallows all rows after it
        reader = csv.DictReader(itertools.chain([header], lines), delimiter=delimiter, strict=True)
        _check_columns(path, [name.strip() for name in reader.fieldnames or [""]])
        begin, line = line, line + reader.line_num
        for number, record in enumerate(reader, start=1):
            if None in record:
                raise DataError(f"{path}:{number}: more columns than the header has (quote the text)")
            yield number, _unless_too_long(record)
            line = begin + reader.line_num
    except csv.Error as error:
        if "field larger" in str(error):
            what = f"a line or field of more than {MAX_ROW:,} bytes from line {line} on (is a quote not closed?)"
        else:
            what = f"broken CSV from line {line} on: {error} (is a quote not closed, or one inside a text not doubled?)"
        raise DataError(f"{path}:{number + 1}: {what}") from error
    if not number:
        raise _no_rows(path)


def _csv_lines(window: Window) -> Iterator[str]:
    for line in lines_of(window, re.compile("\r\n?|\n")):
        if isinstance(line, Unreadable):
            raise csv.Error("field larger than the limit")  # in the reader's words
        yield line


def parquet_records(path: Path, advance: Callable[[int], None], *, buffer: int) -> Iterator[tuple[int, Any]]:
    """buffer: bytes of the file at a time. advance: called with the bytes that were used up, by their share of rows."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    size, number = path.stat().st_size, 0
    try:
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=buffer
        ) as file:  # else a column of a row group is read whole
            rows = max(1, file.metadata.num_rows)
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    yield number, _unless_too_long(record)
                advance(size * number // rows - size * (number - len(batch)) // rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        what = str(error).partition("\n")[0][:60]
        raise DataError(f"{path}: broken Parquet: {what} (was it cut off?)") from error
    if not number:
        raise _no_rows(path)
