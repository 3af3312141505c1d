"""Intervals, tests and agreement: hand counts, scipy's own answers, and how often they are wrong on simulated runs."""

import math
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy import stats

from ift.evaluation.statistics import (
    POSITIVE,
    SHARE,
    UNBOUNDED,
    UNIT,
    Difference,
    Estimate,
    Scale,
    agreement,
    bounded_interval,
    by_category,
    cohen_kappa,
    compare_pairs,
    detectable,
    holm,
    length_adjusted_win_rate,
    mean_interval,
    mean_of_means,
    normal_interval,
    rows_to_settle,
    sign_flip_test,
)

NS = (1, 2, 3, 5, 10, 20, 100)


def test_a_normal_interval_reaches_196_hundredths_of_the_standard_error_to_each_side_within_the_scale():
    assert normal_interval(50.0, 2.0, UNBOUNDED) == pytest.approx((46.08, 53.92))
    assert normal_interval(99.0, 2.0, Scale(0, 100)) == pytest.approx((95.08, 100))


# -- means ---------------------------------------------------------------------------------------------------------


def test_what_a_number_is_decides_its_interval():
    shares = mean_interval([1, 1, 1, 0], SHARE)
    assert (shares.low, shares.high) == pytest.approx((0.30064, 0.95441), abs=1e-4)  # Wilson's for 3 of 4
    scores = [90, 70, 80, 60, 100]
    low, high = stats.t.interval(0.95, 4, loc=80, scale=stats.sem(scores))
    assert mean_interval(scores, UNBOUNDED) == Estimate(5, 80, pytest.approx(low), pytest.approx(high))
    assert mean_interval([0.0, 0.1, 3.0], POSITIVE).low == 0  # Student's t would reach below it
    exact = stats.binomtest(3, 4).proportion_ci(method="exact")
    bounded = mean_interval([100, 0, 100, 100], Scale(0, 100))
    assert (bounded.low, bounded.high) == pytest.approx((100 * exact.low, 100 * exact.high), abs=1e-4)


def test_equal_values_never_claim_certainty_nor_leave_their_scale():
    ones = mean_interval([1] * 20, Scale(1, 10))
    assert (ones.mean, ones.low) == (1, 1)
    assert ones.high == pytest.approx(1 + 9 * (1 - 0.025 ** (1 / 20)))  # 2.516: Clopper and Pearson's for 0 of 20
    zeros = mean_interval([0] * 6, Scale(0, 100))
    assert (zeros.low, zeros.high) == pytest.approx((0, 100 * (1 - 0.025 ** (1 / 6))))  # 45.9
    middle = mean_interval([5] * 20, Scale(1, 10))
    assert 4 < middle.low < 5 < middle.high < 6
    assert not mean_interval([12.0] * 50, POSITIVE).has_interval
    assert not mean_interval([0.3 - 0.2, 0.2 - 0.1], UNBOUNDED).has_interval  # equal but for rounding
    rouge = mean_interval([1.0, 1.0, 0.4], UNIT)
    assert 0 < rouge.low < rouge.high <= 1


def test_too_few_rows_say_so():
    assert math.isnan(mean_interval([], SHARE).mean)
    assert not mean_interval([7], UNBOUNDED).has_interval
    one = mean_interval([70], Scale(0, 100))  # Markov's inequality: nothing else is known
    assert (one.low, one.high) == pytest.approx((0.025 * 70, 100 - 0.025 * 30), abs=1e-4)
    nothing = compare_pairs([], [], UNIT)
    assert (nothing.p, nothing.verdict(), nothing.has_interval) == (1.0, "not settled", False)
    assert compare_pairs([3], [9], UNBOUNDED).verdict() == "not settled"
    with pytest.raises(ValueError, match="not 1 and 2"):
        compare_pairs([1], [1, 2], UNIT)


def test_numbers_that_are_not_on_the_scale_are_an_error():
    with pytest.raises(ValueError, match="numbers from 0 to 7 on a scale from 1 to 5"):
        mean_interval([0, 7], Scale(1, 5))
    with pytest.raises(ValueError, match="nothing between"):
        mean_interval([0, 0.5, 1], SHARE)
    with pytest.raises(ValueError, match="on a scale"):
        compare_pairs([0.5], [1.5], UNIT)
    with pytest.raises(ValueError, match="on a scale"):
        mean_interval([math.nan, 1], UNIT)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 1000])
