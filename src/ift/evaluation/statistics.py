"""What may be concluded from numbers on the same rows: intervals, tests of a difference, agreement of two raters.

No word is used for a difference that its test does not support: `Difference.verdict` says better, worse or not settled.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

# scipy is imported where it is used: it takes most of a second, and `ift --help` imports no numbers

ALPHA = 0.05  # a difference is settled where its p value, after Holm, is not above
Z95 = 1.96  # standard errors to each side of a 95 % interval
POWER = 0.8  # the chance to find a difference that `rows_to_settle` promises
RESAMPLES = 10_000
STEPS = 100_000  # the sum of all differences in units of the exact test's grid, at most
MANY = 2_000  # rows; of more, the normal distribution gives the same p value within a fiftieth of it
KINDS = 1_000  # different differences that the bootstrap tells apart; of more, neighbours are taken together


@dataclass(frozen=True)
class Estimate:
    """A mean over n rows and its 95 % interval; of n = 1 the interval is infinite, of n = 0 all are nan."""

    n: int
    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean with its 95 % interval: Wilson's (1927) where all values are 0 or 1, Student's t otherwise."""
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan)
    if np.isin(x, (0.0, 1.0)).all():
        interval = stats.binomtest(int(x.sum()), n).proportion_ci(method="wilson")
        return Estimate(n, float(x.mean()), float(interval.low), float(interval.high))
    if n == 1:
        return Estimate(1, float(x[0]), -math.inf, math.inf)
    half = float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Estimate(n, float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def normal_interval(value: float, standard_error: float) -> tuple[float, float]:
    """95 % interval of a number with normally distributed errors."""
    return value - Z95 * standard_error, value + Z95 * standard_error


def by_category(values: Sequence[float], categories: Sequence[str]) -> dict[str, Estimate]:
    """An estimate for each category, the largest first."""
    groups: dict[str, list[float]] = {}
    for value, category in zip(values, categories, strict=True):
        groups.setdefault(category, []).append(value)
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {category: mean_interval(group) for category, group in largest_first}


@dataclass(frozen=True)
class Difference:
    """Of two runs on the same n rows: the mean of `second - first`, and what may be concluded from it.

    low, high       95 % interval by paired bootstrap
    p               of the exact test; `holm` puts the adjusted one here
    wins, losses    rows where the second is higher, lower; the other rows are ties
    detectable      the smallest difference that n rows show with 80 % power
    rows_to_settle  how many rows would show a difference of this size with 80 % power; None if there is none
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    detectable: float
    rows_to_settle: int | None

    @property
    def settled(self) -> bool:
        return self.p <= ALPHA and self.difference != 0

    def verdict(self, *, higher_is_better: bool = True) -> str:
        if not self.settled:
            return "not settled"
        return "better" if (self.difference > 0) == higher_is_better else "worse"


def compare_pairs(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Difference:
    """Compare two runs row by row. first, second: (n,) numbers of the same rows in the same order."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"pairs need as many numbers on both sides, not {a.size} and {b.size}")
    d = b - a
    n = len(d)
    if n == 0:
        return Difference(0, math.nan, math.nan, math.nan, 1.0, 0, 0, math.nan, None)
    mean, spread = float(d.mean()), float(d.std(ddof=1)) if n > 1 else math.nan
    low, high = paired_bootstrap(d, seed=seed)
    return Difference(
        n=n,
        difference=mean,
        low=low,
        high=high,
        p=sign_flip_test(d),
        wins=int((d > 0).sum()),
        losses=int((d < 0).sum()),
        detectable=_both_quantiles() * spread / math.sqrt(n),
        rows_to_settle=rows_to_settle(mean, spread),
    )


def paired_bootstrap(differences: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean difference, rows drawn with their pairs (Efron 1979). (n,) -> low, high."""
    d = np.asarray(differences, dtype=float)
    if len(d) == 0 or (d == d[0]).all():
        return (math.nan, math.nan) if len(d) == 0 else (float(d[0]), float(d[0]))
    # drawing n rows with replacement is drawing how often each occurs; of equal differences it is one draw
    _, kind, counts = np.unique(d, return_inverse=True, return_counts=True)
    if len(counts) > KINDS:
        kind = np.floor((d - d.min()) / (d.max() - d.min()) * (KINDS - 1)).astype(int)
        counts = np.bincount(kind, minlength=KINDS)
    values = np.bincount(kind, weights=d, minlength=len(counts)) / np.maximum(counts, 1)
    drawn = np.random.default_rng(seed).multinomial(len(d), counts / len(d), size=RESAMPLES)
    low, high = np.quantile(drawn @ values / len(d), (0.025, 0.975))
    return float(low), float(high)


def sign_flip_test(differences: ArrayLike) -> float:
    """Exact two-sided p value that the mean difference is zero: every one of the 2^n ways to swap pairs is counted.

    Fisher's randomisation test for pairs. For 0/1 numbers it is McNemar's exact test. The distribution of the sum is
    built by convolution, so it takes n additions of arrays and no random numbers. Differences that are not whole are
    rounded to a grid first; the test stays exact, since swapping a pair negates the rounded difference as well. Of
    more than MANY differences, the normal distribution with the variance of all swaps is used.
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    if len(d) == 0:
        return 1.0
    if len(d) > MANY:
        from scipy import stats

        return float(2 * stats.norm.sf(abs(d.sum()) / math.sqrt((d**2).sum())))
    total = np.abs(d).sum()
    whole = (d == np.rint(d)).all() and total <= STEPS
    units = np.rint(d if whole else d * (STEPS / total)).astype(int)
    chance = np.ones(1)  # chance[s]: that the positive differences sum to s
    for size in np.sort(np.abs(units[units != 0])):
        longer = np.zeros(len(chance) + size)
        longer[: len(chance)] += chance / 2
        longer[size:] += chance / 2
        chance = longer
    sums = 2 * np.arange(len(chance)) - (len(chance) - 1)
    return min(1.0, float(chance[np.abs(sums) >= abs(int(units.sum()))].sum()))


def rows_to_settle(difference: float, spread: float) -> int | None:
    """Rows that show this mean difference at 5 % with 80 % power; spread: standard deviation of the differences."""
    if not (difference and spread):  # nothing to show, or shown by a single row
        return None
    needed = (_both_quantiles() * spread / difference) ** 2
    return math.ceil(needed) if math.isfinite(needed) else None


def _both_quantiles() -> float:
    from scipy import stats

    return float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))


