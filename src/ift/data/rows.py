"""Rows of instruction, input and output, read from a file, the Hub or the demo; and the ones that cannot be used.

rows in = kept + dropped, and a dropped row keeps its file, place, reason and text
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ift.errors import DataError, MachineError, missing_extra
from ift.run import read_jsonl

FIELDS = ("instruction", "input", "output")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell one: "\ud83d" without its second half


@dataclass(frozen=True, slots=True)
class Row:
    instruction: str
    input: str
    output: str
    file: str
    number: int  # of the record in its file, from 1; the line for JSONL

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that cannot be used: where it stands, why, and what it was."""

    file: str
    row: int
    reason: str
    raw: Any

    def to_json(self) -> dict[str, Any]:
        """As a UTF-8 file can hold it: dates and bytes (Parquet) as their text, half characters as question marks."""
        text = json.dumps(self.raw, default=str, ensure_ascii=False).encode("utf-8", "replace")
        return {"file": self.file, "row": self.row, "reason": self.reason, "raw": json.loads(text)}


def read_rows(path: str | Path, fields: Mapping[str, str]) -> tuple[list[Row], list[Dropped]]:
    """All rows of a JSON, JSONL, CSV, TSV or Parquet file, told apart by content where that is possible.

    fields: the file's own names for instruction, input and output.
    Raises DataError where the container cannot be read or holds no row.
    """
    path = Path(path)
    return check_records(read_records(path), file=str(path), fields=fields)


def check_records(
    records: Iterable[tuple[int, Any]], *, file: str, fields: Mapping[str, str]
) -> tuple[list[Row], list[Dropped]]:
    kept: list[Row] = []
    dropped: list[Dropped] = []
    for number, record in records:
        problem = find_problem(record, fields)
        if problem:
            dropped.append(Dropped(file, number, problem, record))
        else:
            instruction, given, output = (record.get(fields[name]) or "" for name in FIELDS)
            kept.append(Row(instruction, given, output, file, number))
    if not kept and not dropped:
        raise DataError(f"{file}: no rows (it has columns, and nothing in them)")
    return kept, dropped


def find_problem(record: Any, fields: Mapping[str, str]) -> str | None:
    """Why a record is no row of text, or None. A missing or null input is an empty one."""
    if not isinstance(record, dict):
        return f"{kind_of(record)}, not an object with {fields['instruction']} and {fields['output']}"
    for name in FIELDS:
        key = fields[name]
        if key not in record:
            if name == "input":
                continue
            has = ", ".join(str(k) for k in list(record)[:6]) or "no fields"
            return f'no "{key}" (it has: {has}; set data.fields.{name}=...)'
        value = record[key]
        if value is None and name == "input":
            continue
        if not isinstance(value, str):
            return f'"{key}" is {kind_of(value)}, not text'
        if HALF_CHARACTER.search(value):
            return f'"{key}" holds half a character (a lone surrogate, no text in UTF-8)'
        if not value.strip() and name == "output":
            return f'"{key}" is empty'
    if not record[fields["instruction"]].strip() and not (record.get(fields["input"]) or "").strip():
        return "instruction and input are empty"
    return None


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


# ----------------------------------------------------------------------------------------------------------------------
# containers


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of each record in a file. Raises DataError at `FILE:ROW` where it is broken."""
    if not path.exists():
        raise DataError(f"{path}: no such file (check data.path)")
    if not path.is_file():
        raise DataError(f"{path}: not a file (give one JSON, JSONL, CSV, TSV or Parquet file)")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if start.startswith(b"PAR1"):
        return _parquet(path)
    text = _text(path)
    first = text.lstrip()[:1]
    if not first:
        raise DataError(f"{path}: no rows (the file is empty)")
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the data (run: git lfs pull)")
    if first == "[":
        return _json_array(text, path)
    if first == "{":
        return _json_lines(text, path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(text, path)
    raise DataError(f"{path}:1: neither JSON, JSONL, CSV, TSV nor Parquet (it begins {text.lstrip()[:20]!r})")


def _text(path: Path) -> str:
    raw = path.read_bytes()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: byte {error.start} is not UTF-8 (convert it with iconv)") from error


def _json_array(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Elements of one JSON array, decoded one by one so that an error can name its row."""
    decode = json.JSONDecoder().raw_decode
    space = " \t\r\n"

    def skip(at: int) -> int:
        while at < len(text) and text[at] in space:
            at += 1
        return at

    at, number = skip(text.index("[") + 1), 0
    if text[at : at + 1] == "]":
        raise DataError(f"{path}: no rows (an empty list)")
    while True:
        number += 1
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _broken(path, number, text, at, error) from error
        yield number, value
        at = skip(at)
        mark = text[at : at + 1]
        if mark == "]":
            if text[skip(at + 1) :]:
                raise DataError(f"{path}:{number}: text after the end of the list (one JSON list, or JSONL)")
            return
        if mark != ",":
            raise _broken(path, number, text, at, "no comma or ] after this row")
        at = skip(at + 1)
        if text[at : at + 1] == "]":
            raise DataError(f"{path}:{number}: a comma before the closing ] (take it out)")


