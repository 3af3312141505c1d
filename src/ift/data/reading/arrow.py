"""Records of Parquet and Arrow files, by pyarrow: a batch of rows in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ift.data.reading.tables import check_columns, no_rows, unless_too_long
from ift.errors import DataError, missing_extra

ROWS = 1000  # as Python objects at a time
Advance = Callable[[int], None]
ARROW_FILE, ARROW_STREAM, PARQUET = b"ARROW1", b"\xff\xff\xff\xff", b"PAR1"  # a file of each begins so


def is_arrow(head: bytes) -> bool:
    return head.startswith((ARROW_FILE, ARROW_STREAM))


def parquet_records(
    path: Path, advance: Advance, *, buffer: int, file: BinaryIO | None = None, size: int | None = None
) -> Iterator[tuple[int, Any]]:
    """buffer: bytes of the file at a time. advance: called with the bytes that were used up, by their share of rows.

    file: where the bytes are, if not in the file at `path` itself, and the size that they count as.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    size, number = path.stat().st_size if size is None else size, 0
    try:
        # without a buffer a column of a row group is read whole
        with pyarrow.parquet.ParquetFile(path if file is None else file, buffer_size=buffer) as table:
            rows = max(1, table.metadata.num_rows)
            check_columns(path, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=ROWS):
                for record in _rows(batch):
                    number += 1
                    yield number, unless_too_long(record)
                advance(size * number // rows - size * (number - len(batch)) // rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise _broken(path, "Parquet", error) from error
    if not number:
        raise no_rows(path)


def arrow_records(
    path: Path, head: bytes, advance: Advance, *, file: BinaryIO | None = None, size: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Rows of Arrow's IPC formats: a file, or a stream, as `datasets` writes it. The arguments are those of Parquet."""
    try:
        import pyarrow.ipc
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    size, number, used = path.stat().st_size if size is None else size, 0, 0
    try:
        with pyarrow.OSFile(str(path)) if file is None else pyarrow.PythonFile(file) as source:
            whole = source.size()
            is_file = head.startswith(ARROW_FILE)
            reader = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
            check_columns(path, reader.schema.names)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                for begin in range(0, len(batch), ROWS):
                    for record in _rows(batch.slice(begin, ROWS)):
                        number += 1
                        yield number, unless_too_long(record)
                share = size * min(source.tell(), whole) // max(1, whole)
                advance(max(0, share - used))
                used = max(used, share)
            if not is_file and not _has_its_end(source, whole):  # a cut between two batches shows nowhere else
                raise ValueError("the stream has no end")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _broken(path, "Arrow", error) from error
    advance(size - used)
    if not number:
        raise no_rows(path)


def _has_its_end(source: Any, size: int) -> bool:
    source.seek(max(0, size - 8))
    return bool(source.read(8) == ARROW_STREAM + bytes(4))


def _broken(path: Path, what: str, error: Exception) -> DataError:
    return DataError(f"{path}: broken {what}: {str(error).partition(chr(10))[0][:60]} (was it cut off?)")


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Rows of a batch; NaN, which pandas writes for an empty cell, as None."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    numbers = [
        name
        for name, kind in zip(batch.schema.names, batch.schema.types, strict=True)
        if "float" in str(kind) or "double" in str(kind)
    ]
    for name in numbers:
        for row in rows:
            row[name] = _without_nan(row[name])
    return rows


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: _without_nan(inside) for name, inside in value.items()}
    return [_without_nan(inside) for inside in value] if isinstance(value, list) else value
