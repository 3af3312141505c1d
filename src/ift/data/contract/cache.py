"""Checked and encoded rows on disk, made once for the same data, template, tokenizer and code, then memory-mapped.

An entry is a folder named after the hash of all that decides its content. It is written beside its name and renamed,
so a reader never sees half of one; two processes that want the same one make it once. Delete it whenever you like.

meta.json            what was read, kept, dropped and why
index.bin            an INDEX entry for each row that has an example
ids.bin              tokens of all rows, one after the other     supervised.bin   a byte for each of them
rows.jsonl           the rows as text                            clusters.bin     near twins share a number
rejected.jsonl       rows that are not used                      cut.jsonl        rows a length policy cut
overlaps.jsonl       rows that share 13 words with an evaluation's
"""

from __future__ import annotations

import atexit
import hashlib
import json
import mmap
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from importlib.metadata import version
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ift.data.contract.check import CUT, INDEX, Checked, Checker, Chunk, Inexact
from ift.data.contract.examples import TOO_LONG, Example
from ift.data.contract.hints import MANY
from ift.data.contract.twins import BANDS, find_twins
from ift.data.reading.columns import Column, unread
from ift.data.reading.published import whole_trees
from ift.data.reading.rows import Dropped, Row
from ift.data.reading.sources import ROLES, Source
from ift.errors import DataError, MachineError
from ift.progress import progress
from ift.run import read_json, write_json
from ift.threads import cores
from ift.wheels import user_cache

CHUNK_ROWS, CHUNK_BYTES = 500, 2**20
PARALLEL = 16 * 2**20  # bytes of data from which worker processes pay
PLACES = 20  # row numbers kept for each warning
PACKAGE = Path(__file__).parents[2]
MAX_CATEGORIES, MAX_REASONS, MAX_COLUMNS = 1000, 50, 1000  # kinds that are counted apart


class Store:
    """An entry of the cache, opened. Each row and example is read from the disk when it is used."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json")
        self.index = _map(folder / "index.bin", INDEX)
        self.clusters = _map(folder / "clusters.bin", np.dtype("i8"))
        self.merged = _map(folder / "merged.bin", np.dtype("?"))  # equal to an earlier row, which stands for it
        self.ids = _map(folder / "ids.bin", np.dtype(self.meta["ids"]))
        self.supervised = _map(folder / "supervised.bin", np.dtype("?"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder,)  # a copy in another process maps the files again

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def _starts(self) -> np.ndarray:
        return _starts(self.index["length"])

    @cached_property
    def _lines(self) -> np.ndarray:
        return _starts(self.index["text"])

    @cached_property
    def _text(self) -> int:
        """The descriptor of rows.jsonl. The rows of a split lie far apart: a map would bring their neighbours along."""
        descriptor = os.open(self.folder / "rows.jsonl", os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def example(self, i: int) -> Example:
        entry, tokens = self.index[i], slice(self._starts[i], self._starts[i + 1])
        return Example(
            ids=self.ids[tokens].astype(np.int32),
            supervised=np.array(self.supervised[tokens]),  # a copy: torch wants arrays that could be written
            ends=bool(entry["ends"]),
            row=int(entry["number"]),
            truncated=CUT[entry["cut"]],
        )

    def line(self, i: int) -> bytes:
        begin, end = int(self._lines[i]), int(self._lines[i + 1])
        return _read(self._text, end - begin, begin)

    def row(self, i: int) -> Row:
        return Row.from_json(json.loads(self.line(i)))

    def prompt(self, i: int) -> str:
        return self.row(i).prompt


class Stored(Sequence[Any]):
    """The rows of a split in their order, each read when it is used: a list of them would fill the memory."""

    def __init__(self, store: Store, order: np.ndarray):
        self.store, self.order = store, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: Any) -> Any:
        return type(self)(self.store, self.order[i]) if isinstance(i, slice) else self.read(int(self.order[i]))

    def read(self, i: int) -> Any:
        raise NotImplementedError


class StoredRows(Stored):
    def read(self, i: int) -> Row:
        return self.store.row(i)

    def lines(self) -> Iterator[str]:
        """Each row as JSON with its line end, as it is stored: to be written down without being read."""
        return (self.store.line(i).decode() for i in self.order.tolist())


class StoredExamples(Stored):
    def read(self, i: int) -> Example:
        return self.store.example(i)


def lengths(examples: Sequence[Example]) -> np.ndarray:
    """Tokens of each example, without reading them where they are stored."""
    if isinstance(examples, StoredExamples):
        return examples.store.index["length"][examples.order]
    return np.array([example.tokens for example in examples], dtype=int)


def open_store(
    sources: Sequence[Source],
    checker: Checker,
    *,
    merge: bool,
    twins: float | None,
    cache_dir: str | None,
    key: Any = None,
) -> Store:
    """The entry for these sources, made now if there is none. `meta["from_cache"]` says which of the two it was.

    merge: equal rows count once; twins: the similarity from which rows share a cluster, None not to look.
    Where the cache folder cannot be written, a temporary one serves this process alone.
    """
    root = _cache_root(cache_dir)
    folder = root / entry_name(sources, checker, merge, twins, key)
    with FileLock(root / f"{folder.name}.lock"):  # another process with the same rows waits, and finds them made
        from_cache = _is_whole(folder)
        if not from_cache:
            _build(folder, sources, checker, merge=merge, twins=twins)
    store = Store(folder)
    store.meta["from_cache"] = from_cache
    return store


def _cache_root(given: str | None) -> Path:
    """The cache folder, tried for real; or a temporary one that goes with this process, and a line that says so."""
    root = given or user_cache()
    try:
        path = Path(root).expanduser()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold copies of rows
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        why = getattr(error, "strerror", None) or error
        print(f"ift: {root}: no cache: {why} (data.cache_dir=FOLDER names another)", file=sys.stderr)
        return _temporary()
    return path


def _is_whole(folder: Path) -> bool:
    """Whether an entry is there and its files are as long as they were when they were made."""
    try:
        sizes = read_json(folder / "meta.json")["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def entry_name(sources: Sequence[Source], checker: Checker, merge: bool, twins: float | None, key: Any) -> str:
    """A name that begins with the first source's and ends in the hash of all that decides the content."""
    decides = {
        "sources": [[source.name, source.role, source.stamp] for source in sources],
        "template": checker.template.to_json(),
        "tokenizer": checker.tokenizer.hash,
        "fields": [dict(checker.fields), sorted(checker.ignore), checker.turns],
        "length": [checker.max_length, checker.too_long, checker.truncate],
        "rest": [merge, twins, key],
        "code": code_hash(),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(sources[0].name).stem)[:40]
    return f"{stem}-{digest[:20]}"


