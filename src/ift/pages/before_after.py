"""The same prompts before and after tuning: what the untuned model answered, what the tuned one did, and the losses.

Pairs come from `eval=before_after`, which answers the whole test split with both, or else from the few validation rows
that training answers at every validation (samples.jsonl).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ift.evaluation.ngrams import chrf_of
from ift.evaluation.overlap import rouge_l, same
from ift.evaluation.statistics import (
    POSITIVE,
    SHARE,
    UNIT,
    Difference,
    Estimate,
    compare_pairs,
    holm,
    mean_interval,
)
from ift.pages.plots import finite

SAME = 0.005  # ROUGE-L that differs by less, to two decimals, is shown as no change
FEWEST = 10  # prompts that get bars
WIDTH, HEIGHT = 960, 120  # of the drawing, from its upper left corner


@dataclass(frozen=True)
class Pair:
    """One prompt. Losses are nats per supervised token of the reference; None where they were not measured."""

    instruction: str
    input: str
    reference: str
    untuned: str
    tuned: str
    category: str = ""
    untuned_loss: float | None = None
    tuned_loss: float | None = None

    @property
    def closeness(self) -> tuple[float, float] | None:
        """ROUGE-L of both answers with the reference; None without a reference."""
        if not self.reference.strip():
            return None
        return rouge_l(self.untuned, self.reference), rouge_l(self.tuned, self.reference)


@dataclass(frozen=True)
class Shown:
    """A pair with the numbers that the page shows, computed once."""

    pair: Pair
    rouge_l: tuple[float, float] | None

    @property
    def change(self) -> float | None:
        """How much closer to the reference the tuned answer is; negative where tuning hurt."""
        return None if self.rouge_l is None else self.rouge_l[1] - self.rouge_l[0]

    @property
    def loss_change(self) -> float | None:
        a, b = self.pair.untuned_loss, self.pair.tuned_loss
        return None if a is None or b is None else b - a

    @property
    def kind(self) -> str:
        """helped, hurt or even, by ROUGE-L; where there is no reference, "" """
        if self.change is None:
            return ""
        return "even" if abs(self.change) < SAME else "helped" if self.change > 0 else "hurt"


@dataclass(frozen=True)
class Measure:
    """A number of both models on the same rows, with the test of their difference."""

    name: str
    form: str
    untuned: Estimate
    tuned: Estimate
    test: Difference
    verdict: str  # better, worse or not settled


def of_samples(samples: Sequence[Mapping[str, Any]], best_step: Any) -> list[Pair]:
    """The answers of step 0 and of the best step in samples.jsonl. None where the best step is step 0."""
    if best_step == 0:
        return []
    first = [s for s in samples if s["step"] == 0]
    best = [s for s in samples if s["step"] == best_step]
    return [
        Pair(
            **_prompt(a),
            untuned=a["response"],
            tuned=b["response"],
            untuned_loss=_loss(a.get("loss")),
            tuned_loss=_loss(b.get("loss")),
        )
        for a, b in zip(first, best, strict=False)
    ]


def of_evaluation(samples: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """The two lines of each test row in evals/before_after/samples.jsonl."""
    answers = [s for s in samples if "said" in s]  # the others are of general text
    base = {s["doc_id"]: s for s in answers if s["model"] == "base"}
    pairs = [(base[s["doc_id"]], s) for s in answers if s["model"] == "tuned" and s["doc_id"] in base]
    return [
        Pair(
            **_prompt({**a, "reference": a["target"]}),
            untuned=a["said"],
            tuned=b["said"],
            untuned_loss=_loss(a["metrics"].get("loss")),
            tuned_loss=_loss(b["metrics"].get("loss")),
        )
        for a, b in pairs
    ]


def _loss(value: Any) -> float | None:
    """A cross-entropy, which is never below zero; None for anything else that a file may hold."""
    loss = finite(value)
    return None if loss is None or loss < 0 else loss


def _prompt(line: Mapping[str, Any]) -> dict[str, str]:
    category = line.get("category")
    texts = {name: line[name] for name in ("instruction", "input", "reference")}
    return {**texts, "category": category if isinstance(category, str) else ""}


def shown(pairs: Sequence[Pair]) -> list[Shown]:
    """Where tuning hurt most first, pairs without a reference last."""
    found = [Shown(pair, pair.closeness) for pair in pairs]
    return sorted(found, key=lambda each: (each.change is None, each.change or 0.0))


def measures(rows: Sequence[Shown]) -> list[Measure]:
    """Exact match, ROUGE-L, chrF and loss of both models, with paired tests after Holm's correction for these."""
    kept = [(row, row.rouge_l) for row in rows if row.rouge_l is not None]
    losses = [
        (a, b) for row in rows if (a := row.pair.untuned_loss) is not None and (b := row.pair.tuned_loss) is not None
    ]
    both = {
        ("exact match", ".1%", SHARE): (
            [float(same(row.pair.untuned, row.pair.reference)) for row, _ in kept],
            [float(same(row.pair.tuned, row.pair.reference)) for row, _ in kept],
        ),
        ("ROUGE-L", ".3f", UNIT): ([r[0] for _, r in kept], [r[1] for _, r in kept]),
        ("chrF", ".3f", UNIT): (
            [chrf_of(row.pair.untuned, row.pair.reference) for row, _ in kept],
            [chrf_of(row.pair.tuned, row.pair.reference) for row, _ in kept],
        ),
        ("loss of the reference", ".3f", POSITIVE): ([a for a, _ in losses], [b for _, b in losses]),
    }
    both = {kind: values for kind, values in both.items() if values[0]}
    tests = holm({kind: compare_pairs(*values, kind[2]) for kind, values in both.items()})
    return [
        Measure(
            name,
            form,
            mean_interval(untuned, scale),
            mean_interval(tuned, scale),
            test := tests[name, form, scale],
            test.verdict(higher_is_better=not name.startswith("loss")),
        )
        for (name, form, scale), (untuned, tuned) in both.items()
    ]


def bars(rows: Sequence[Shown]) -> dict[str, Any] | None:
    """A bar for each row's change of ROUGE-L, the lowest first: where they stand in a drawing of WIDTH x HEIGHT.

    None for fewer than FEWEST, which the list of prompts shows as well.
    """
    changes = sorted(row.change for row in rows if row.change is not None)
    if len(changes) < FEWEST:
        return None
    low, high = min(0.0, changes[0]), max(0.0, changes[-1])
    step, unit = WIDTH / len(changes), HEIGHT / ((high - low) or 1.0)
    zero = high * unit
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "zero": round(zero, 1),
        "bars": [
            {
                "x": round(i * step, 2),
                "y": round(zero - max(change, 0.0) * unit, 1),
                "width": round(max(step - min(2.0, step / 4), 0.5), 2),
                "height": round(max(abs(change) * unit, 1.0), 1),
                "kind": "even" if abs(change) < SAME else "helped" if change > 0 else "hurt",
                "change": change,
            }
            for i, change in enumerate(changes)
        ],
    }