def _broken(path: Path, number: int, text: str, at: int, why: object) -> DataError:
    if not text[at:].strip() or _is_cut_off(text, why):
        return DataError(f"{path}:{number}: the file ends in the middle of this row (was it cut off?)")
    reason = why.msg if isinstance(why, json.JSONDecodeError) else str(why)
    place = why.pos if isinstance(why, json.JSONDecodeError) else at
    line = text.count("\n", 0, place) + 1
    return DataError(f"{path}:{number}: broken JSON in line {line}: {reason}")


def _is_cut_off(text: str, why: object) -> bool:
    """Whether JSON went wrong because it ended: at its end, or in a string that nothing closes."""
    if not isinstance(why, json.JSONDecodeError):
        return False
    return why.pos >= len(text.rstrip()) - 1 or why.msg.startswith("Unterminated string")


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    lines = text.rstrip().split("\n")  # not splitlines(): JSON text may hold U+2028, which is no line end
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _not_json_line(text, path, number, error, last=number == len(lines)) from error
        if len(lines) == 1 and _list_inside(value):
            raise _one_object(path, value)
        yield number, value


def _not_json_line(text: str, path: Path, number: int, error: Exception, *, last: bool) -> DataError:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict):  # over several lines
        return _one_object(path, whole)
    if last:
        return DataError(f"{path}:{number}: the file ends in the middle of this row (was it cut off?)")
    return DataError(f"{path}:{number}: broken JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error}")


def _one_object(path: Path, value: dict[str, Any]) -> DataError:
    name = _list_inside(value)
    inside = f'; its rows are under "{name}"' if name else ""
    return DataError(f"{path}:1: one JSON object, not a list of rows{inside} (save the list alone)")


def _list_inside(value: Any) -> str | None:
    """The key under which an object holds a list of objects."""
    for key, inside in value.items() if isinstance(value, dict) else ():
        if isinstance(inside, list) and inside and isinstance(inside[0], dict):
            return str(key)
    return None


def _csv(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**24)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # strict: a quote that nothing closes is an error here, and not one field that swallows all rows after it
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, record in enumerate(reader, start=1):
            if None in record:
                raise DataError(f"{path}:{number}: more columns than the header has (quote the text)")
            yield number, record
    except csv.Error as error:
        raise DataError(f"{path}:{number + 1}: broken CSV from line {reader.line_num + 1} on: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: broken Parquet: {error} (was it cut off?)") from error


# ----------------------------------------------------------------------------------------------------------------------
# other sources


def read_hub(name: str, fields: Mapping[str, str]) -> tuple[list[Row], list[Dropped]]:
    """The train split of a data set on the Hugging Face Hub (or in a folder that `datasets` can load)."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    try:
        table = datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises whatever its transport raises
        what = f"{type(error).__name__}: {error}"
        raise MachineError(
            f"{name}: not loaded from the Hub ({what[:70]}); give a local file: data.path=FILE"
        ) from error
    return check_records(enumerate(table, start=1), file=name, fields=fields)


def read_demo(n: int = 4000) -> list[Row]:
    from ift.data.demo import demo_rows

    return [
        Row(row["instruction"], row["input"], row["output"], "demo", number)
        for number, row in enumerate(demo_rows(n), start=1)
    ]


def fingerprint(rows: Iterable[Row]) -> str:
    """sha256 over the text of the rows in order: the same data gives the same value wherever its file lies."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.instruction, row.input, row.output]).encode())
    return digest.hexdigest()


def read_stored_rows(path: Path) -> list[Row]:
    """Rows that a run kept in test.jsonl. Raises DataError where there are none."""
    if not path.exists():
        raise DataError(f"{path}: no such file (did the training run get past its data?)")
    return [Row(**value) for value in read_jsonl(path)]
