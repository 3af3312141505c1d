"""`ift compare RUN RUN...`: one self-contained page on what differs between runs, and which differences are settled.

Reads files of run folders and answers of other tools, never a model. The first run is the one that others are
compared with.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.errors import DataError, one_line, warn
from ift.evaluation.overlap import word_diff
from ift.evaluation.results import Score
from ift.evaluation.scoring import ENDS
from ift.evaluation.statistics import Difference, Estimate
from ift.pages.alike import IN_LOSS, OTHER_ROWS, TEST_ROWS, TOKENIZER, apart
from ift.pages.configs import differing
from ift.pages.measures import (
    CHRF_ANSWERS,
    Line,
    Metric,
    Row,
    agreements,
    asked,
    categories,
    common_rows,
    headlines,
    is_exact,
    known_metrics,
    lines_of,
    pairwise,
    ratings_of,
    row_metrics,
    score_name,
    tests,
    verdict,
)
from ift.pages.model_facts import model_facts
from ift.pages.page import Page
from ift.pages.plots import curves_drawing, finite, round_ticks
from ift.pages.runs import Run, open_runs
from ift.pages.tables import NOTHING, Cell, Column, Table, number_cell, text_cell, write_tables
from ift.run import write_text

ROWS = 300  # on the page at most, and
ANSWERS = 1_000  # answers of all runs to them, and
CHARACTERS = 4_000_000  # of all these answers; responses.jsonl has them all
LONGEST = 5_000  # characters of one text
FEW = 20  # common rows that get a warning
SIDE_BY_SIDE = 8  # runs whose curves and answers are shown at first


def compare(
    places: Sequence[str | Path],
    page: Path,
    *,
    names: Sequence[str] | None = None,
    tables: Path | None = None,
    jobs: Table | None = None,
    plots: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Write the page; return the lines for the terminal.

    names: other ones than the folders'. tables: a folder that gets every table of the page as CSV, Markdown and LaTeX.
    jobs, plots: of a sweep, shown first; jobs that have no row in common are no error then.

    Files that cannot be read are named on the page and on stderr, and the rest is compared. Raises ConfigError, and
    DataError where answers cannot be read, or where the runs have nothing in common that could be compared.
    """
    runs = open_runs(places, names)
    for run in runs:
        for each in run.problems:
            warn(each)
    rows = common_rows(runs)
    unlike = apart([run.answers.run for run in runs])
    known = known_metrics(runs, other_tokens=tokens_differ(unlike))
    if not rows and jobs is None:
        _refuse_without_common_rows(runs, known)
    measured = row_metrics(runs, rows)
    compared = tests([*measured, *known])
    lines = {metric.name: list(lines_of(metric, compared, rows)) for metric in (*measured, *known)}
    warnings = [*warnings_of(runs, rows, places), *losses_apart(runs, unlike), *scores_apart(runs)]
    by_category = _category_table(runs, measured, rows)
    found = Tables(
        runs=_run_table(runs, [*measured, *known], lines, unlike, len(rows)),
        tests=_test_table(runs, [*measured, *known], lines),
        models=_model_table(runs),
        settings=_setting_table(runs),
        parts=_part_table(runs),
        categories=by_category,
        agreements=_agreement_table(runs),
        jobs=jobs,
    )
    in_bytes = tokens_differ(unlike) and all(_has_bits(run.metrics) for run in runs if run.metrics)
    curves = _curves(runs, in_bytes=in_bytes)
    shown, by = _most_apart(rows, measured, len(runs))
    text = Page("compare").render(
        runs=runs,
        warnings=warnings,
        tables=found,
        plots=plots,
        rows=[_shown(runs, rows[i], i, measured) for i in shown],
        shown_by=by,
        n_rows=len(rows),
        only_here=[(run.name, more) for run in runs if (more := len(run.answers.rows) - len(rows)) > 0],
        metrics=[(metric, lines[metric.name], scale(metric, lines[metric.name])) for metric in (*measured, *known)],
        row_metrics=measured,
        n_tests=len(compared),
        pairs=pairwise(runs),
        curves=curves,
        other_tokens=tokens_differ(unlike),
        in_bytes=in_bytes,
        side_by_side=SIDE_BY_SIDE,
        finite=finite,
        p_text=p_text,
        without_chrf=bool(rows) and len(rows) * len(runs) > CHRF_ANSWERS,
        chrf_answers=CHRF_ANSWERS,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    if tables is not None:
        write_tables(tables, found.all)
    return [*summary_lines(runs, rows, warnings, [*measured, *known], lines), *_written(tables, found)]


def _curves(runs: Sequence[Run], *, in_bytes: bool) -> list[dict[str, Any]]:
    """The drawing for a wide page and the one for a phone; none where there is nothing to draw.

    in_bytes: bits per byte of the validation rows, and no training loss, of which that is not known
    """
    metrics = [run.metrics for run in runs]
    if in_bytes:
        metrics = [[{"step": line.get("step"), "val/loss": line.get(BITS)} for line in lines] for lines in metrics]
    return [drawn for drawn in (curves_drawing(metrics), curves_drawing(metrics, width=480, height=300)) if drawn]


BITS = "val/bits_per_byte"  # of a line of metrics.jsonl


def _has_bits(metrics: Sequence[Mapping[str, Any]]) -> bool:
    return any(finite(line.get(BITS)) is not None for line in metrics)


def _written(tables: Path | None, found: Tables) -> list[str]:
    names = ", ".join(table.name for table in found.all)
    return [] if tables is None else [f"tables    {tables}: {names}, each as .csv, .md and .tex"]


# -- what is no comparison, or a doubtful one ------------------------------------------------------------------------


ROWS_BY = ("data.split_seed", "data.split", "data.path", "data.test_path", "data.limit", "data.name", "data.demo_rows")


def _refuse_without_common_rows(runs: Sequence[Run], known: Sequence[Metric]) -> None:
    """Raises DataError where answers share no row, unless runs share questions of a known evaluation."""
    answered = [run for run in runs if run.answers.rows]
    if len(answered) < 2 or any(v is not None for metric in known for values in metric.values[1:] for v in values):
        return
    first = answered[0]
    questions = {row.question for row in first.answers.rows}
    strangers = [run for run in answered[1:] if not any(row.question in questions for row in run.answers.rows)]
    if not strangers:
        raise DataError(f"ift compare: no row that all {len(answered)} runs answered (compare fewer of them at a time)")
    other = strangers[0]
    differing = [key for key in ROWS_BY if first.config.get(key) != other.config.get(key)]
    why = ", ".join(f"{key}={other.config.get(key, NOTHING)} and {first.config.get(key, NOTHING)}" for key in differing)
    raise DataError(
        f"{one_line(other.name, 60)}: no row that {one_line(first.name, 60)} answered too"
        + (f": {one_line(why, 90)}" if why else "")
        + " (give all runs the same rows and data.split_seed, or let each answer the same test rows)"
    )


def warnings_of(runs: Sequence[Run], rows: Sequence[Row], places: Sequence[str | Path]) -> Iterator[str]:
    """What a reader must know before the first number."""
    real = [os.path.realpath(place) for place in places]
    for place, times in Counter(real).items():
        if times > 1:
            yield f"{runs[real.index(place)].name} is given {times} times: it can only be equal to itself"
    silent = [run.name for run in runs if not run.answers.rows]
    if silent:
        yield f"no answers of {_list(silent)}: only what else there is of {_it(silent)} is compared"
    counts = {run.name: len(run.answers.rows) for run in runs if run.answers.rows}
    if len(counts) < 2:
        return
    most = max(counts, key=lambda name: counts[name])
    if not rows:
        yield "the runs answered no row in common: their answers are not compared, only what else there is of them"
    elif len(rows) < counts[most] / 2:
        yield (
            f"only {len(rows):,} rows were answered by all of these runs, of {counts[most]:,} that {most} answered: "
            "what is said of answers is of these alone"
        )
    elif len(rows) < FEW:
        yield f"only {len(rows):,} rows to compare answers on: few differences can be settled by so few"


def scores_apart(runs: Sequence[Run]) -> Iterator[str]:
    """A line where BLEU and chrF of whole runs were counted in another way."""
    ways = {run.name: str(run.summary.get("scoring")) for run in runs if "bleu" in run.summary}
    if len(set(ways.values())) > 1:
        older = [name for name, way in ways.items() if way == "None"] or list(ways)[1:]
        yield (
            f"BLEU of whole runs was counted in another way in {_list(older)}: "
            "the numbers cannot be held against each other (evaluate.py eval=score counts anew)"
        )


def losses_apart(runs: Sequence[Run], unlike: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """One line for each thing that makes a loss of one run another number than that of the next."""
    if not any(finite(run.summary.get(key)) is not None for run in runs for key in ("val_loss", "test_loss")):
        return
    for what, values in unlike:
        each: dict[str, list[str]] = {}
        for value, run in zip(values, runs, strict=True):
            each.setdefault(value or "not known", []).append(one_line(run.name, 24))
        who = "; ".join(f"{one_line(value, 40)}: {_list(names)}" for value, names in each.items())
        instead = f". {bits_per_byte_or_not(runs)}" if what == TOKENIZER else ""
        if what == OTHER_ROWS:
            yield f"validation losses may be of different rows: not the same {what} ({who})"
        else:
            yield f"losses of whole runs cannot be held against each other: not the same {what} ({who}){instead}"


def bits_per_byte_or_not(runs: Sequence[Run]) -> str:
    """What is compared instead where runs have not one tokenizer, and of which runs it is not known."""
    without = [run.name for run in runs if not any(finite(run.summary.get(key)) is not None for key in BITS_PER_BYTE)]
    if len(without) == len(runs):
        return "None of these runs was measured in bits per byte, which can be (evaluate.py eval=calibration does)"
    if without:
        return (
            f"Bits per byte can be, and {_list(without)} {'has' if len(without) == 1 else 'have'} none "
            "(evaluate.py eval=calibration measures them)"
        )
    sizes = [{run.summary.get(f"{split}_bytes") for run in runs} for split in ("val", "test")]
    if any(len(each) > 1 for each in sizes):
        return (
            "Bits per byte can be, as far as the supervised texts are the same: "
            "they are not equally many bytes in all of these runs"
        )
    return "Bits per byte can be"


def tokens_differ(unlike: Sequence[tuple[str, Sequence[str]]]) -> bool:
    return any(what == TOKENIZER for what, _ in unlike)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


# -- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """Every table of the page; None where there is nothing to show."""

    runs: Table
    tests: Table | None
    models: Table | None
    settings: Table | None
    parts: Table | None
    categories: Table | None
    agreements: Table | None
    jobs: Table | None

    @property
    def all(self) -> list[Table]:
        every = (
            self.jobs,
            self.runs,
            self.tests,
            self.parts,
            self.categories,
            self.agreements,
            self.models,
            self.settings,
        )
        return [table for table in every if table is not None]


LOSSES = {"val_loss": "validation loss", "test_loss": "test loss"}
BITS_PER_BYTE = {"val_bits_per_byte": "validation bits per byte", "test_bits_per_byte": "test bits per byte"}
NOT_COMPARABLE = "per token: not comparable"
NUMBERS = {  # of a whole run: (title, which is better)
    "chrf": ("chrF", 1),
    "bleu": ("BLEU", 1),
    "best_step": ("best step", 0),
    "train_tokens": ("tokens trained on", 0),
    "train_seconds": ("seconds of training", 0),
    "tokens_per_second": ("tokens a second", 0),
    "parameters": ("parameters", 0),
}


def _run_table(
    runs: Sequence[Run],
    measured: Sequence[Metric],
    lines: Mapping[str, Sequence[Line]],
    unlike: Sequence[tuple[str, Sequence[str]]],
    n_rows: int,
) -> Table:
    """A line for each run, a column for each number: what the page sorts."""
    other_tokens = tokens_differ(unlike)
    titles = {**BITS_PER_BYTE, **LOSSES} if other_tokens else {**LOSSES, **BITS_PER_BYTE}
    losses = {key: title for key, title in titles.items() if _some_have(runs, key)}
    better = {key: 0 if (other_tokens and key in LOSSES) or _other_text(key, unlike) else -1 for key in losses}
    numbers = {key: about for key, about in NUMBERS.items() if _some_have(runs, key)}
    columns = [Column("run"), *(Column(title, better[key], True) for key, title in losses.items())]
    columns += [Column(what) for what, _ in unlike] if losses else []
    columns += [Column(metric.name, metric.better, True) for metric in measured]
    columns += [Column(title, better, True) for title, better in numbers.values()]
    rows = []
    for i, run in enumerate(runs):
        cells = [text_cell(run.name, run=i)]
        cells += [_loss(run.summary.get(key), apart=other_tokens and key in LOSSES) for key in losses]
        cells += [text_cell(values[i]) for _, values in unlike] if losses else []
        cells += [_measured(metric, lines[metric.name][i], n_rows) for metric in measured]
        cells += [_whole(run.summary.get(key), _ends(run, key)) for key in numbers]
        rows.append(cells)
    return Table("runs", "Every run, every number", columns, rows)


def _other_text(key: str, unlike: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Whether bits per byte are of other texts, and none is the better one."""
    return key in BITS_PER_BYTE and any(what in (TEST_ROWS, IN_LOSS) for what, _ in unlike)


def _loss(value: Any, *, apart: bool) -> Cell:
    cell = _whole(value)
    return replace(cell, note=NOT_COMPARABLE) if apart and cell.value is not None else cell


def _some_have(runs: Sequence[Run], key: str) -> bool:
    return any(finite(run.summary.get(key)) is not None for run in runs)


def _whole(value: Any, ends: tuple[float, float] | None = None) -> Cell:
    """A number of a whole run. Losses have no interval: one run is one draw of its seed."""
    number = finite(value)
    cell = number_cell(number, ",.4g" if number is not None and abs(number) < 1000 else ",.0f")
    return cell if ends is None else replace(cell, note=f"{ends[0]:.4g} to {ends[1]:.4g}", low=ends[0], high=ends[1])


def _ends(run: Run, key: str) -> tuple[float, float] | None:
    """The interval that summary.json has of one of its scores."""
    low, high = (finite(run.summary.get(f"{key}_{end}")) for end in ENDS)
    return None if low is None or high is None else (low, high)


def _measured(metric: Metric, line: Line, n_rows: int) -> Cell:
    e = line.estimate
    if not e.n or not math.isfinite(e.mean):
        return Cell(None, NOTHING)
    note = " to ".join(f"{end:{metric.form}}" for end in ends) if (ends := interval_of(e)) else ""
    note += f", n {e.n:,}" if metric.estimates is None and e.n != n_rows else ""
    low, high = ends or (None, None)
    chip = line.verdict if line.verdict in ("better", "worse", "equal") else ""
    return Cell(float(e.mean), f"{e.mean:{metric.form}}", note.strip(", "), chip, low, high)


def interval_of(e: Estimate) -> tuple[float, float] | None:
    """Its ends, where it has an interval."""
    low, high = finite(e.low), finite(e.high)
    return None if low is None or high is None else (low, high)


def _test_table(runs: Sequence[Run], measured: Sequence[Metric], lines: Mapping[str, Sequence[Line]]) -> Table | None:
    """A line for each test: what was found, and what may be said."""
    titles = ("number", "run", runs[0].name, "its mean", "difference", "p (Holm)", "pairs", "higher in", "lower in")
    columns = [*(Column(title, 0, i > 1) for i, title in enumerate(titles)), Column("verdict"), Column("remark")]
    rows = []
    for metric in measured:
        for line in lines[metric.name][1:]:
            d = line.difference
            if d is None and not line.remark:
                continue
            both = [_measured(metric, each, each.estimate.n) for each in (lines[metric.name][0], line)]
            means = [Cell(cell.value, cell.text) for cell in both]
            cells = [text_cell(metric.name), text_cell(runs[line.run].name, run=line.run), *means]
            if d is None:
                cells += [Cell(None, NOTHING)] * 6
            else:
                low, high = finite(d.low), finite(d.high)
                ends = f"{signed(low, metric.form)} to {signed(high, metric.form)}" if None not in (low, high) else ""
                difference = Cell(d.difference, signed(d.difference, metric.form), ends, "", low, high)
                cells += [difference, Cell(d.p, p_text(d.p).removeprefix("= "))]
                cells += [number_cell(n, ",.0f") for n in (d.n, d.wins, d.losses)]
                cells += [Cell(line.verdict, "", chip=line.verdict)]
            rows.append([*cells, text_cell(line.remark)])
    return Table("tests", f"Every test against {runs[0].name}", columns, rows) if rows else None


def _model_table(runs: Sequence[Run]) -> Table | None:
    """What the models are, where they are not alike."""
    facts = [model_facts(run.answers.run) for run in runs]
    rows = [
        [text_cell(what), *(text_cell(each.get(what, NOTHING)) for each in facts)]
        for what in dict.fromkeys(what for each in facts for what in each)
        if len({each.get(what) for each in facts}) > 1
    ]
    return Table("models", "Models that differ", _by_run("of the model", runs), rows) if rows else None


def _setting_table(runs: Sequence[Run]) -> Table | None:
    rows = [
        [text_cell(key), *(text_cell(_cut(value, 300)) for value in values)]
        for key, values in differing([run.config for run in runs])
    ]
    return Table("settings", "Settings that differ", _by_run("setting", runs), rows) if rows else None


def _by_run(first: str, runs: Sequence[Run], *, numeric: bool = False) -> list[Column]:
    return [Column(first), *(Column(run.name, 0, numeric) for run in runs)]


def _part_table(runs: Sequence[Run]) -> Table | None:
    """Scores of known evaluations that are parts of others, or the base model's: they are shown, not tested."""
    tested = set(headlines(runs))
    rows = []
    for name in sorted({name for run in runs for name in run.known}):
        known = [run.known[name].scores if name in run.known else {} for run in runs]
        for key in dict.fromkeys(key for scores in known for key in scores if (name, key) not in tested):
            scores = [each.get(key) for each in known]
            title = score_name(name, next(score for score in scores if score is not None))
            rows.append([text_cell(title), *map(_score_cell, scores)])
    columns = _by_run("number", runs, numeric=True)
    return Table("parts", "Parts of evaluations, and the untuned model", columns, rows) if rows else None


def _score_cell(score: Score | None) -> Cell:
    if score is None or score.value is None:
        return Cell(None, NOTHING)
    form = ".3f" if abs(score.value) < 10 else ".1f"
    low, high = finite(score.low), finite(score.high)
    note = "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
    return Cell(score.value, f"{score.value:{form}}", note, "", low, high)


def _category_table(runs: Sequence[Run], measured: Sequence[Metric], rows: Sequence[Row]) -> Table | None:
    found = []
    for metric, table in categories(measured, rows):
        for name, estimates in table:
            n = max(e.n for e in estimates if e is not None)
            cells = [_measured(metric, Line(0, e, None, "", None, ""), e.n) if e else text_cell("") for e in estimates]
            found.append([text_cell(metric.name), text_cell(name), number_cell(n, ",.0f"), *cells])
    columns = [Column("number"), Column("category"), Column("rows", 0, True), *_by_run("", runs, numeric=True)[1:]]
    return Table("categories", "By category", columns, found) if found else None


def _agreement_table(runs: Sequence[Run]) -> Table | None:
    titles = ("answers", "Pearson", "Spearman", "Kendall", "kappa")
    columns = [Column("run"), Column("raters"), *(Column(title, 0, True) for title in titles)]
    rows = [
        [text_cell(name), text_cell(f"{one} and {other}"), number_cell(a.n, ",.0f")]
        + [number_cell(value, ".3f") for value in (a.pearson, a.spearman, a.kendall, a.kappa)]
        for name, one, other, a in agreements(runs)
    ]
    return Table("agreement", "How far raters agree", columns, rows) if rows else None


# -- what is drawn ---------------------------------------------------------------------------------------------------


def _most_apart(rows: Sequence[Row], measured: Sequence[Metric], n_runs: int) -> tuple[list[int], str]:
    """The rows that the page shows, in order, and by which number they were chosen; "" where all are shown.

    Chosen are those where the runs are furthest apart, so that a page of many rows shows what there is to see.
    """
    most = min(ROWS, max(1, ANSWERS // n_runs))
    order, by = list(range(len(rows))), ""
    metric = next((metric for metric in measured if metric.tested), None)
    length = [sum(min(len(text), LONGEST) for text in _texts(row)) for row in rows]
    if metric is not None and (len(rows) > most or sum(length) > CHARACTERS):
        order.sort(key=lambda row: -_spread([values[row] for values in metric.values]))
        by = metric.name
    chosen: list[int] = []
    room = CHARACTERS
    for row in order[:most]:
        room -= length[row]
        if room < 0 and chosen:
            break
        chosen.append(row)
    return sorted(chosen), by if len(chosen) < len(rows) else ""


def _texts(row: Row) -> Iterator[str]:
    question = asked(row)
    yield from (question.instruction, question.input, question.reference)
    yield from (answer.response for answer in row if answer is not None)


def _spread(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return max(there) - min(there) if there else -1.0


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]} ... {len(text) - longest:,} characters more"


def _shown(runs: Sequence[Run], row: Row, i: int, measured: Sequence[Metric]) -> dict[str, Any]:
    """A row of the page: the reference, and each run's answer with its words marked and its numbers."""
    question = asked(row)
    reference = _cut(question.reference)
    answers: list[dict[str, Any]] = []
    for j, (run, answer) in enumerate(zip(runs, row, strict=True)):
        if answer is None:
            continue
        response = _cut(answer.response)
        reasons = [
            (name, judged.reasons[answer.key]) for name, judged in run.judged.items() if answer.key in judged.reasons
        ]
        answers.append(
            {
                "run": j,
                "answer": answer,
                "pieces": word_diff(reference, response)[1] if reference else [(True, response)],
                "same": is_exact(answer),
                "ratings": ratings_of(run, answer),
                "reasons": [(name, _cut(reason)) for name, reason in reasons if reason],
                "judged": [(m.name, m.values[j][i]) for m in measured if m.name.startswith("judge")],
            }
        )
    return {
        "number": i + 1,
        "question": question,
        "instruction": _cut(question.instruction),
        "input": _cut(question.input),
        "reference": reference,
        "answers": answers,
        "differ": len({a["answer"].response.strip() for a in answers}) > 1,
        # what rows are sorted by: of each metric each run's number
        "values": ";".join(",".join(_number(values[i]) for values in metric.values) for metric in measured),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


@dataclass(frozen=True)
class Scale:
    """Where things stand on a metric's one scale, in percent of its width.

    places  of each run: low end, mean and high end; the ends None where there is no interval, all where no value
    ticks   (place, label)
    """

    places: Sequence[tuple[float | None, float | None, float | None]]
    ticks: Sequence[tuple[float, str]]


def scale(metric: Metric, lines: Sequence[Line]) -> Scale:
    """The scale that all runs of a metric share: from the lowest end of an interval to the highest, with some room."""
    spans: list[tuple[float | None, float | None, float | None]] = []
    for line in lines:
        mean = finite(line.estimate.mean) if line.estimate.n else None
        low, high = interval_of(line.estimate) or (None, None)
        spans.append((low, mean, high) if mean is not None else (None, None, None))
    ends = [end for span in spans for end in span if end is not None]
    if not ends:
        return Scale(spans, [])
    low, high = min(ends), max(ends)
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.05)

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low + room) / (high - low + 2 * room), 2)

    def label(tick: float) -> str:
        return f"{tick * 100:g}%" if "%" in metric.form else f"{tick:,.10g}"

    ticks = round_ticks(low - room, high + room, 6)
    return Scale(
        [(place(a), place(b), place(c)) for a, b, c in spans],
        [(at, label(tick)) for tick in ticks if (at := place(tick)) is not None and 4 <= at <= 96],
    )


# -- what the terminal says ------------------------------------------------------------------------------------------


def signed(value: float | None, form: str) -> str:
    return NOTHING if value is None else f"{value:+{form}}"


def p_text(p: float) -> str:
    """= 0.031; what is far below anything that a test of so many rows can tell apart is no number."""
    return f"= {p:.2g}" if p >= 1e-12 else "< 1e-12"


def say(metric: Metric, test: Difference) -> str:
    """A difference in words, and what it would take where this many rows do not settle it."""
    what = verdict(metric, test)
    if what == "equal":
        return f"equal: on all {test.n:,}"
    low, high = finite(test.low), finite(test.high)
    between = (
        "" if low is None or high is None else f"95 %: {signed(low, metric.form)} to {signed(high, metric.form)}; "
    )
    line = f"{what}: {signed(test.difference, metric.form)} ({between}p {p_text(test.p)})"
    if not test.settled and test.rows_to_settle and test.rows_to_settle > test.n:
        line += f"; about {test.rows_to_settle:,} rows would settle it"
    return line


def summary_lines(
    runs: Sequence[Run],
    rows: Sequence[Row],
    warnings: Sequence[str],
    measured: Sequence[Metric],
    lines: Mapping[str, Sequence[Line]],
) -> Iterator[str]:
    first = one_line(runs[0].name, 60)
    yield f"compared  {len(runs)} runs on {len(rows):,} rows that all answered; differences are to {first}"
    for warning in warnings:
        yield f"warning   {one_line(warning)}"
    for metric in measured:
        yield one_line(metric.name, 80) + (f" ({one_line(metric.note, 200)})" if metric.note else "")
        for line, run in zip(lines[metric.name], runs, strict=True):
            e = line.estimate
            if not e.n or not math.isfinite(e.mean):
                yield f"  {one_line(run.name, 24):<24} -"
                continue
            mean = f"{e.mean:{metric.form}}"
            if ends := interval_of(e):
                mean += f" ({ends[0]:{metric.form}} to {ends[1]:{metric.form}})"
            said = say(metric, line.difference) if line.difference else ""
            remark = one_line(line.remark, 160)
            yield f"  {one_line(run.name, 24):<24} {mean:<28} n {e.n:<8,} " + "; ".join(filter(None, (said, remark)))
