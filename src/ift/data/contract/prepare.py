"""Rows to checked, split examples, with a report in which every row is accounted for. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ift.data.contract.cache import Store, StoredExamples, StoredRows, open_store
from ift.data.contract.check import CUT, HAS, Checker
from ift.data.contract.examples import TOO_LONG, Example, keep_a_part, length_summary
from ift.data.contract.splits import SPLITS, split_rows
from ift.data.contract.twins import NgramIndex, similarity
from ift.data.reading.names import no_such
from ift.data.reading.rows import Row
from ift.data.reading.sources import ROLES, Source, evaluation_sources, find_sources, unread_files
from ift.data.reading.values import texts_in
from ift.errors import ConfigError, DataError, advice_start
from ift.forms import DATA_REPORT
from ift.progress import progress
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import DataSettings, FractionSettings
from ift.text.encoding import turn_end
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer

BINS = 40  # of the histogram of lengths
COMPARED = 200  # rows of a cluster that a test row is compared with
LEAKING = 10  # pairs whose texts stand in the report; leaks.jsonl has all
TEXT = 200  # characters of each of them, from a little before the first that differs


@dataclass
class Prepared:
    """Rows and their examples under train, test and val, of the same length and order, read when they are asked for.

    Where test rows have a near twin in training, clean_test holds the others.
    """

    rows: dict[str, StoredRows]
    examples: dict[str, Sequence[Example]]
    report: dict[str, Any]
    leaks: list[dict[str, Any]]
    store: Store
    folder: Path  # where rejected.jsonl and the other lists lie

    @property
    def hash(self) -> str:
        """Of the report: the model folder keeps it, so that a model can be told from one of other data."""
        return hashlib.sha256(json.dumps(self.report, sort_keys=True).encode()).hexdigest()

    @property
    def cached(self) -> str:
        """The line that says where the tokens come from."""
        how = "read from" if self.store.meta["from_cache"] else f"made in {self.store.meta['seconds']:.1f} s:"
        return f"cache     {how} {self.store.folder}"


def prepare(
    settings: DataSettings,
    template: Template,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    stops: Collection[int] = (),
    run: RunFolder | None = None,
) -> Prepared:
    """Read, check, encode (or find all that in the cache) and split.

    Raises ConfigError or DataError at the first thing a person must mend. A row too long for the context follows
    `data.too_long`. Dropped rows are an error only where they are more than `data.max_dropped` of all; those that
    `data.limit` leaves out are counted with them, and never too many. stops: tokens that end an answer of the model
    besides the one that is learnt, for the report. With a run
    folder its data_report.json, rejected.jsonl, cut.jsonl, leaks.jsonl and overlaps.jsonl are written.
    """
    max_length = settings.max_length or context_length
    for key, length in (("max_length", max_length), ("pad_to", settings.pad_to or 0)):
        if length > context_length:
            raise ConfigError(f"data.{key}={length}: the model's context is {context_length} (make it that or less)")
    if settings.truncate and settings.too_long != "truncate_prompt":
        raise ConfigError(
            f"data.truncate={settings.truncate}: no prompt is cut with data.too_long={settings.too_long} "
            "(add data.too_long=truncate_prompt)"
        )
    if settings.pad_to and settings.batching == "unpadded":
        raise ConfigError(f"data.pad_to={settings.pad_to}: nothing is padded (add data.batching=padded)")
    sources = find_sources(settings)
    evaluation, evaluated = _evaluation_rows(settings)
    checker = Checker(
        template,
        tokenizer,
        asdict(settings.fields),
        max_length,
        settings.too_long,
        evaluation,
        ignore=tuple(settings.ignore),
        turns=settings.turns,
        truncate=settings.truncate or "end",
    )
    store = open_store(
        sources,
        checker,
        merge=settings.duplicates == "merge",
        twins=settings.twins,
        cache_dir=settings.cache_dir,
        key=evaluated,
    )
    if run is not None:  # before a refusal too: nothing is lost
        run.path.mkdir(parents=True, exist_ok=True)
        for path in (run.rejected, run.cut, run.overlaps, run.leaks):
            path.unlink(missing_ok=True)  # of a check before this one
            if path != run.leaks and (store.folder / path.name).stat().st_size:
                shutil.copyfile(store.folder / path.name, path)
    folder = store.folder if run is None else run.path
    _refuse_names_of_nothing(store, settings)
    _refuse_if_too_many(store, settings, folder / "rejected.jsonl")
    if store.meta["unread"]:
        raise DataError(store.meta["unread"])
    order = _split(store, sources, settings, folder / "rejected.jsonl")
    leaks = find_leaks(store, order, settings.twins)
    report = DATA_REPORT.stamped(make_report(store, order, leaks, template, tokenizer, max_length=max_length))
    report |= about_special_tokens(template, tokenizer, stops)
    if settings.limit is not None:
        _leave_out(store, order, settings.limit, report, None if run is None else run.rejected)
    report["unread"] = unread_files(settings)
    order["train"] = _weigh(store, sources, order["train"], settings.split_seed)
    report["rows_an_epoch"] = len(order["train"])
    report["pairs_compared"] = store.meta["compared"] if settings.twins is not None else None
    clean = _without_leaks(store, order["test"], leaks) if leaks else order["test"]
    if 0 < len(clean) < len(order["test"]):
        order["clean_test"] = clean
    prepared = Prepared(
        rows={name: StoredRows(store, part) for name, part in order.items()},
        examples={name: StoredExamples(store, part) for name, part in order.items()},
        report=report,
        leaks=leaks,
        store=store,
        folder=folder,
    )
    if run is not None:
        write_json(run.data_report, report)
        if leaks:
            write_jsonl(run.leaks, leaks)
    return prepared


def _evaluation_rows(settings: DataSettings) -> tuple[NgramIndex | None, list[Any]]:
    """An index over the texts of data.against, and what tells these files from others."""
    files = evaluation_sources(settings)
    texts = ("\n".join(texts_in(record)) for file in files for _, record in file.records())
    return (NgramIndex(texts) if files else None), [file.stamp for file in files]


def _refuse_names_of_nothing(store: Store, settings: DataSettings) -> None:
    """Raises DataError where a column that was named stands in no row."""
    files = [file["file"] for file in store.meta["files"]]
    columns = list(dict.fromkeys(column["name"] for file in store.meta["files"] for column in file["columns"]))
    given = [(f"data.fields.{part}={name}", name) for part, name in asdict(settings.fields).items() if name]
    given += [(f"data.ignore=[{name}]", name) for name in settings.ignore]
    for setting, name in given:
        if columns and name not in columns:
            raise DataError(no_such(setting, name, files, columns))


def _refuse_if_too_many(store: Store, settings: DataSettings, rejected: Path) -> None:
    """Rows that the file itself marks as not to be learnt do not count."""
    meta, limit = store.meta, settings.max_dropped
    dropped = meta["dropped"] - meta["marked"]
    if dropped <= limit * meta["rows_in"] and (meta["rows"] or not meta["dropped"]):
        return
    first = meta["first_dropped"]
    if first is None:
        every = f"{meta['files'][0]['file']}: every row is marked as not to be learnt"
        raise DataError(f"{every} (data.ignore=[COLUMN] of the mark learns them all)")
    reason, raising = first["reason"], f"or raise data.max_dropped={limit:g}"
    start = advice_start(reason)
    if start < len(reason):  # what it says to do comes last, where no line is shortened
        advice = reason[start:].strip()[1:-1] + (f"; {raising}" if meta["rows"] else "")  # else no share would help
    elif TOO_LONG in reason:
        shorter = keep_a_part([policy for policy in first.get("helps", ()) if policy != settings.too_long])
        advice = f"data.too_long={shorter}; {raising}" if shorter else raising.removeprefix("or ")
    else:
        advice = f"mend them {raising}"
    count = f"{dropped} of {meta['rows_in']} rows cannot be used and are in {rejected}"
    raise DataError(f"{first['file']}:{first['row']}: {reason[:start]}; {count} ({advice})")


def _split(store: Store, sources: list[Source], settings: DataSettings, rejected: Path) -> dict[str, np.ndarray]:
    """Indices of rows under train, test and val: what is not ready-made is split off data.path."""
    role = np.array([ROLES.index(source.role) for source in sources])[store.index["source"]]
    role[store.merged] = -1
    given = {name: np.flatnonzero(role == ROLES.index(name)) for name in ("test", "val")}
    given = {name: rows for name, rows in given.items() if any(source.role == name for source in sources)}
    for name, rows in given.items():
        if not len(rows):
            path = next(source.name for source in sources if source.role == name)
            raise DataError(f"{path}: no row of it can be used (see {rejected})")
    whole = np.flatnonzero(role == ROLES.index("all"))[: settings.limit]
    fractions = _remaining(settings.fractions, given)
    parts = split_rows(store.clusters[whole], how=settings.split, fractions=fractions, seed=settings.split_seed)
    return {name: given.get(name, whole[parts[name]]) for name in SPLITS}


def _leave_out(
    store: Store, order: dict[str, np.ndarray], limit: int, report: dict[str, Any], rejected: Path | None
) -> None:
    """Count the rows after the first `limit` of data.path as dropped; list them, without their texts, in a file."""
    rows = np.setdiff1d(np.flatnonzero(~store.merged), np.concatenate(list(order.values())))
    if not len(rows):
        return
    reason = f"after the first rows that data.limit={limit} keeps"
    report["dropped"] += len(rows)
    report["dropped_by_reason"] = {**report["dropped_by_reason"], reason: len(rows)}
    if rejected is not None:
        files = [file["file"] for file in store.meta["files"]]
        places = zip(store.index["source"][rows].tolist(), store.index["number"][rows].tolist(), strict=True)
        with rejected.open("a", encoding="utf-8") as file:
            for source, number in places:
                file.write(json.dumps({"file": files[source], "row": number, "reason": reason}) + "\n")


def _remaining(fractions: FractionSettings, given: dict[str, Any]) -> FractionSettings:
    """The fractions for data.path: the part of a split that has a file of its own goes to the others."""
    if not given:
        return fractions
    test = 0.0 if "test" in given else fractions.test
    val = 0.0 if "val" in given else fractions.val
    total = fractions.train + test + val
    return FractionSettings(fractions.train / total, test / total, val / total) if total else fractions


def _weigh(store: Store, sources: list[Source], rows: np.ndarray, seed: int) -> np.ndarray:
    """The training rows of one epoch: weight 2 has each row of a source twice, weight 0.25 a quarter of them, drawn."""
    weights = np.array([source.weight for source in sources])[store.index["source"][rows]]
    if (weights == 1).all():
        return rows
    times = weights.astype(int)
    extra = np.zeros(len(rows), bool)
    for source, given in enumerate(sources):
        part = np.flatnonzero(store.index["source"][rows] == source)
        drawn = np.random.RandomState(seed).permutation(part)[: round(given.weight % 1 * len(part))]
        extra[drawn] = True
    return np.repeat(rows, times + extra)


def find_leaks(store: Store, order: dict[str, np.ndarray], threshold: float | None) -> list[dict[str, Any]]:
    """Test and validation rows that have a near twin in training, each with the nearest one."""
    if threshold is None:
        return []
    train = order["train"][np.argsort(store.clusters[order["train"]], kind="stable")]
    of_train = store.clusters[train]
    found = []
    for name in ("test", "val"):
        clusters = store.clusters[order[name]]
        begins, ends = (np.searchsorted(of_train, clusters, side) for side in ("left", "right"))
        pairs = int(np.minimum(ends - begins, COMPARED).sum())
        with progress("leaks", pairs, "pairs", lasting=pairs > 1_000_000) as advance:
            for i, begin, end in zip(order[name].tolist(), begins.tolist(), ends.tolist(), strict=True):
                if begin == end:
                    continue
                text = store.prompt(i)
                rivals = train[begin : min(end, begin + COMPARED)].tolist()
                nearest, twin = max((similarity(text, store.prompt(j)), -j) for j in rivals)
                advance(len(rivals))
                if nearest > threshold:
                    found.append({"split": name, **_leak(store.row(i), store.row(-twin), nearest)})
    return found


def _leak(row: Row, twin: Row, nearest: float) -> dict[str, Any]:
    """A row of test or validation beside its nearest one in training: prompts from where they differ, and answers."""
    pairs = enumerate(zip(row.prompt, twin.prompt, strict=False))
    begin = max(0, next((place for place, (a, b) in pairs if a != b), 0) - TEXT // 4)
    text, other = (("…" if begin else "") + each.prompt[begin : begin + TEXT] for each in (row, twin))
    return {
        "file": row.file,
        "row": row.number,
        "twin_file": twin.file,
        "twin_row": twin.number,
        "similarity": round(nearest, 4),
        "text": text,
        "twin_text": other,
        "reference": row.output[:TEXT],
        "twin_reference": twin.output[:TEXT],
    }


def _without_leaks(store: Store, rows: np.ndarray, leaks: list[dict[str, Any]]) -> np.ndarray:
    leaked = {(leak["file"], leak["row"]) for leak in leaks if leak["split"] == "test"}
    files = [file["file"] for file in store.meta["files"]]
    places = zip(store.index["source"][rows].tolist(), store.index["number"][rows].tolist(), strict=True)
    return rows[[(files[source], number) not in leaked for source, number in places]]


def twin_groups(data: Prepared, limit: int) -> list[list[Row]]:
    """The largest groups of near twins, equal rows counted once."""
    clusters = np.where(data.store.merged, -1, data.store.clusters)
    numbers, sizes = np.unique(clusters[clusters >= 0], return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:limit]
    return [
        [data.store.row(i) for i in np.flatnonzero(clusters == number).tolist()[:50]]
        for number, size in zip(numbers[largest].tolist(), sizes[largest].tolist(), strict=True)
        if size > 1
    ]


def about_special_tokens(template: Template, tokenizer: Tokenizer, stops: Collection[int]) -> dict[str, Any]:
    """Special tokens of the template, and all that end an answer, the learnt one first: spellings and ids."""
    own = dict.fromkeys((template.bos, *(token.text for token in template.tokens)))
    end = turn_end(template, tokenizer)
    ends = dict.fromkeys((end, tokenizer.end_of_text, *sorted(stops)))
    return {
        "special_tokens": {text: tokenizer.special_ids[text] for text in own if text},
        "ends": {tokenizer.end_text if id == tokenizer.end_of_text else tokenizer.decode([id]): id for id in ends},
    }


def make_report(
    store: Store,
    order: dict[str, np.ndarray],
    leaks: list[dict[str, Any]],
    template: Template,
    tokenizer: Tokenizer,
    *,
    max_length: int,
) -> dict[str, Any]:
    """What `data_report.json` says: counts in and out, lengths in tokens, what is supervised, what was cut."""
    meta, rows = store.meta, np.concatenate([order[name] for name in SPLITS])
    # a column at a time: all of them together would be half a gigabyte for ten million rows
    length, targets = store.index["length"][rows], store.index["targets"][rows]
    tokens, supervised = int(length.sum(dtype="i8")), int(targets.sum(dtype="i8"))
    sizes = np.bincount(store.clusters[rows])
    shortest, longest = int(length.min()), int(length.max())
    width = -(-(longest - shortest + 1) // BINS)  # whole tokens: each bar counts as many lengths as the next
    counts, edges = np.histogram(length, bins=np.arange(shortest, longest + width + 1, width))
    cut = np.bincount(store.index["cut"][rows], minlength=len(CUT))
    has = store.index["has"][rows]
    categories = np.bincount(store.index["category"][rows] + 1, minlength=1 + len(meta["categories"]))
    return {
        "rows_in": meta["rows_in"],
        "kept": len(rows),
        "dropped": meta["dropped"],
        "merged": meta["merged"],
        "dropped_by_reason": meta["dropped_by_reason"],
        "files": meta["files"],
        "repaired": meta["repaired"],
        "truncated": {what: int(n) for what, n in zip(CUT[1:], cut[1:].tolist(), strict=True) if n},
        "turns_lost": meta["turns_lost"],
        "splits": {name: len(order[name]) for name in SPLITS},
        "rows_with": {name: int((has >> bit & 1).sum()) for bit, name in enumerate(HAS)},
        "tokens": tokens,
        "supervised_tokens": supervised,
        "supervised_share": round(supervised / max(1, tokens), 4),
        "supervised_ends": int(store.index["ends"][rows].sum()),
        "length": length_summary(length),
        "response_length": length_summary(targets),
        "histogram": {"edges": edges.tolist(), "rows": counts.tolist()},
        "max_length": max_length,
        "categories": {
            name: int(count) for name, count in zip(meta["categories"], categories[1:].tolist(), strict=True) if count
        },
        "twins": {"rows": int(sizes[sizes > 1].sum()), "clusters": int((sizes > 1).sum()), "largest": int(sizes.max())},
        "leaks": {name: sum(leak["split"] == name for leak in leaks) for name in ("test", "val")},
        "leaking": leaks[:LEAKING],
        "overlaps": meta["overlaps"],
        "warnings": meta["warnings"],
        "tokenizer": tokenizer.name,
        "tokenizer_hash": tokenizer.hash,
        "encoder": {"library": meta["encoder"], "compared_rows": meta["encoded_twice"]},
        "prompt": template.name,
        "prompt_hash": template.hash,
        "prompt_masked": template.mask,
        "fingerprint": hashlib.sha256(np.ascontiguousarray(store.index["digest"][rows]).data).hexdigest(),
    }
