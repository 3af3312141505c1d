"""Where rows come from: files, folders, the Hub or the demo, each with its part in the run and its weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data.demo import demo_rows
from ift.data.reading.archives import packed_size, zip_of
from ift.data.reading.containers import read_records
from ift.data.reading.folders import Found, find_files
from ift.data.reading.json_records import Note
from ift.errors import ConfigError, DataError, MachineError, missing_extra
from ift.settings import DataSettings

ROLES = ("all", "test", "val")  # what a source is for; all: still to be split
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Source:
    name: str
    role: str  # one of ROLES
    weight: float = 1.0  # how often an epoch of training sees each of its rows
    path: Path | None = None
    table: Any = None  # of the library `datasets`
    demo_rows: int = 0

    def records(self, advance: Advance = lambda n: None, note: Note = lambda key: None) -> Iterator[tuple[int, Any]]:
        """Number and value of each record. advance: for the bytes used up; note: for the keys beside the rows."""
        if self.path is not None:
            return read_records(self.path, advance, note)
        if self.table is not None:
            return iter(enumerate(self.table, start=1))
        return iter(enumerate(demo_rows(self.demo_rows), start=1))

    @property
    def stamp(self) -> list[Any]:
        """Changes whenever the content may have changed: a file's change time cannot be set by hand."""
        if self.path is not None:
            try:
                stat = (zip_of(self.path) or self.path).stat()
            except OSError:
                return [str(self.path)]  # reading it will say what is wrong
            return [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return [self.name, self.demo_rows, getattr(self.table, "_fingerprint", "")]

    @property
    def size(self) -> int:
        try:
            if self.path is None:
                return 0
            archive = zip_of(self.path)
            if archive is not None:
                return packed_size(archive, self.path.relative_to(archive).as_posix())
            return self.path.stat().st_size if self.path.is_file() else 0
        except (OSError, DataError):
            return 0  # reading it will say what is wrong

    def refuse_if_changed(self, before: list[Any]) -> None:
        if self.stamp != before:
            raise DataError(f"{self.name}: changed while it was read (start again when it is whole)")


def find_sources(settings: DataSettings) -> list[Source]:
    """Raises ConfigError where nothing is given or the weights do not fit the files, DataError where a folder has none.

    A folder's test and validation files are these splits, unless data.test_path and data.val_path name others.
    """
    ready: list[Source] = []
    if settings.path:
        sources, ready = _given(settings)
    elif settings.hub:
        sources = [Source(settings.hub, "all", table=load_hub(settings.hub))]
    elif settings.demo_rows:
        sources = [Source("demo", "all", demo_rows=settings.demo_rows)]
    else:
        raise ConfigError("data.path: not set (data.path=FILE, data.hub=NAME or data=demo)")
    if settings.weights and not settings.path:
        raise ConfigError("data.weights: only files have weights (data.path=[A,B] data.weights=[2,1])")
    for role, given in (("test", settings.test_path), ("val", settings.val_path)):
        paths = _paths(f"{role}_path", given)
        sources += [Source(_name(file), role, path=file) for path in paths for file in _of_split(path, role)]
        sources += [source for source in ready if source.role == role and not paths]
    return sources


def unread_files(settings: DataSettings) -> list[str]:
    """What stands in the folders of data.path and is not read, by name: other files and folders, and the splits that
    data.test_path and data.val_path stand for."""
    unread: list[Path] = []
    for path in _paths("path", settings.path) if settings.path else []:
        found = find_files(path)
        unread += found.unread
        for role, given in (("test", settings.test_path), ("val", settings.val_path)):
            unread += found.files.get(role, []) if given else []
    return list(map(_name, unread))


def evaluation_sources(settings: DataSettings) -> list[Source]:
    """The files of data.against, whatever their schema: nothing of them is trained on or tested."""
    paths = _paths("against", settings.against)
    return [Source(_name(file), "against", path=file) for path in paths for file in _all(find_files(path))]


def _all(found: Found) -> list[Path]:
    return [file for files in found.files.values() for file in files]


def _of_split(path: Path, role: str) -> list[Path]:
    """The files of data.test_path or data.val_path: of a folder that names its splits, those of this one."""
    found = find_files(path)
    if found.files.keys() <= {"all"}:
        return _all(found)
    if role not in found.files:
        names = ", ".join(file.name for file in _all(found)[:3])
        raise DataError(
            f"{path}: splits, and none for data.{role}_path: {names} (give the file: data.{role}_path=FILE)"
        )
    return found.files[role]


def _name(file: Path) -> str:
    """As UTF-8 can hold it: a file's name may be any bytes."""
    return os.fsencode(file).decode("utf-8", "replace")


def _paths(key: str, value: Any) -> list[Path]:
    """~ is the person's home folder, unless there is a file of that name."""
    paths = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(path, str) and path for path in paths):
        raise ConfigError(f"data.{key}={value}: must be a path, or a list of paths: [A,B]")
    return [_at_home(path) for path in paths]


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser() if path.startswith("~") and not os.path.lexists(path) else Path(path)
    except RuntimeError:  # there is no such person
        return Path(path)


def _given(settings: DataSettings) -> tuple[list[Source], list[Source]]:
    """One source for each file of data.path to train on, and for each of a ready-made split. A folder's weight goes to
    each file in it."""
    paths, weights = _paths("path", settings.path), settings.weights
    if weights is not None and len(weights) != len(paths):
        raise ConfigError(f"data.weights: {len(weights)} for {len(paths)} in data.path (give one for each)")
    if weights is not None and not any(weights):
        raise ConfigError("data.weights: all are 0, no row would be trained on (make one more than 0)")
    sources: list[Source] = []
    ready: list[Source] = []
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        found = find_files(path)
        sources += [Source(_name(file), "all", weight, path=file) for file in found.files.get("all", [])]
        ready += [
            Source(_name(file), role, path=file) for role in ("test", "val") for file in found.files.get(role, [])
        ]
    if not sources:
        names = ", ".join(Path(source.name).name for source in ready[:3])
        raise DataError(f"{paths[0]}: only rows to test on, none to train on: {names} (name the file: data.path=FILE)")
    return sources, ready


def load_hub(name: str) -> Any:
    """The train split of a data set on the Hugging Face Hub (or in a folder that `datasets` can load)."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    try:
        return datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises whatever its transport raises
        what = f"{type(error).__name__}: {error}"
        raise MachineError(
            f"{name}: not loaded from the Hub ({what[:70]}); give a local file: data.path=FILE"
        ) from error
