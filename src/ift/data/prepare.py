"""Rows to checked, split examples, with a report in which every row is accounted for. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ift.data.examples import Example, TooLong, length_summary, make_example
from ift.data.prompts import Template
from ift.data.rows import Dropped, Row, fingerprint, read_demo, read_hub, read_rows
from ift.data.splits import split_rows
from ift.data.tokenizer import Tokenizer
from ift.errors import ConfigError, DataError
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import DataSettings, FractionSettings

SPLITS = ("train", "test", "val")


@dataclass
class Prepared:
    """Rows and their examples under train, test and val (lists of the same length and order), and what was dropped."""

    rows: dict[str, list[Row]]
    examples: dict[str, list[Example]]
    dropped: list[Dropped]
    rows_in: int
    report: dict[str, Any] = field(default_factory=dict)


def prepare(
    settings: DataSettings,
    template: Template,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    seed: int,
    run: RunFolder | None = None,
) -> Prepared:
    """Read, check, encode and split. Raises ConfigError or DataError at the first thing a person must mend.

    A row too long for the context follows `data.too_long`. Dropped rows are an error only where they are more than
    `data.max_dropped` of all. With a run folder its data_report.json, rejected.jsonl and test.jsonl are written.
    """
    max_length = settings.max_length or context_length
    for key, length in (("max_length", max_length), ("pad_to", settings.pad_to or 0)):
        if length > context_length:
            raise ConfigError(f"data.{key}={length}: the model's context is {context_length} (make it that or less)")
    given = _read(settings)
    dropped = [row for _, bad in given.values() for row in bad]
    rows_in = sum(len(good) + len(bad) for good, bad in given.values())
    _refuse_if_too_many(dropped, rows_in, settings.max_dropped, run)

    pairs: dict[str, list[tuple[Row, Example]]] = {}
    for name, (rows, _) in given.items():
        pairs[name] = []
        for row in rows:
            try:
                example = make_example(row, template, tokenizer, max_length=max_length, too_long=settings.too_long)
                pairs[name].append((row, example))
            except TooLong as error:
                if settings.too_long == "error":
                    raise DataError(f"{row.file}:{row.number}: {error} (data.too_long=drop leaves it out)") from error
                dropped.append(Dropped(row.file, row.number, str(error), row.to_json()))
    _refuse_if_too_many(dropped, rows_in, settings.max_dropped, run)

    for name in pairs.keys() - {"all"}:
        if not pairs[name]:
            raise DataError(f"{settings.test_path if name == 'test' else settings.val_path}: no row of it can be used")
    fractions = _remaining(settings.fractions, pairs)
    split = split_rows(pairs.pop("all"), how=settings.split, fractions=fractions, seed=seed)
    split.update(pairs)
    prepared = Prepared(
        rows={name: [row for row, _ in split[name]] for name in SPLITS},
        examples={name: [example for _, example in split[name]] for name in SPLITS},
        dropped=dropped,
        rows_in=rows_in,
    )
    prepared.report = make_report(prepared, template, tokenizer, max_length=max_length)
    if run is not None:
        write_json(run.data_report, prepared.report)
        write_jsonl(run.test_rows, (row.to_json() for row in prepared.rows["test"]))
    return prepared


def _read(settings: DataSettings) -> dict[str, tuple[list[Row], list[Dropped]]]:
    """What each given file holds: `all` is still to be split, `test` and `val` are ready-made."""
    fields = asdict(settings.fields)
    if settings.path:
        given = {"all": read_rows(settings.path, fields)}
    elif settings.hub:
        given = {"all": read_hub(settings.hub, fields)}
    elif settings.demo_rows:
        given = {"all": (read_demo(settings.demo_rows), [])}
    else:
        raise ConfigError("data.path: not set (data.path=FILE, data.hub=NAME or data=demo)")
    for name, path in (("test", settings.test_path), ("val", settings.val_path)):
        if path:
            given[name] = read_rows(path, fields)
    return given


def _remaining(fractions: FractionSettings, given: dict[str, Any]) -> FractionSettings:
    """The fractions for data.path: the part of a split that has a file of its own goes to the others."""
    if given.keys() == {"all"}:
        return fractions
    test = 0.0 if "test" in given else fractions.test
    val = 0.0 if "val" in given else fractions.val
    total = fractions.train + test + val
    return FractionSettings(fractions.train / total, test / total, val / total) if total else fractions


def _refuse_if_too_many(dropped: list[Dropped], rows_in: int, max_dropped: float, run: RunFolder | None) -> None:
    if run is not None and dropped:  # before a refusal too: nothing is lost
        write_jsonl(run.rejected, (row.to_json() for row in dropped))
    if not dropped or (len(dropped) <= max_dropped * rows_in and len(dropped) < rows_in):
        return
    first = dropped[0]
    raise DataError(
        f"{first.file}:{first.row}: {first.reason}; {len(dropped)} of {rows_in} rows cannot be used "
        f"(mend them or raise data.max_dropped={max_dropped:g})"
    )


def make_report(prepared: Prepared, template: Template, tokenizer: Tokenizer, *, max_length: int) -> dict[str, Any]:
    """What `data_report.json` says: counts in and out, lengths in tokens, what is supervised, what was cut."""
    everything = [example for name in SPLITS for example in prepared.examples[name]]
    tokens = sum(example.tokens for example in everything)
    targets = sum(example.targets for example in everything)
    return {
        "rows_in": prepared.rows_in,
        "kept": len(everything),
        "dropped": len(prepared.dropped),
        "dropped_by_reason": dict(Counter(_reason_class(row.reason) for row in prepared.dropped)),
        "truncated": dict(Counter(example.truncated for example in everything if example.truncated)),
        "splits": {name: len(prepared.examples[name]) for name in SPLITS},
        "tokens": tokens,
        "supervised_tokens": targets,
        "supervised_share": round(targets / max(1, tokens), 4),
        "supervised_ends": sum(example.ends for example in everything),
        "length": length_summary([example.tokens for example in everything]),
        "response_length": length_summary([example.targets for example in everything]),
        "max_length": max_length,
        "tokenizer": tokenizer.name,
        "prompt": template.name,
        "prompt_hash": template.hash,
        "prompt_masked": template.mask,
        "fingerprint": fingerprint(row for name in SPLITS for row in prepared.rows[name]),
    }


def _reason_class(reason: str) -> str:
    """Reasons that differ only in a number count as one."""
    return "too long" if " tokens, more than " in reason else reason


def show_report(report: dict[str, Any]) -> Iterator[str]:
    """The lines that training prints before the first step."""
    splits, length = report["splits"], report["length"]
    yield (
        f"data      {report['rows_in']:,} rows in = {report['kept']:,} kept + {report['dropped']:,} dropped; "
        f"train {splits['train']:,}, test {splits['test']:,}, validation {splits['val']:,}"
    )
    for reason, count in report["dropped_by_reason"].items():
        yield f"          dropped {count:,}: {reason} (see rejected.jsonl)"
    for part, count in report["truncated"].items():
        yield f"          {count:,} rows with a cut {part}"
    percentiles = ", ".join(f"{name} {length[name]}" for name in ("p50", "p90", "p99", "max"))
    yield (
        f"tokens    {report['tokens']:,} ({report['supervised_share']:.0%} supervised), "
        f"a row {percentiles} of {report['max_length']}"
    )
    in_loss = "response only" if report["prompt_masked"] else "prompt too"
    yield f"prompt    {report['prompt']} {report['prompt_hash']}, {in_loss} in the loss"
