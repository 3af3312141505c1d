"""Files in a zip. One of them is named as if the zip were a folder, `rows.zip/train.jsonl`; none is written to disk
under its name.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ift.errors import DataError

ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second one begins an empty one
ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
OFFICE = {"xl/": "an Excel file (export it as CSV)", "word/": "a Word file (export its rows as CSV)"}


def zip_of(path: Path) -> Path | None:
    """The zip that a path goes through as if it were a folder, or None: rows.zip of rows.zip/train.jsonl."""
    try:
        file = next((parent for parent in path.parents if parent.is_file()), None)
    except (OSError, ValueError):
        return None
    return file if file is not None and is_zip(file) else None


def is_zip(path: Path) -> bool:
    try:
        if not path.is_file():  # opening a pipe waits for its other end
            return False
        with path.open("rb") as file:
            return file.read(4) in ZIP
    except (OSError, ValueError):
        return False


def names_in(path: Path) -> list[str]:
    """The files in a zip, by name; not those that macOS adds or hides. Raises DataError where there are none."""
    with _opened(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    for begins, what in OFFICE.items():
        if "[Content_Types].xml" in names and any(name.startswith(begins) for name in names):
            raise DataError(f"{path}: {what}")
    seen = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in _parts(path, name))]
    if not seen:
        raise DataError(f"{path}: no files in this zip (give one that holds JSON, JSONL, CSV, TSV or Parquet)")
    if len(set(seen)) < len(seen):
        raise DataError(f"{path}: a zip with two files of one name (make it again)")
    return sorted(seen)


def _parts(path: Path, name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
        raise DataError(f"{path}: a zip with a file named {name[:60]!r}, which leads out of it (make it again)")
    return parts


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except ERRORS as error:
        raise DataError(f"{path}: broken zip: {str(error)[:60]} (was it cut off?)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with archive:
        yield archive


def packed_size(path: Path, name: str) -> int:
    with _opened(path) as archive:
        return _info(archive, path, name).compress_size


def _info(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError as error:
        raise DataError(f"{path / name}: no such file in this zip (check data.path)") from error


@contextmanager
def member(path: Path, name: str) -> Iterator[tuple[Any, zipfile.ZipInfo]]:
    """A file in a zip, opened, and what the zip says of it. Raises DataError where it cannot be unpacked."""
    with _opened(path) as archive:
        info = _info(archive, path, name)
        if info.flag_bits & 1:
            raise DataError(f"{path / name}: encrypted (unpack it with its password: unzip)")
        try:
            file = archive.open(info)
        except ERRORS as error:
            raise DataError(f"{path / name}: broken zip: {str(error)[:60]} (unpack it with another program)") from error
        with file:
            yield file, info


@contextmanager
def on_disk(chunks: Iterator[bytes]) -> Iterator[BinaryIO]:
    """Bytes in a temporary file, for formats that are not read from front to back."""
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        yield file
