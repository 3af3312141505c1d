"""data_report.html: one self-contained page on the data contract, from counts down to single tokens. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ift.data.contract.examples import CUTS, Example
from ift.data.contract.prepare import Prepared
from ift.data.show import spelled
from ift.evaluation.overlap import word_diff
from ift.pages.page import Page
from ift.pages.plots import round_ticks
from ift.run import RunFolder, write_text
from ift.text.tokenizers import Tokenizer

PAGE = Page("data_report")
ROWS = 8  # training rows shown token by token
LEAKS = 50  # shown with their texts; leaks.jsonl has them all
LONGEST = 300  # tokens of a prompt or a response that are shown; a longer one loses its middle


def write_page(run: RunFolder, data: Prepared, tokenizer: Tokenizer, *, end: int | None = None) -> None:
    """end: the token that is learnt after a whole response, if not the end-of-text."""
    report = data.report
    page = PAGE.render(
        title=run.path.resolve().name,
        report=report,
        charts=[histogram(report), histogram(report, width=480, height=220)],
        leaks=[compared(leak) for leak in data.leaks[:LEAKS]],
        n_leaks=len(data.leaks),
        equal_leaks=sum(leak["similarity"] >= 1 for leak in data.leaks),
        cuts=CUTS,
        rows=[
            (row, example, shorten(token_spans(example, tokenizer, end=end)))
            for row, example in zip(data.rows["train"][:ROWS], data.examples["train"][:ROWS], strict=True)
        ],
    )
    write_text(run.data_page, page)


def compared(leak: Mapping[str, Any]) -> dict[str, Any]:
    """A leak with what its two prompts and its two answers do not share marked: pieces as word_diff cuts them."""
    # rows are compared with a bar before the input, without one too: nobody wrote it
    twin, own = word_diff(*(leak[name].removesuffix(" | ") for name in ("twin_text", "text")))
    # a leaks.jsonl of an earlier release has no answers
    twin_answer, own_answer = word_diff(leak.get("twin_reference", ""), leak.get("reference", ""))
    return {**leak, "own": own, "twin": twin, "own_answer": own_answer, "twin_answer": twin_answer}


@dataclass(frozen=True)
class Span:
    """A piece of a row that is shown as one: a token, or the few tokens that make one character."""

    text: str
    supervised: bool
    ids: tuple[int, ...]
    kind: str = "text"  # or special, end, cut, gap


def token_spans(example: Example, tokenizer: Tokenizer, *, end: int | None = None) -> list[Span]:
    """The row in whole characters; no span crosses a special token or the border of what is supervised."""

    def token_span(token: int, supervised: bool) -> Span:
        return Span(
            spelled(token, tokenizer), supervised, (token,), "end" if token == tokenizer.end_of_text else "special"
        )

    spans: list[Span] = []
    marked = zip(example.supervised.tolist(), example.ids.tolist(), strict=True)
    for (supervised, special), run in groupby(marked, key=lambda mark: (mark[0], mark[1] in tokenizer.special)):
        ids = [token for _, token in run]
        if special:
            spans += [token_span(token, supervised) for token in ids]
        else:
            groups = whole_characters(ids, tokenizer)
            spans += [Span(tokenizer.decode(list(group)), supervised, group) for group in groups]
    cut = example.truncated == "response"
    end = tokenizer.end_of_text if end is None else end
    last = Span("✂", False, (), "cut") if cut else token_span(end, example.ends)
    return [*spans, last]


def whole_characters(ids: list[int], tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """The ids in the smallest groups that are UTF-8 each; a cut through a character leaves a last one that is not."""
    group: tuple[int, ...] = ()
    for token in ids:
        group += (token,)
        try:
            tokenizer.decode_bytes(list(group)).decode()
        except UnicodeDecodeError:
            continue
        yield group
        group = ()
    if group:
        yield group


def shorten(spans: list[Span], longest: int = LONGEST) -> list[Span]:
    """Long prompts and responses without their middle, so that the border between the two is always seen."""
    short: list[Span] = []
    for supervised, run in groupby(spans, key=lambda span: span.supervised):
        part = list(run)
        if len(part) > longest:
            left_out = sum(len(span.ids) for span in part[longest // 2 : -longest // 2])
            gap = Span(f"… {left_out:,} tokens …", supervised, (), "gap")
            part[longest // 2 : -longest // 2] = [gap]
        short += part
    return short


def histogram(report: Mapping[str, Any], *, width: int = 1000, height: int = 190) -> dict[str, Any]:
    """Where the parts of the drawing stand, from the upper left corner: bars, ticks of both axes, marked lengths.

    The limit is drawn where it is near; far away it would press the bars together.
    """
    edges, rows, limit = report["histogram"]["edges"], report["histogram"]["rows"], report["max_length"]
    is_near = limit <= 1.25 * edges[-1]
    low, high, most = edges[0], max(edges[-1], limit) if is_near else edges[-1], max(rows)

    def x(tokens: float) -> float:
        return round((tokens - low) / (high - low) * width, 1)

    def y(count: float) -> float:
        return round(height - count / most * height, 1)

    length = {name: report["length"][name] for name in ("p50", "p90", "p99")}
    return {
        "width": width,
        "height": height,
        "bars": [
            {"x": x(begin), "y": y(count), "width": x(end) - x(begin), "from": begin, "to": end, "rows": count}
            for begin, end, count in zip(edges, edges[1:], rows, strict=False)
            if count
        ],
        "x_ticks": [(x(tick), f"{tick:,.0f}") for tick in round_ticks(low, high, max(4, width // 100), whole=True)],
        "y_ticks": [(y(tick), f"{tick:,.0f}") for tick in round_ticks(0, most, 4, whole=True)],
        "marks": [(f"{name} {tokens:,}", x(tokens)) for name, tokens in length.items()],
        "limit": (f"limit {limit:,}", x(limit)) if is_near else None,
    }
