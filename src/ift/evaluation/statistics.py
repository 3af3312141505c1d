"""What may be concluded from numbers on the same rows: intervals, tests of a difference, agreement of two raters.

No word is used for a difference that its test does not support: `Difference.verdict` says better, worse or not settled.
An interval follows from what the numbers can be, which the caller states as a `Scale`; where nothing can be concluded,
both ends are nan and nothing is printed.
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
FEWEST = 6  # rows; the exact test of fewer never gives a p value below 2 / 2^5
STEPS = 100_000  # the sum of all differences in units of the exact test's grid, at most
MANY = 2_000  # rows; of more, the normal distribution gives the same p value within a fiftieth of it
KINDS = 128  # different values that a bounded mean's interval tells apart; of more, neighbours are taken together
NODES = np.arange(-18, 20, 0.1)  # where the integral of `_chance_below` is summed, as logarithms

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """What a number can be: anything from low to high; with yes_or_no, one of the two ends."""

    low: float
    high: float
    yes_or_no: bool = False

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


SHARE = Scale(0, 1, yes_or_no=True)  # right or wrong: the mean is a share of rows
UNIT = Scale(0, 1)  # ROUGE, F1, a preference
POSITIVE = Scale(0, math.inf)  # counts, lengths
UNBOUNDED = Scale(-math.inf, math.inf)


@dataclass(frozen=True)
class Estimate:
    """A mean over n rows and its 95 % interval; low and high are nan where there is none."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


def mean_interval(values: ArrayLike, scale: Scale) -> Estimate:
    """Mean of (n,) values with its 95 % interval. Raises ValueError for values that are not on the scale.

    shares      Wilson's (1927), which covers 95 % on average over all shares
    bounded     Gaffke's (2005), which covers at least 95 % of whatever values on the scale (see `bounded_interval`)
    unbounded   Student's t within the scale; none of a single value, nor of equal ones, which say nothing of the spread
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan)
    _check_scale(x, scale)
    if scale.yes_or_no:
        interval = stats.binomtest(int(x.sum()), n).proportion_ci(method="wilson")
        return Estimate(n, float(x.mean()), float(interval.low), float(interval.high))
    low, high = bounded_interval(x, scale) if scale.bounded else student_interval(x, scale)
    return Estimate(n, float(x.mean()), low, high)


def _check_scale(x: NDArray[np.float64], scale: Scale) -> None:
    slack = 1e-9 * (scale.high - scale.low) if scale.bounded else 0.0
    if not (x.min() >= scale.low - slack and x.max() <= scale.high + slack):
        raise ValueError(f"numbers from {x.min():g} to {x.max():g} on a scale from {scale.low:g} to {scale.high:g}")
    if scale.yes_or_no and not np.isin(x, (scale.low, scale.high)).all():
        raise ValueError(f"shares need {scale.low:g} or {scale.high:g} of each row, nothing between")


def student_interval(values: ArrayLike, scale: Scale) -> Interval:
    """95 % interval of a mean by Student's t, cut off at the ends of the scale. (n,) -> low, high."""
    from scipy import stats

    x = np.asarray(values, dtype=float)
    if len(x) < 2 or _equal(x):
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return max(float(x.mean()) - half, scale.low), min(float(x.mean()) + half, scale.high)


def _equal(x: NDArray[np.float64]) -> bool:
    """Up to rounding: 0.3 - 0.2 and 0.2 - 0.1 are."""
    return bool(np.ptp(x) <= 1e-9 * np.abs(x).max())


def bounded_interval(values: ArrayLike, scale: Scale) -> Interval:
    """95 % interval of the mean of numbers between two known ends, by Gaffke (2005). (n,) -> low, high.

    What a sample does not show, such as the one answer in fifty that is worth nothing, can only lie within the scale.
    So the low end is that of a mean over the values and one more at the scale's lower end, all with random weights
    (those of the Bayesian bootstrap: Dirichlet, all ones); the high end likewise. For 0 and 1 it is the interval of
    Clopper and Pearson (1934); with many values it is the normal one. No distribution is known that it covers less
    than 95 % of (Learned-Miller and Thomas 2020), few values or equal ones included.
    """
    x = np.clip(np.asarray(values, dtype=float), scale.low, scale.high)
    kinds, counts = _kinds(x)
    ends = [
        _dirichlet_quantile(np.append(kinds, end), np.append(counts, 1.0), share)
        for end, share in ((scale.low, ALPHA / 2), (scale.high, 1 - ALPHA / 2))
    ]
    return ends[0], ends[1]