def test_the_bounded_interval_of_two_values_is_clopper_and_pearsons(n):
    for k in {0, 1, n // 10, n // 2, n - 1, n}:
        exact = stats.binomtest(k, n).proportion_ci(method="exact")
        assert bounded_interval([1] * k + [0] * (n - k), UNIT) == pytest.approx((exact.low, exact.high), abs=1e-5)


@pytest.mark.parametrize("n", [2, 5, 20, 200])
def test_the_bounded_interval_is_what_random_weights_give(n):
    """Gaffke's definition by a plain simulation: Dirichlet weights over the values and the end of the scale."""
    rng = np.random.default_rng(n)
    x = 1 + 4 * rng.beta(2, 5, n)
    weights = rng.dirichlet(np.ones(n + 1), 40_000)
    low, high = np.quantile(weights @ [*x, 1], 0.025), np.quantile(weights @ [*x, 5], 0.975)
    assert bounded_interval(x, Scale(1, 5)) == pytest.approx((low, high), rel=0.01)


def test_of_many_values_the_bounded_interval_is_the_normal_one():
    x = np.random.default_rng(0).beta(2, 5, 20_000)
    half = 1.96 * x.std() / math.sqrt(len(x))
    low, high = bounded_interval(x, UNIT)
    assert (high - low) / 2 == pytest.approx(half, rel=0.02)
    assert (high + low) / 2 == pytest.approx(x.mean(), abs=0.1 * half)


def test_wilsons_interval_covers_95_of_100_on_average_over_all_shares():
    shares = np.linspace(0.0005, 0.9995, 1000)
    for n in NS:
        ends = [mean_interval([1] * k + [0] * (n - k), SHARE) for k in range(n + 1)]
        inside = np.array([(e.low <= shares) & (shares <= e.high) for e in ends])
        chance = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
        covered = (inside * chance).sum(axis=0)
        assert 0.94 <= covered.mean() <= 0.97, n
        assert covered.min() > 0.79, n  # at its worst, where all rows are nearly always right


SCALES = {  # values of a judge from 0 to 1, and how often it gives them
    "halves": ([0, 0.5, 1], [0.2, 0.3, 0.5]),
    "marks from 1 to 5": ([0, 0.25, 0.5, 0.75, 1], [0.05, 0.1, 0.2, 0.4, 0.25]),
    "two ends": ([0, 1], [0.9, 0.1]),
    "nearly always the top": ([0, 0.8, 1], [0.03, 0.07, 0.9]),
    "one in fifty is worth nothing": ([0, 0.9], [0.02, 0.98]),
    "alike but for one in thirty": ([0, 0.88, 0.9, 0.92], [0.03, 0.3, 0.37, 0.3]),
    "always the same": ([0.4], [1.0]),
}


@cache
def interval_of(counts, values):
    return bounded_interval(np.repeat(values, counts), UNIT)


def covered(values, chances, n, rng):
    """The share of samples whose interval holds the mean: all possible samples of few rows, some drawn of many."""
    values, truth = tuple(values), np.dot(values, chances)
    if n <= 5:
        every = [
            tuple(pick.count(i) for i in range(len(values)))
            for pick in combinations_with_replacement(range(len(values)), n)
        ]
        weights = stats.multinomial.pmf(every, n, chances)
    else:
        every = [tuple(map(int, counts)) for counts in rng.multinomial(n, chances, size=150)]
        weights = np.full(len(every), 1 / len(every))
    ends = np.array([interval_of(counts, values) for counts in every])
    return float(weights @ ((ends[:, 0] <= truth + 1e-9) & (truth - 1e-9 <= ends[:, 1])))


@pytest.mark.parametrize("name", SCALES)
def test_the_interval_of_scores_holds_the_truth_in_95_of_100_whatever_the_scores_and_however_few(name):
    rng = np.random.default_rng(1)
    for n in NS:
        assert covered(*SCALES[name], n, rng) >= (0.95 if n <= 5 else 0.93), n  # 150 samples: two errors of 1.8 %


@pytest.mark.parametrize(("a", "b"), [(2, 5), (0.3, 3)])
def test_the_interval_of_skewed_scores_holds_the_truth_too(a, b):
    rng = np.random.default_rng(2)
    for n in (2, 5, 10, 20, 100):
        ends = np.array([bounded_interval(rng.beta(a, b, n), UNIT) for _ in range(60)])
        held = (ends[:, 0] <= a / (a + b)) & (a / (a + b) <= ends[:, 1])
        assert held.mean() > 0.91, n  # two errors of 2.8 % below 95 %; Student's t: 82 % for n = 5 of (0.3, 3)


def test_a_mean_of_means_is_as_lopsided_as_its_parts():
    parts = [Estimate(10, 0.9, 0.6, 1.0), Estimate(20, 0.5, 0.1, 0.9)]
    found = mean_of_means(parts)
    assert (found.n, found.mean) == (30, pytest.approx(0.7))
    assert found.low == pytest.approx(0.7 - math.hypot(0.3, 0.4) / 2)
    assert found.high == pytest.approx(0.7 + math.hypot(0.1, 0.4) / 2)
    assert not mean_of_means([*parts, Estimate(1, 0.5, math.nan, math.nan)]).has_interval


def test_categories_are_estimated_alone_and_the_largest_comes_first():
    found = by_category([1, 0, 1, 1], ["maths", "prose", "prose", "prose"], SHARE)
    assert [(name, e.n, round(e.mean, 3)) for name, e in found.items()] == [("prose", 3, 0.667), ("maths", 1, 1.0)]


def test_all_ways_to_swap_pairs_are_counted():
    assert sign_flip_test([1, 2, 3]) == 2 / 8  # +++ and --- alone reach 6
    assert sign_flip_test([1, 2, -3]) == 1.0
    assert sign_flip_test([0, 0, 5]) == 1.0  # one pair: either way is as far from zero
    assert sign_flip_test([4] * 10) == 2 / 2**10


@pytest.mark.parametrize("kind", ["whole", "fractions"])
def test_the_exact_test_is_scipys_over_all_permutations(kind):
    rng = np.random.default_rng(3)
    for _ in range(5):
        d = rng.integers(-30, 40, 12).astype(float) if kind == "whole" else rng.normal(0.2, 0.5, 12)
        exact = stats.permutation_test(
            (d,), np.sum, permutation_type="samples", n_resamples=2**12, alternative="two-sided"
        )
        assert sign_flip_test(d) == pytest.approx(exact.pvalue, abs=0.002 if kind == "fractions" else 1e-9)


def test_many_rows_take_no_more_memory_and_give_the_same():
    rng = np.random.default_rng(8)
    for shift in (0.01, 0.03, 0.06):
        d = rng.normal(shift, 1, 2000)  # as many as are counted exactly
        assert sign_flip_test(d) == pytest.approx(sign_flip_test([*d, 1e-12]), rel=0.03)


def test_for_shares_it_is_mcnemars_exact_test():
    first = [1] * 20 + [0] * 14 + [1] * 4 + [0] * 12
    second = [1] * 20 + [1] * 14 + [0] * 4 + [0] * 12
    test = compare_pairs(first, second, SHARE)
    assert (test.wins, test.losses, test.n) == (14, 4, 50)
    assert test.p == pytest.approx(stats.binomtest(4, 18).pvalue)
    assert test.verdict() == "better"
    assert test.verdict(higher_is_better=False) == "worse"
    assert compare_pairs(second, first, SHARE).verdict() == "worse"


def judge_scores(rng, n, shift=0.0):
    """Scores as a judge gives them: 0 to 100, piled up at both ends, the two runs alike on easy and on hard rows."""
    difficulty = rng.normal(60, 25, n)
    return [np.clip(np.rint(difficulty + s + rng.normal(0, 20, n)), 0, 100) for s in (0.0, shift)]


def test_a_run_against_itself_is_called_different_in_about_5_of_100():
    rng = np.random.default_rng(11)
    called = sum(sign_flip_test(np.subtract(*judge_scores(rng, 100))) <= 0.05 for _ in range(1000))
    assert 35 <= called <= 65  # binomial with p = 0.05: mean 50, standard deviation 6.9


def test_a_difference_is_found_as_often_as_promised():
    rng = np.random.default_rng(5)
    pilot = [compare_pairs(*judge_scores(rng, 2000, 8), Scale(0, 100)) for _ in range(3)]
    size = sum(t.difference for t in pilot) / 3
    n = round(sum(t.rows_to_settle for t in pilot) / 3)
    assert 40 < n < 120
    found = sum(sign_flip_test(np.subtract(*judge_scores(rng, n, 8))) <= 0.05 for _ in range(1000))
    assert 750 <= found <= 850  # promised: 800
    assert compare_pairs(*judge_scores(rng, n, 8), Scale(0, 100)).detectable == pytest.approx(size, rel=0.35)


def test_half_the_difference_takes_four_times_the_rows():
    assert rows_to_settle(1.0, 1.0) == 10  # (1.96 + 0.84)^2 = 7.85, and 1.92 more since the spread is estimated
    assert rows_to_settle(0.5, 1.0) == 34
    assert rows_to_settle(9.0, 1.0) == 6  # the exact test of five rows cannot settle anything: 2 / 2^5 > 0.05
    assert rows_to_settle(0.0, 1.0) is None
    assert detectable(1.0, 5) is None
    assert detectable(1.0, 34) == pytest.approx(0.5, abs=0.01)


# -- differences ---------------------------------------------------------------------------------------------------

PAIRS = {  # a row's difference between two runs, on a scale from 0 to 10, and how often it occurs
    "shares": ([-1, 0, 1], [0.2, 0.5, 0.3]),
    "shares that mostly tie": ([-1, 0, 1], [0.05, 0.85, 0.1]),
    "shares that nearly always tie": ([0, 1], [0.98, 0.02]),
    "marks": (np.arange(-4, 7), np.ones(11) / 11),
    "no difference": ([-2, -1, 1, 2], [0.25] * 4),
    "always tied": ([0], [1.0]),
}


@cache
def difference(d):
    """Of two runs whose rows differ by these numbers, in whatever order."""
    return compare_pairs(np.maximum(np.negative(d), 0), np.maximum(d, 0), Scale(0, 10))


@pytest.mark.parametrize("name", PAIRS)
def test_the_interval_of_a_difference_holds_the_truth_in_95_of_100_or_there_is_none(name):
    values, chances = PAIRS[name]
    truth, rng = np.dot(values, chances), np.random.default_rng(3)
    for n in NS:
        tests = [difference(tuple(sorted(d.tolist()))) for d in rng.choice(values, (200, n), p=chances)]
        known = [t for t in tests if t.has_interval]
        held = np.mean([t.low - 1e-9 <= truth <= t.high + 1e-9 for t in known])
        assert held >= 0.95 - 2 * 0.0154, n  # two standard errors of 200 draws
        assert len(known) > 190, n
        assert all(-10 <= t.low < t.high <= 10 for t in known)


def test_interval_and_verdict_never_contradict_each_other():
    rng = np.random.default_rng(4)
    settled = 0
    for n in (2, 4, 6, 8, 15, 40):
        for _ in range(60):
            d = rng.normal(0.5, 1, n) * rng.choice([1, 8], n, p=[0.9, 0.1])
            found = holm(
                {"this": compare_pairs(np.zeros(n), d, UNBOUNDED), "other": Difference(9, 1.0, 0, 2, 0.01, 5, 1, 1, 9)}
            )
            test = found["this"]
            assert not test.has_interval or (test.low <= 0 <= test.high) == (not test.settled)
            settled += test.settled
    assert 40 < settled < 320
    outlier = compare_pairs([0] * 6, [1, 1, 1, 1, 1, 20], UNBOUNDED)  # Student's t: -4.0 to 12.3
    assert (outlier.verdict(), outlier.has_interval) == ("better", False)
    three = compare_pairs([0] * 3, [1.0, 1.1, 1.2], UNBOUNDED)  # Student's t: 0.85 to 1.35
    assert (three.verdict(), three.low) == ("not settled", 0)


def test_equal_differences_have_the_interval_that_their_scale_allows():
    tied = compare_pairs([1] * 100, [1] * 100, SHARE)
    assert tied.all_tied
    assert (tied.low, tied.high) == pytest.approx((-0.0362, 0.0362), abs=1e-4)  # 1 - 0.025^(1/100), to each side
    assert not compare_pairs([3] * 9, [3] * 9, UNBOUNDED).has_interval
    won = compare_pairs([0] * 8, [1] * 8, SHARE)
    assert (won.verdict(), won.high) == ("better", 1)
    assert won.low == pytest.approx(2 * 0.025 ** (1 / 8) - 1, abs=1e-4)
    step = compare_pairs([0.5] * 8, [0.6] * 8, UNIT)  # the direction is clear; one row might still cost five times that
    assert (step.verdict(), step.has_interval) == ("better", False)


def test_holm_multiplies_the_smallest_most_and_keeps_their_order():
    p = {"a": 0.01, "b": 0.04, "c": 0.03}
    tests = {name: Difference(9, 1.0, 0, 2, p[name], 5, 1, 1.0, 9) for name in p}
    adjusted = holm(tests)
    assert {name: test.p for name, test in adjusted.items()} == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert list(adjusted) == ["a", "b", "c"]
    assert [test.verdict() for test in adjusted.values()] == ["better", "not settled", "not settled"]


def test_kappa_is_that_of_the_textbook_and_of_torchmetrics():
    a, b = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)  # observed 0.7, by chance 0.5
    import torch
    from torchmetrics.functional.classification import multiclass_cohen_kappa

    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, 80), rng.integers(0, 5, 80)
    for weights, quadratic in ((None, False), ("quadratic", True)):
        theirs = multiclass_cohen_kappa(torch.tensor(x), torch.tensor(y), num_classes=5, weights=weights)
        assert cohen_kappa(x, y, quadratic=quadratic) == pytest.approx(float(theirs), abs=1e-6)