def code_hash(package: Path = PACKAGE) -> str:
    """Of all files that decide what an example is, however deep they lie, and of the libraries that do.

    Those are tiktoken and tokenizers (tokens), Jinja (chat templates), rensa (twins) and Python (what is white space, a
    letter ...).
    """
    libraries = [sys.version.split()[0], *(version(name) for name in ("tiktoken", "tokenizers", "jinja2", "rensa"))]
    digest = hashlib.sha256(" ".join(libraries).encode())
    for path in sorted(file for folder in ("text", "data") for file in (package / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package)} {len(content)} ".encode() + content)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# making an entry


def _build(folder: Path, sources: Sequence[Source], checker: Checker, *, merge: bool, twins: float | None) -> None:
    for leftover in folder.parent.glob(f"{folder.name}.*.part"):  # of a process that was killed: the lock is ours now
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        partial.mkdir()
        try:
            meta = _encode(partial, sources, checker)
        except Inexact as error:
            checker.tokenizer.distrust(error.args[0])
            meta = _encode(partial, sources, checker)
        write_json(partial / "meta.json", meta)
        store = Store(partial)
        meta["merged"] = _merge(store, sources) if merge else 0
        meta["compared"] = _cluster(store, twins)
        (partial / "bands.bin").unlink()
        meta["sizes"] = {file.name: file.stat().st_size for file in partial.iterdir() if file.name != "meta.json"}
        write_json(partial / "meta.json", meta)
        shutil.rmtree(folder, ignore_errors=True)  # one that was damaged
        partial.rename(folder)
    except OSError as error:
        raise MachineError(
            f"{folder}: cannot be written: {error.strerror} (data.cache_dir=FOLDER names another place)"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _encode(folder: Path, sources: Sequence[Source], checker: Checker) -> dict[str, Any]:
    """Read all sources, check and encode them, and append what comes out to the files of an entry."""
    started = time.perf_counter()
    size = sum(source.size for source in sources)
    tally = _Tally(sources)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / name).open("wb"))
            for name in (
                *("index.bin", "ids.bin", "supervised.bin", "rows.jsonl", "bands.bin"),
                *("rejected.jsonl", "cut.jsonl", "overlaps.jsonl"),
            )
        }
        what = "checking" if size > PARALLEL else None
        advance = stack.enter_context(progress(what, size, "MB", scale=1e6))
        chunks = chain.from_iterable(_chunks(i, source, checker, tally, advance) for i, source in enumerate(sources))
        for checked in _in_order(checker, chunks, cores() if size > PARALLEL else 1):
            tally.add(checked)
            for name, array in (("ids", checked.ids), ("supervised", checked.supervised), ("index", checked.index)):
                files[f"{name}.bin"].write(array.tobytes())
            files["bands.bin"].write(checked.bands.tobytes())
            files["rows.jsonl"].write(checked.text)
            for name, lines in (("cut", checked.cut), ("overlaps", checked.overlaps)):
                files[f"{name}.jsonl"].write(_json_lines(lines))
            files["rejected.jsonl"].write(_json_lines(dropped.to_json() for dropped in checked.dropped))
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    np.zeros(tally.kept, bool).tofile(folder / "merged.bin")
    np.arange(tally.kept).tofile(folder / "clusters.bin")
    encoder = {"encoder": checker.tokenizer.encoder, "encoded_twice": tally.encoded_twice}
    return {"ids": checker.dtype.name, **tally.to_json(), **encoder, "seconds": time.perf_counter() - started}