def _kinds(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Different values and how often each occurs; of more than KINDS, the means of neighbours."""
    kinds, counts = np.unique(x, return_counts=True)
    if len(kinds) <= KINDS:
        return kinds, counts.astype(float)
    place = np.floor((x - x.min()) / np.ptp(x) * (KINDS - 1)).astype(int)
    counts = np.bincount(place, minlength=KINDS)
    sums = np.bincount(place, weights=x, minlength=KINDS)
    return sums[counts > 0] / counts[counts > 0], counts[counts > 0].astype(float)


def _dirichlet_quantile(values: NDArray[np.float64], counts: NDArray[np.float64], share: float) -> float:
    """What a mean of the values stays below with this probability, its weights being Dirichlet(counts)."""
    from scipy import optimize

    total = counts.sum()
    mean = float(counts @ values / total)
    spread = math.sqrt(counts @ (values - mean) ** 2 / total / (total + 1))
    if spread <= 1e-12 * np.abs(values).max():
        return mean
    below, above = math.sqrt((1 - share) / share), math.sqrt(share / (1 - share))  # Cantelli's inequality
    bracket = max(mean - below * spread, values.min()), min(mean + above * spread, values.max())
    return float(
        optimize.brentq(lambda t: _chance_below(values - t, counts) - share, *bracket, xtol=1e-7 * spread, rtol=1e-12)
    )


def _chance_below(values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """The probability that the sum of values with independent Gamma(counts) weights is below zero.

    Gil-Pelaez's (1951) inversion of the characteristic function, as Imhof (1961) writes it; the integral's variable is
    replaced by its logarithm, so that the plain sum is precise.
    """
    angles = np.exp(NODES)[:, None] * (values / math.sqrt(counts @ values**2))
    sizes = np.exp(-np.log1p(angles**2) @ counts / 2)
    return float(0.5 - (NODES[1] - NODES[0]) / math.pi * (sizes * np.sin(np.arctan(angles) @ counts)).sum())


def normal_interval(value: float, standard_error: float, scale: Scale) -> Interval:
    """95 % interval of a number with normally distributed errors, cut off at the ends of the scale."""
    return max(value - Z95 * standard_error, scale.low), min(value + Z95 * standard_error, scale.high)


def mean_of_means(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent means, each counting once, with its 95 % interval; none where a part has none.

    The distances from each mean to its low ends are added as squares, and those to its high ends (Zou and Donner 2008),
    so the interval is as lopsided as its parts and never leaves their scale.
    """
    k = len(parts)
    mean = sum(part.mean for part in parts) / k
    below = math.sqrt(sum((part.mean - part.low) ** 2 for part in parts)) / k
    above = math.sqrt(sum((part.high - part.mean) ** 2 for part in parts)) / k
    return Estimate(sum(part.n for part in parts), mean, mean - below, mean + above)


def by_category(values: Sequence[float], categories: Sequence[str], scale: Scale) -> dict[str, Estimate]:
    """An estimate for each category, the largest first."""
    groups: dict[str, list[float]] = {}
    for value, category in zip(values, categories, strict=True):
        groups.setdefault(category, []).append(value)
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {category: mean_interval(group, scale) for category, group in largest_first}


@dataclass(frozen=True)
class Difference:
    """Of two runs on the same n rows: the mean of `second - first`, and what may be concluded from it.

    low, high       95 % interval, nan where there is none; it holds zero exactly where the difference is not settled
    p               of the exact test; `holm` puts the adjusted one here
    wins, losses    rows where the second is higher, lower; the other rows are ties
    detectable      the smallest difference that n rows show with 80 % power; None where n rows cannot settle any
    rows_to_settle  how many rows would show a difference of this size with 80 % power; None if there is none
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    detectable: float | None
    rows_to_settle: int | None

    @property
    def settled(self) -> bool:
        return self.p <= ALPHA and self.difference != 0

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def all_tied(self) -> bool:
        """Both runs have the same number on every row."""
        return self.n > 0 and self.wins == self.losses == 0

    def verdict(self, *, higher_is_better: bool = True) -> str:
        if not self.settled:
            return "not settled"
        return "better" if (self.difference > 0) == higher_is_better else "worse"


def compare_pairs(first: ArrayLike, second: ArrayLike, scale: Scale) -> Difference:
    """Compare two runs row by row. first, second: (n,) numbers of the same rows in the same order, on one scale.

    The interval is Student's t for the mean of the differences. Of equal differences, such as all ties, it is what the
    scale alone allows (see `bounded_interval`), and none where the scale is open. Raises ValueError.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"pairs need as many numbers on both sides, not {a.size} and {b.size}")
    d = b - a
    n = len(d)
    if n == 0:
        return Difference(0, math.nan, math.nan, math.nan, 1.0, 0, 0, None, None)
    _check_scale(np.concatenate([a, b]), scale)
    mean, spread = float(d.mean()), float(d.std(ddof=1)) if n > 1 else math.nan
    reach = Scale(scale.low - scale.high, scale.high - scale.low)
    low, high = bounded_interval(d, reach) if _equal(d) and scale.bounded else student_interval(d, reach)
    test = Difference(
        n=n,
        difference=mean,
        low=low,
        high=high,
        p=sign_flip_test(d),
        wins=int((d > 0).sum()),
        losses=int((d < 0).sum()),
        detectable=detectable(spread, n),
        rows_to_settle=rows_to_settle(mean, spread),
    )
    return _in_accord(test)


