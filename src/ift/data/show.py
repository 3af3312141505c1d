"""The data contract in a terminal: the report in lines, lengths as bars, rows with their supervised tokens green."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ift.data.contract.examples import CUTS, Example
from ift.data.reading.rows import Row
from ift.errors import one_line
from ift.text.printable import printable
from ift.text.published import END_OF_TEXT
from ift.text.tokenizers import Tokenizer

SHOWN = 3  # rows
LEGEND = (
    "after [green]▸[/] text is supervised; [green]⏎[/] ends a response and is learnt, [dim]⏎[/] is not; "
    "✂ is a cut, no end learnt; what is [reverse]reversed[/] is one special token"
)
BAR = 48  # characters of the longest bar


def show_report(report: dict[str, Any], folder: Path = Path()) -> Iterator[str]:
    """The lines that training prints before the first step: counts, what to look at, and below that the leaks.

    folder: where rejected.jsonl and the other lists lie.
    """
    splits, length = report["splits"], report["length"]
    merged = f" + {report['merged']:,} merged" if report["merged"] else ""
    yield (
        f"data      {report['rows_in']:,} rows in = {report['kept']:,} kept + {report['dropped']:,} dropped{merged}; "
        f"train {splits['train']:,}, test {splits['test']:,}, validation {splits['val']:,}"
    )
    yield from _show_files(report)
    for reason, count in report["dropped_by_reason"].items():
        yield f"          dropped {count:,}: {reason} (see {folder / 'rejected.jsonl'})"
    for what, count in report["repaired"].items():
        yield f"          {what}: {count:,}"
    unused = dict.fromkeys(name for file in report["files"] for name in unused_columns(file))
    if unused:
        yield f"columns   not used: {one_line(', '.join(unused), 200)} (ift check shows what is in them)"
    for part, count in report["truncated"].items():
        more = {"turns": f", {report['turns_lost']:,} in all", "prompt": "; data.truncate=start keeps it"}.get(part, "")
        yield f"          {count:,} rows with {CUTS[part]}{more} (see {folder / 'cut.jsonl'})"
    percentiles = ", ".join(f"{name} {length[name]:,}" for name in ("p50", "p90", "p99", "max"))
    yield (
        f"tokens    {report['tokens']:,} ({report['supervised_share']:.0%} supervised), "
        f"a row {percentiles} of {report['max_length']:,}"
    )
    in_loss = "response only" if report["prompt_masked"] else "prompt too"
    yield f"prompt    {report['prompt']} {report['prompt_hash']}, {in_loss} in the loss"
    if report.get("special_tokens") or len(report.get("ends", ())) > 1:
        put, ends = (
            ", ".join(f"{printable(text)} {id}" for text, id in report[key].items())
            for key in ("special_tokens", "ends")
        )
        yield f"          special tokens {put or 'none'}; an answer ends with {ends} (the first is learnt)"
    yield from _show_encoder(report.get("encoder") or {})
    for warning, about in report["warnings"].items():
        places = ", ".join(map(str, about["first"][:3])) + (", ..." if about["rows"] > 3 else "")
        rows = "row" if about["rows"] == 1 else "rows"
        yield f"look at   {about['rows']:,} {rows}: {warning} ({rows} {places}: {excerpt(about['example'])})"
    twins, leaks = report["twins"], report["leaks"]
    if report["pairs_compared"] is not None:
        yield f"twins     {report['pairs_compared']:,} pairs compared" + ("" if twins["rows"] else ", no near twins")
    if twins["rows"]:
        yield (
            f"          {twins['rows']:,} rows in {twins['clusters']:,} groups of near twins; "
            f"{leaks['test']:,} test and {leaks['val']:,} validation rows have one in training"
            + (f" (see {folder / 'leaks.jsonl'})" if any(leaks.values()) else "")
        )
    for leak in report["leaking"][:SHOWN]:
        split = "validation" if leak["split"] == "val" else leak["split"]
        place, twin = f"{leak['file']}:{leak['row']}", f"{leak['twin_file']}:{leak['twin_row']}"
        yield f"leak      {split} {place} and its twin in training {twin}, alike to {leak['similarity']:.2f}"
        for name in ("text", "twin_text"):
            yield f"          {excerpt(leak[name].removesuffix(' | '))}"  # a bar before no input: nobody wrote it
    if report["overlaps"]:
        yield (
            f"overlap   {report['overlaps']:,} rows share 13 words in a row with the evaluation "
            f"(see {folder / 'overlaps.jsonl'})"
        )


def _show_encoder(encoder: Mapping[str, Any]) -> Iterator[str]:
    """Which library made the tokens, where the model's tokenizer leaves a choice."""
    if encoder.get("library") == "tokenizers":
        yield "          tokens by the library tokenizers, more slowly (tiktoken gives this model's texts other ones)"
    elif encoder.get("compared_rows"):
        number = encoder["compared_rows"]
        rows = "row" if number == 1 else "rows"
        yield f"          tokens by tiktoken, the same as by the library tokenizers on {number:,} {rows}"


def excerpt(text: str) -> str:
    """Text from a row on one line, its line ends marked."""
    return one_line(printable(text.strip(" ")).replace("\n", "↵"), 110)


