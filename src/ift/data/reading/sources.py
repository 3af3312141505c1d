"""Where rows come from: files, folders, the Hub or the demo, each with its part in the run and its weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data.demo import demo_rows
from ift.data.reading.containers import data_files, read_records
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

    def records(self, advance: Advance = lambda n: None) -> Iterator[tuple[int, Any]]:
        if self.path is not None:
            return read_records(self.path, advance)
        if self.table is not None:
            return iter(enumerate(self.table, start=1))
        return iter(enumerate(demo_rows(self.demo_rows), start=1))

    @property
    def stamp(self) -> list[Any]:
        """Changes whenever the content may have changed: a file's change time cannot be set by hand."""
        if self.path is not None:
            try:
                stat = self.path.stat()
            except OSError:
                return [str(self.path)]  # reading it will say what is wrong
            return [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return [self.name, self.demo_rows, getattr(self.table, "_fingerprint", "")]

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size if self.path is not None and self.path.is_file() else 0
        except OSError:
            return 0  # reading it will say what is wrong

    def refuse_if_changed(self, before: list[Any]) -> None:
        if self.stamp != before:
            raise DataError(f"{self.name}: changed while it was read (start again when it is whole)")


def find_sources(settings: DataSettings) -> list[Source]:
    """Raises ConfigError where nothing is given or the weights do not fit the files."""
    if settings.path:
        sources = _weighted(_paths("path", settings.path), settings.weights)
    elif settings.hub:
        sources = [Source(settings.hub, "all", table=load_hub(settings.hub))]
    elif settings.demo_rows:
        sources = [Source("demo", "all", demo_rows=settings.demo_rows)]
    else:
        raise ConfigError("data.path: not set (data.path=FILE, data.hub=NAME or data=demo)")
    if settings.weights and not settings.path:
        raise ConfigError("data.weights: only files have weights (data.path=[A,B] data.weights=[2,1])")
    for role, path in (("test", settings.test_path), ("val", settings.val_path)):
        sources += [Source(_name(file), role, path=file) for file in data_files(_paths(f"{role}_path", path))]
    return sources


def evaluation_sources(settings: DataSettings) -> list[Source]:
    """The files of data.against, whatever their schema: nothing of them is trained on or tested."""
    return [Source(_name(file), "against", path=file) for file in data_files(_paths("against", settings.against))]


def _name(file: Path) -> str:
    """As UTF-8 can hold it: a file's name may be any bytes."""
    return os.fsencode(file).decode("utf-8", "replace")


def _paths(key: str, value: Any) -> list[str]:
    paths = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(path, str) and path for path in paths):
        raise ConfigError(f"data.{key}={value}: must be a path, or a list of paths: [A,B]")
    return paths


def _weighted(paths: list[str], weights: list[float] | None) -> list[Source]:
    """One source a file. A folder's weight goes to each file in it."""
    if weights is not None and len(weights) != len(paths):
        raise ConfigError(f"data.weights: {len(weights)} for {len(paths)} in data.path (give one for each)")
    if weights is not None and not any(weights):
        raise ConfigError("data.weights: all are 0, no row would be trained on (make one more than 0)")
    given = zip(paths, weights or [1.0] * len(paths), strict=True)
    return [Source(_name(file), "all", weight, path=file) for path, weight in given for file in data_files([path])]


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