def _in_accord(test: Difference) -> Difference:
    """The same with an interval that does not contradict the test.

    Zero is not ruled out where the exact test does not rule it out, so the interval is stretched to zero. Where the
    test rules zero out and the interval does not (one outlier among few rows), the direction is known and the size is
    not: there is no interval.
    """
    if test.p > ALPHA:
        return replace(test, low=min(test.low, 0.0), high=max(test.high, 0.0)) if test.has_interval else test
    return replace(test, low=math.nan, high=math.nan) if test.low <= 0 <= test.high else test


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
    """Rows that show this mean difference at 5 % with 80 % power; spread: standard deviation of the differences.

    The formula for normal differences and Guenther's (1981) correction for a spread that is estimated.
    """
    if not (difference and spread):  # nothing to show, or shown by a handful of rows
        return None
    needed = (_both_quantiles() * spread / difference) ** 2 + Z95**2 / 2
    return max(FEWEST, math.ceil(needed)) if math.isfinite(needed) else None


def detectable(spread: float, n: int) -> float | None:
    """The mean difference that n rows show at 5 % with 80 % power; None of fewer rows than ever settle anything."""
    return _both_quantiles() * spread / math.sqrt(n - Z95**2 / 2) if n >= FEWEST else None


def _both_quantiles() -> float:
    from scipy import stats

    return float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))


def holm(tests: Mapping[Hashable, Difference]) -> dict[Hashable, Difference]:
    """The same differences with p values for having looked at all of them (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, test) in enumerate(sorted(tests.items(), key=lambda item: item[1].p)):
        largest = max(largest, min(1.0, (len(tests) - rank) * test.p))
        adjusted[name] = _in_accord(replace(test, p=largest))
    return {name: adjusted[name] for name in tests}


@dataclass(frozen=True)
class Agreement:
    """How far two raters of the same n rows agree; nan where one of them gave every row the same.

    Correlations are nan of fewer than three rows, too: through two points there is always a line.
    """

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
    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
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
    if not gap.any():  # nothing to adjust
        return float(y.mean())
    x = np.tanh(gap / (gap.std() or 1.0))

    def loss(weights: NDArray[np.float64]) -> float:
        z = weights[0] + weights[1] * x
        return float(-(y * log_expit(z) + (1 - y) * log_expit(-z)).sum() + 0.05 * (weights**2).sum())

    return float(expit(minimize(loss, np.zeros(2)).x[0]))