def _show_files(report: dict[str, Any]) -> Iterator[str]:
    """Which files are which split, where there are several, and what was not read."""
    named = {"all": "train", "test": "test", "val": "validation"}
    roles = {role: [file["file"] for file in report["files"] if file["role"] == role] for role in named}
    if len(report["files"]) > 1:
        yield "files     " + "; ".join(f"{named[role]}: {_few(files)}" for role, files in roles.items() if files)
    if report.get("unread"):
        yield f"          not read: {_few(report['unread'])}"
    for file in report["files"]:
        if file.get("beside"):
            yield f"          not used: {_few(file['beside'])}, beside the rows in {file['file']}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, 60) for name in names[:4]) + (f" and {len(names) - 4:,} more" if names[4:] else "")


def unused_columns(file: dict[str, Any]) -> list[str]:
    """The columns of a file that hold something and that nothing reads."""
    return [column["name"] for column in file["columns"] if not column["used"] and column["rows"]]


def show_details(report: dict[str, Any]) -> Iterator[str]:
    """What `ift check` prints besides: files with their formats, categories, and lengths as bars."""
    for file in report["files"]:
        yield f"file      {file['file']}: {file['rows_in']:,} rows, {file['format']}"
        for column in file["columns"]:
            name, rows = one_line(column["name"], 40), f"{column['rows']:,} rows"
            if column["used"]:
                yield f"          column {name}: {column['used']}, {rows}"
            else:
                example = f": {one_line(column['example'], 60)}" if column.get("example") else ""
                yield f"          column {name}: not used, {rows}, {column['why']}{example}"
    if report["categories"]:
        most = sorted(report["categories"].items(), key=lambda item: -item[1])[:12]
        yield "kinds     " + ", ".join(f"{one_line(name, 40)} {count:,}" for name, count in most)
    edges, rows = report["histogram"]["edges"], report["histogram"]["rows"]
    step = -(-len(rows) // 12)  # at most a dozen bars
    sums = [sum(rows[i : i + step]) for i in range(0, len(rows), step)]
    yield "lengths   tokens a row"
    for i, count in enumerate(sums):
        low, high = edges[i * step], edges[min((i + 1) * step, len(rows))]
        bar = "█" * round(BAR * count / max(sums)) or ("▏" if count else "")
        yield f"{low:>7,}-{high - 1:<7,} {bar} {count:,}"


def show_duplicates(groups: list[list[Row]], report: dict[str, Any]) -> Iterator[str]:
    """The groups of near twins, a few rows of each."""
    yield f"\n{report['merged']:,} rows equal to another; near twins, the largest groups:"
    for group in groups:
        yield ""
        for row in group[:4]:
            yield f"  {row.file}:{row.number}  {one_line(row.prompt, 120)}"
        if len(group) > 4:
            yield f"  and {len(group) - 4} more"


def show_examples(
    console: Console, examples: Sequence[Example], tokenizer: Tokenizer, *, end: int | None = None
) -> None:
    """The first rows in colour, and what the colours mean. end: what is learnt after a response, if not end-of-text."""
    console.print(f"\n{LEGEND}\n")
    for example in examples[:SHOWN]:
        console.print(show_example(example, tokenizer, end=end), soft_wrap=True)
        console.print(f"[dim]{example.tokens} tokens, {example.targets} with a loss[/]\n")


def show_example(example: Example, tokenizer: Tokenizer, *, end: int | None = None) -> Text:
    """The decoded row, supervised tokens in green and the others dim, special tokens reversed."""
    text = Text()
    for supervised, parts in runs(example, tokenizer):
        style, mark = ("green", "▸") if supervised else ("dim", "")
        for shown, special in parts:
            text.append(mark + shown, style=f"{style} reverse" if special else style)
            mark = ""
    cut = example.truncated == "response"
    style = "bold red" if cut else "bold green" if example.ends else "dim"
    shown = "✂" if cut else spelled(end, tokenizer)
    text.append(shown, style=style if shown in "✂⏎" else f"{style} reverse")
    return text


def spelled(end: int | None, tokenizer: Tokenizer) -> str:
    """A special token as it is written; GPT-2's end-of-text, which stands in no text, as ⏎."""
    end = tokenizer.end_of_text if end is None else end
    is_mark = end == tokenizer.end_of_text and tokenizer.end_text == END_OF_TEXT
    return "⏎" if is_mark else printable(tokenizer.decode([end]))


def runs(example: Example, tokenizer: Tokenizer) -> Iterator[tuple[bool, list[tuple[str, bool]]]]:
    """The text of an example in runs of the same supervision, each in parts: is it one special token?

    GPT-2's end-of-text is shown as ⏎.
    """
    marked = zip(example.supervised.tolist(), example.ids.tolist(), strict=True)
    for supervised, tokens in groupby(marked, key=lambda pair: pair[0]):
        parts: list[tuple[str, bool]] = []
        for special, group in groupby((token for _, token in tokens), key=lambda token: token in tokenizer.special):
            if special:
                shown = [spelled(token, tokenizer) for token in group]
                parts += [(text, text != "⏎") for text in shown]
            else:
                parts.append((printable(tokenizer.decode(list(group))), False))
        yield (
            supervised,
            [
                ("".join(shown for shown, _ in run), special)
                for special, run in groupby(parts, key=lambda part: part[1])
            ],
        )