class _Tally:
    """Counts over all chunks; categories get their numbers here."""

    def __init__(self, sources: Sequence[Source]):
        self.files: list[dict[str, Any]] = [
            {"file": s.name, "role": s.role, "rows_in": 0, "format": None} for s in sources
        ]
        self.columns: list[dict[str, Column]] = [{} for _ in sources]
        self.kept, self.dropped, self.marked, self.cut, self.overlaps, self.turns_lost = 0, 0, 0, 0, 0, 0
        self.encoded_twice = 0
        self.repaired: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.first_dropped: dict[str, Any] | None = None
        self.warnings: dict[str, dict[str, Any]] = {}
        self.categories: list[str] = []

    def add(self, checked: Checked) -> None:
        self.kept += len(checked.index)
        self.dropped += len(checked.dropped)
        self.encoded_twice += checked.encoded_twice
        self.marked += sum(dropped.marked for dropped in checked.dropped)
        self.repaired += checked.repaired
        columns = self.columns[checked.source]
        for name, column in checked.columns.items():
            if name in columns:
                columns[name].add(column)
            elif len(columns) < MAX_COLUMNS:
                columns[name] = column
        self.cut += len(checked.cut)
        self.overlaps += len({overlap["row"] for overlap in checked.overlaps})  # rows, not pairs
        for dropped in checked.dropped:
            self._count(dropped.reason)
            if self.first_dropped is None and not dropped.marked:
                self.first_dropped = {
                    "file": dropped.file,
                    "row": dropped.row,
                    "reason": dropped.reason,
                    "helps": dropped.helps,
                }
        self.turns_lost += sum(cut.get("turns_lost", 0) for cut in checked.cut)
        for warning, about in checked.warnings.items():
            counted = self.warnings.setdefault(warning, {"rows": 0, "first": [], "example": about.example})
            counted["rows"] += len(about.rows)
            counted["first"] = (counted["first"] + about.rows)[:PLACES]
        known = {name: i for i, name in enumerate(self.categories)}
        for name in checked.categories:
            if name not in known and len(self.categories) < MAX_CATEGORIES:
                known[name] = len(self.categories)
                self.categories.append(name)
        numbers = np.array([known.get(name, -1) for name in checked.categories] + [-1])
        checked.index["category"] = numbers[checked.index["category"]]

    def _count(self, reason: str) -> None:
        """Reasons that differ only in a number are one, and after so many kinds the rest is one too."""
        kind = "too long" if TOO_LONG in reason else reason
        self.reasons[kind if kind in self.reasons or len(self.reasons) < MAX_REASONS else "other reasons"] += 1

    def to_json(self) -> dict[str, Any]:
        for file, columns in zip(self.files, self.columns, strict=True):
            file["columns"] = [column.to_json() for column in columns.values()]
        return {
            "files": self.files,
            "unread": unread([(file["file"], columns) for file, columns in zip(self.files, self.columns, strict=True)]),
            "rows_in": sum(file["rows_in"] for file in self.files),
            "rows": self.kept,
            "dropped": self.dropped,
            "marked": self.marked,  # of the dropped: rows that the file itself marks as not to be learnt
            "repaired": dict(self.repaired.most_common()),
            "dropped_by_reason": dict(self.reasons.most_common()),
            "first_dropped": self.first_dropped,
            "cut": self.cut,
            "turns_lost": self.turns_lost,
            "overlaps": self.overlaps,
            "warnings": {name: about for name, about in self.warnings.items() if self._tells(name, about["rows"])},
            "categories": self.categories,
        }

    def _tells(self, warning: str, rows: int) -> bool:
        number, share = MANY.get(warning, (0, 0.0))
        return rows >= number and rows >= share * self.kept


