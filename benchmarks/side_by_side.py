"""Contestants side by side: what all benchmarks share. Needs no peer and no torch.

Every contestant runs in a fresh process of its own environment, a round of all of them after another, so that whatever
else the machine does falls on all. A figure is the median over rounds; a ratio is made within a round, and its interval
is Student's t over the logarithms. A contestant that dies or fails a gate stays in the table as INVALID, with the
reason and without a figure.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

CONTESTANTS = Path(__file__).parent / "contestants"
NARROW = 0.15  # of a ratio's interval, as a share of its middle: from there on no round is added
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ift-benchmarks"
TORCH = "torch==2.13.0"
ENVIRONMENTS: dict[str, list[list[str]]] = {  # what pip is told after torch, a line a call
    "trl": [["trl==1.16.0", "transformers==5.23.0"]],
    "peft": [["trl==1.16.0", "transformers==5.23.0", "peft==0.21.2"]],
    "litgpt": [["litgpt==0.5.9"]],
    "torchtune": [["torchtune==0.6.1", "torchao==0.15.0"]],
    # its own list asks for tensorflow, jupyterlab and an old numpy, which its GPT does not need
    "llms-from-scratch": [
        ["--no-deps", "llms-from-scratch==1.0.19"],
        ["tiktoken", "numpy", "matplotlib", "tqdm", "psutil", "safetensors"],
    ],
}
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # Student's t for 1, 2, ... 10 degrees


@dataclass(frozen=True)
class Contestant:
    name: str
    script: str  # in contestants/
    environment: str | None = None  # one of ENVIRONMENTS; None: that of the driver
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""  # what a reader of its row must know
    precision: str | None = None  # where it is not that of the run
    side: bool = False  # after some rounds it leaves, unless it is the best of its kind by then


@dataclass
class Outcome:
    """One process of one contestant: what it printed, or why that does not count."""

    contestant: str
    round: int
    values: dict[str, Any] = field(default_factory=dict)
    invalid: str | None = None


# -- environments -----------------------------------------------------------------------------------------------------


def python_of(environment: str | None, cache: Path) -> str:
    """The interpreter of a peer's own environment, which is made in the cache folder when it is first asked for."""
    if environment is None:
        return sys.executable
    folder = cache / environment
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "installed.json"
    wanted = [[TORCH], *ENVIRONMENTS[environment]]
    if not done.exists() or json.loads(done.read_text()) != wanted:
        print(f"installing {environment} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for packages in wanted:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(json.dumps(wanted))
    return str(python)


# -- processes --------------------------------------------------------------------------------------------------------


def run(contestant: Contestant, job: dict[str, Any], *, python: str, timeout: float) -> Outcome:
    """One process, and its RESULT line. Whatever ends without one is invalid, with the last line that it said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        precision = contestant.precision or job["precision"]
        started = time.monotonic()
        job = {"save": None, "logits": None, **job, "options": {**contestant.options, **job.get("options", {})}}
        file.write_text(json.dumps({**job, "precision": precision, "started": started}))
        script = str(CONTESTANTS / contestant.script)
        outcome = Outcome(contestant.name, job["round"])
        try:
            done = subprocess.run(
                [python, script, str(file)],
                env=environment(own=contestant.environment is None),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            outcome.invalid = f"not done after {timeout:.0f} s"
            return outcome
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not results:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        outcome.invalid = f"exit {done.returncode}: {said[-1][:200] if said else 'it said nothing'}"
    if results:
        outcome.values = json.loads(results[-1].removeprefix("RESULT "))
    outcome.values["wall"] = time.monotonic() - started
    return outcome


def environment(*, own: bool) -> dict[str, str]:
    """The same threads for all, nothing fetched; packages of the driver's path are for our own side alone."""
    fixed = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    given = {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}
    return {**given, "OMP_NUM_THREADS": threads(), **fixed}


def threads() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(cores)


def turns(names: Sequence[T], number: int) -> Sequence[T]:
    """The order of a round: every other one backwards, so that nobody always follows the same one."""
    return names if number % 2 == 0 else names[::-1]


# -- statistics -------------------------------------------------------------------------------------------------------


class Ratio(NamedTuple):
    median: float
    low: float  # 95 % interval; nan from one round alone
    high: float

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.median:.2f}{interval}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, round by round; the interval is that of the geometric mean."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    median, n = statistics.median(ratios), len(ratios)
    if n < 2:
        return Ratio(median, math.nan, math.nan)
    logs = [math.log(r) for r in ratios]
    t = T_975[n - 2] if n - 2 < len(T_975) else 1.96
    half = t * statistics.stdev(logs) / math.sqrt(n)
    mean = statistics.fmean(logs)
    return Ratio(median, math.exp(mean - half), math.exp(mean + half))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y over log x, by least squares: 1 is linear growth."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