def holm(tests: Mapping[Hashable, Difference]) -> dict[Hashable, Difference]:
    """The same differences with p values for having looked at all of them (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, test) in enumerate(sorted(tests.items(), key=lambda item: item[1].p)):
        largest = max(largest, min(1.0, (len(tests) - rank) * test.p))
        adjusted[name] = replace(test, p=largest)
    return {name: adjusted[name] for name in tests}


@dataclass(frozen=True)
class Agreement:
    """How far two raters of the same n rows agree; nan where one of them gave every row the same."""

    n: int
    pearson: float
    spearman: float
    kendall: float
    kappa: float  # Cohen's with quadratic weights


def agreement(first: ArrayLike, second: ArrayLike, *, levels: int | None = None) -> Agreement:
    """Pearson's, Spearman's and Kendall's (tau-b) correlation, and kappa. first, second: (n,) numbers.

    levels: both are shares of their scales, from 0 to 1, and kappa is that of the nearest of so many even steps; so a
    judge's 0 to 100 and a person's wrong, partly, right can be held against each other with levels=3.
    """
    from scipy import stats

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    steps = (a, b) if levels is None else (np.rint(a * (levels - 1)), np.rint(b * (levels - 1)))
    kappa = cohen_kappa(*steps, quadratic=True)
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return Agreement(len(a), math.nan, math.nan, math.nan, kappa)
    return Agreement(
        n=len(a),
        pearson=float(stats.pearsonr(a, b).statistic),
        spearman=float(stats.spearmanr(a, b).statistic),
        kendall=float(stats.kendalltau(a, b).statistic),
        kappa=kappa,
    )


def cohen_kappa(first: ArrayLike, second: ArrayLike, *, quadratic: bool = False) -> float:
    """Agreement beyond chance (Cohen 1960); 1 is perfect, 0 is chance, nan where chance alone would agree on all.

    quadratic: a disagreement weighs the square of its distance (Cohen 1968), for numbers on a scale.
    """
    a, b = np.asarray(first), np.asarray(second)
    values = np.unique(np.concatenate([a, b]))
    if len(values) < 2:
        return math.nan
    if quadratic:
        weights: NDArray[np.float64] = np.subtract.outer(values, values).astype(float) ** 2
    else:
        weights = np.not_equal.outer(values, values).astype(float)
    i, j = np.searchsorted(values, a), np.searchsorted(values, b)
    share_a, share_b = np.bincount(i, minlength=len(values)) / len(a), np.bincount(j, minlength=len(values)) / len(b)
    return float(1 - weights[i, j].mean() / (share_a @ weights @ share_b))


def length_adjusted_win_rate(preferences: ArrayLike, lengths: ArrayLike, other_lengths: ArrayLike) -> float:
    """The share of wins if both sides wrote equally long answers, from 0 to 1.

    preferences     (n,)  1 where our answer won, 0 where it lost, 0.5 for a tie
    lengths         (n,)  of our answers; other_lengths (n,) of theirs

    A logistic regression of the preference on tanh of the standardised length difference, read off at no difference:
    the length term of AlpacaEval 2 (Dubois et al. 2024) without its terms for model and instruction. A small ridge
    keeps the slope finite where length decides every row.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    y = np.asarray(preferences, dtype=float)
    gap = np.asarray(lengths, dtype=float) - np.asarray(other_lengths, dtype=float)
    if len(y) == 0:
        return math.nan
    x = np.tanh(gap / (gap.std() or 1.0))

    def loss(weights: NDArray[np.float64]) -> float:
        z = weights[0] + weights[1] * x
        return float(-(y * log_expit(z) + (1 - y) * log_expit(-z)).sum() + 0.05 * (weights**2).sum())

    return float(expit(minimize(loss, np.zeros(2)).x[0]))