def _chunks(
    number: int, source: Source, checker: Checker, tally: _Tally, advance: Callable[[int], None]
) -> Iterator[Chunk]:
    """The records of a source in chunks of a worker's size. Raises DataError if the file changes meanwhile."""
    stamp, about, read = source.stamp, tally.files[number], 0

    def consumed(n: int) -> None:
        nonlocal read
        read += n
        advance(n)

    records: list[tuple[int, Any]] = []

    def beside(key: str) -> None:
        about.setdefault("beside", []).append(key)

    for record in whole_trees(source.records(consumed, beside)):
        about["rows_in"] += 1
        if about["format"] is None:
            about["format"] = checker.reader.form_of(record[1])
        records.append(record)
        if len(records) >= CHUNK_ROWS or read >= CHUNK_BYTES:
            yield Chunk(source.name, number, about["format"], records)
            records, read = [], 0
    if records:
        yield Chunk(source.name, number, about["format"], records)
    if not about["rows_in"]:
        raise DataError(f"{source.name}: no rows")
    source.refuse_if_changed(stamp)


def _in_order(checker: Checker, chunks: Iterable[Chunk], workers: int) -> Iterator[Checked]:
    """Each chunk checked, in order, by worker processes if there are to be several; few wait in memory at a time."""
    if workers == 1:
        yield from map(checker, chunks)
        return
    # spawn: a fork would copy the progress bar's thread in whatever state it is
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_work, initargs=(checker,)) as pool:
        waiting: deque[Any] = deque()
        try:
            for chunk in chunks:
                with _no_interrupt():
                    waiting.append(pool.submit(_work, chunk))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that start in here ignore Ctrl-C: this one ends them, and reports it once."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_checker: Checker | None = None  # of a worker process


def _begin_work(checker: Checker) -> None:
    global _checker
    _checker = checker
    os.environ["RAYON_NUM_THREADS"] = "1"  # of rensa: the processes are parallel already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is gone, be it killed: else it would wait for chunks for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(chunk: Chunk) -> Checked:
    assert _checker is not None
    return _checker(chunk)


def _merge(store: Store, sources: Sequence[Source]) -> int:
    """Mark all but the first of equal rows and list them with the rejected; return their number.

    Rows of a ready-made split are equal to rows of that split only: across splits they are a leak, to be reported.
    """
    roles = np.array([ROLES.index(source.role) for source in sources])[store.index["source"]]
    keys = (store.index["digest"][:, 0], store.index["digest"][:, 1], roles)
    order = np.lexsort(keys)  # stable: the first of equal rows stands first among them
    same = np.ones(len(order), bool)
    same[:1] = False
    for key in keys:
        same[1:] &= key[order][1:] == key[order][:-1]
    first = order[np.flatnonzero(~same)][np.cumsum(~same) - 1]
    merged = np.zeros(len(order), bool)
    merged[order[same]] = True
    merged.tofile(store.folder / "merged.bin")
    with (store.folder / "rejected.jsonl").open("ab") as file:
        for i, stands in sorted(zip(order[same].tolist(), first[same].tolist(), strict=True)):
            row, kept = store.row(i), store.row(stands)
            reason = f"merged: equal to {kept.file}:{kept.number}"
            file.write(_json_lines([Dropped(row.file, row.number, reason, row.to_json()).to_json()]))
    return int(merged.sum())


def _cluster(store: Store, threshold: float | None) -> int:
    """Give near twins the same cluster number, that of the first of them; return how many pairs were compared."""
    if threshold is None or not len(store):
        return 0
    bands = np.memmap(store.folder / "bands.bin", "u8", mode="r")

    compared = 0

    def counted(pairs: int) -> None:
        nonlocal compared
        compared = pairs

    def next_band(n: int) -> None:
        advance(n, f"{compared:,} pairs compared")
        if hasattr(mmap, "MADV_DONTNEED"):  # else the whole map is ours in the end
            bands._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    with progress("twins", BANDS, "bands", lasting=len(store) > 100_000) as advance:
        clusters = find_twins(
            bands.reshape(-1, BANDS), store.prompt, threshold=threshold, advance=next_band, counted=counted
        )
    clusters.tofile(store.folder / "clusters.bin")
    return compared


def _read(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):  # safe among processes that share the descriptor
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows, where they never do
    return os.read(descriptor, length)


def _json_lines(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file as an array whose parts are read when they are used. An empty file cannot be mapped."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, "i8"), np.cumsum(lengths, dtype="i8")])


@cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="ift-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