# -- gates ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """How far a figure may be from the reference."""

    what: str
    limit: float
    relative: bool = False

    def broken_by(self, found: float, expected: float) -> str | None:
        distance = abs(found - expected) / (abs(expected) if self.relative else 1.0)
        if distance <= self.limit:  # never so for NaN
            return None
        share = " of it" if self.relative else ""
        return f"{self.what} {found:.6g}, the reference's {expected:.6g}: more than {self.limit:g}{share} apart"


def refuse(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The first reason against each contestant that failed anywhere: one bad round is enough."""
    reasons: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.invalid:
            reasons.setdefault(outcome.contestant, outcome.invalid)
    return reasons


# -- what is shown ----------------------------------------------------------------------------------------------------


class Lines:
    """A JSON file that has each outcome as soon as there is one."""

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    def add(self, kind: str, value: dict[str, Any]) -> None:
        with self.file.open("a") as lines:
            lines.write(json.dumps({"kind": kind, **value}) + "\n")


@dataclass(frozen=True)
class Column:
    title: str
    value: Callable[[dict[str, Any]], float | None]
    form: str = "{:,.0f}"

    def of(self, rounds: Sequence[dict[str, Any]]) -> str:
        """The median, or nothing where a round has no such figure."""
        figures = [figure for values in rounds if (figure := self.value(values)) is not None]
        return self.form.format(statistics.median(figures)) if len(figures) == len(rounds) else ""


def table(
    contestants: Sequence[Contestant],
    outcomes: Sequence[Outcome],
    columns: Sequence[Column],
    *,
    rate: Callable[[dict[str, Any]], float],
    ours: str,
) -> str:
    """Markdown, a row for each contestant, valid or not; the ratio says how many times its rate is ours."""
    reasons = refuse(outcomes)
    titles = ["", *(column.title for column in columns), f"{ours} is faster by", "rounds", ""]
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(columns) + 2) + "---|"]
    for contestant in contestants:
        values = {o.round: o.values for o in outcomes if o.contestant == contestant.name and not o.invalid}
        if contestant.name in reasons or not values:
            reason = reasons.get(contestant.name, "it never ran").replace("|", "/")
            cells = [contestant.name, *("" for _ in columns), "", "", f"**INVALID**: {reason}"]
        else:
            figures = [column.of(list(values.values())) for column in columns]
            compared = compare(outcomes, ours, contestant.name, rate)
            cells = [contestant.name, *figures, str(compared or ""), str(len(values)), contestant.note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compare(
    outcomes: Sequence[Outcome], ours: str, theirs: str, rate: Callable[[dict[str, Any]], float]
) -> Ratio | None:
    """How many times the other's rate ours is, over the rounds that both ran; None where one of them is not valid."""
    reasons = refuse(outcomes)
    if ours in reasons or theirs in reasons:
        return None
    rates = {name: {o.round: rate(o.values) for o in outcomes if o.contestant == name} for name in {ours, theirs}}
    both = sorted(rates[ours].keys() & rates[theirs].keys())
    return ratio([rates[ours][r] for r in both], [rates[theirs][r] for r in both]) if both else None


def settled(
    outcomes: Sequence[Outcome], ours: str, others: Sequence[str], rate: Callable[[dict[str, Any]], float]
) -> bool:
    """Whether no ratio needs a further round: its interval is narrow, or one of the two is not valid."""
    refused = refuse(outcomes)
    found = [compare(outcomes, ours, name, rate) for name in others if not {ours, name} & refused.keys()]
    return all(r is not None and not math.isnan(r.low) and r.high - r.low < NARROW * r.median for r in found)


def best_of(names: Sequence[str], outcomes: Sequence[Outcome], rate: Callable[[dict[str, Any]], float]) -> str | None:
    """The valid one with the highest median rate."""
    reasons = refuse(outcomes)
    medians = {
        name: statistics.median(rates)
        for name in names
        if name not in reasons and (rates := [rate(o.values) for o in outcomes if o.contestant == name])
    }
    return max(medians, key=lambda name: medians[name]) if medians else None


def plot(
    contestants: Sequence[Contestant],
    outcomes: Sequence[Outcome],
    file: Path,
    *,
    rate: Callable[[dict[str, Any]], float],
    title: str,
    label: str,
) -> None:
    """A bar for the median of each contestant with a point for each round; who is invalid has a word instead."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    reasons = refuse(outcomes)
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(contestants) + 1.2), layout="constrained")
    for place, contestant in enumerate(contestants):
        rates = [rate(o.values) for o in outcomes if o.contestant == contestant.name and not o.invalid]
        if contestant.name in reasons or not rates:
            axes.text(0, place, " INVALID", va="center", color="tab:red")
            continue
        median = statistics.median(rates)
        axes.barh(place, median, color="tab:orange" if contestant.name.startswith("ift") else "tab:gray", height=0.6)
        axes.plot(rates, [place] * len(rates), ".", color="black", markersize=3)
        axes.text(max(rates), place, f"  {median:,.0f}", va="center")  # behind the last point
    axes.set_yticks(range(len(contestants)), [contestant.name for contestant in contestants])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