def test_raters_of_no_rows_or_of_two_have_no_correlation():
    for rows in (0, 1, 2):
        found = agreement(range(rows), range(rows))
        assert found.n == rows
        assert math.isnan(found.pearson)
        assert math.isnan(found.spearman)
        assert math.isnan(found.kendall)
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa([1], [1]))
    assert cohen_kappa([0, 1], [0, 1]) == 1
    assert cohen_kappa([0, 1], [1, 0]) == -1
    assert cohen_kappa([2, 2, 2], [1, 2, 3], quadratic=True) == 0  # one who always says 2 agrees no more than by chance
    assert holm({}) == {}


def test_raters_that_say_the_same_of_everything_have_no_correlation():
    assert math.isnan(agreement([3, 3, 3], [1, 2, 3]).spearman)
    assert math.isnan(cohen_kappa([3, 3], [3, 3]))
    same = agreement([1, 2, 3], [1, 2, 3])
    assert (same.pearson, same.spearman, same.kendall, same.kappa) == pytest.approx((1, 1, 1, 1))
    judge, people = [0, 0.2, 0.3, 0.6, 0.9, 1.0], [0, 0, 0.5, 0.5, 1, 0.5]
    assert agreement(judge, people, levels=3).kappa == cohen_kappa(
        [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 1], quadratic=True
    )


def test_wins_that_come_from_length_alone_are_taken_back():
    rng = np.random.default_rng(2)
    longer = rng.normal(40, 60, 4000)
    won = rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))
    assert won.mean() > 0.6
    assert length_adjusted_win_rate(won, 100 + longer, np.full(4000, 100)) == pytest.approx(0.5, abs=0.04)
    good = rng.random(4000) < 0.7  # better, whatever the length
    assert length_adjusted_win_rate(good, 100 + longer, np.full(4000, 100)) == pytest.approx(0.7, abs=0.03)
    assert length_adjusted_win_rate([1, 1, 0, 0.5], [5, 5, 5, 5], [5, 5, 5, 5]) == 0.625  # nothing to adjust
    assert math.isnan(length_adjusted_win_rate([], [], []))
    for won, ours in (([1], [9]), ([1, 1], [9, 9]), ([0, 1], [9, 1]), ([1] * 50, range(50))):
        assert 0 < length_adjusted_win_rate(won, ours, [5] * len(won)) < 1
