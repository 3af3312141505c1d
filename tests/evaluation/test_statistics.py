"""Intervals, tests and agreement: hand counts, scipy's own answers, and how often they are wrong on simulated runs."""

import math

import numpy as np
import pytest
from scipy import stats

from ift.evaluation.statistics import (
    agreement,
    by_category,
    cohen_kappa,
    compare_pairs,
    holm,
    length_adjusted_win_rate,
    mean_interval,
    normal_interval,
    paired_bootstrap,
    rows_to_settle,
    sign_flip_test,
)


def test_a_normal_interval_reaches_196_hundredths_of_the_standard_error_to_each_side():
    assert normal_interval(50.0, 2.0) == pytest.approx((46.08, 53.92))


def test_the_interval_of_scores_is_students_and_that_of_shares_wilsons():
    scores = [90, 70, 80, 60, 100]
    estimate = mean_interval(scores)
    low, high = stats.t.interval(0.95, 4, loc=80, scale=stats.sem(scores))
    assert (estimate.n, estimate.mean) == (5, 80)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    shares = mean_interval([1, 1, 1, 0])
    assert (shares.low, shares.high) == pytest.approx((0.30064, 0.95441), abs=1e-4)  # Wilson's for 3 of 4


def test_intervals_hold_the_truth_in_about_95_of_100():
    rng = np.random.default_rng(0)
    held = sum(e.low <= 5 <= e.high for e in (mean_interval(rng.normal(5, 2, 30)) for _ in range(1000)))
    assert 930 <= held <= 970
    differences = rng.integers(-4, 7, (300, 60))  # the mean of -4 to 6 is 1
    held = sum(low <= 1 <= high for low, high in (paired_bootstrap(d) for d in differences))
    assert 270 <= held <= 295


def test_too_few_rows_say_so():
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([7]).high == math.inf
    nothing = compare_pairs([], [])
    assert (nothing.p, nothing.verdict()) == (1.0, "not settled")
    assert compare_pairs([3], [9]).verdict() == "not settled"
    with pytest.raises(ValueError, match="not 1 and 2"):
        compare_pairs([1], [1, 2])


def test_categories_are_estimated_alone_and_the_largest_comes_first():
    found = by_category([1, 0, 1, 1], ["maths", "prose", "prose", "prose"])
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
    low, high = paired_bootstrap(rng.normal(0.02, 1, 200_000))
    assert (high + low) / 2 == pytest.approx(0.02, abs=0.006)
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(200_000), rel=0.03)


def test_for_shares_it_is_mcnemars_exact_test():
    first = [1] * 20 + [0] * 14 + [1] * 4 + [0] * 12
    second = [1] * 20 + [1] * 14 + [0] * 4 + [0] * 12
    test = compare_pairs(first, second)
    assert (test.wins, test.losses, test.n) == (14, 4, 50)
    assert test.p == pytest.approx(stats.binomtest(4, 18).pvalue)
    assert test.verdict() == "better"
    assert test.verdict(higher_is_better=False) == "worse"
    assert compare_pairs(second, first).verdict() == "worse"


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
    pilot = [compare_pairs(*judge_scores(rng, 2000, 8)) for _ in range(3)]
    size = sum(t.difference for t in pilot) / 3
    n = round(sum(t.rows_to_settle for t in pilot) / 3)
    assert 40 < n < 120
    found = sum(sign_flip_test(np.subtract(*judge_scores(rng, n, 8))) <= 0.05 for _ in range(1000))
    assert 750 <= found <= 850  # promised: 800
    assert compare_pairs(*judge_scores(rng, n, 8)).detectable == pytest.approx(size, rel=0.35)


def test_half_the_difference_takes_four_times_the_rows():
    assert rows_to_settle(1.0, 1.0) == 8  # (1.96 + 0.84)^2 = 7.85
    assert rows_to_settle(0.5, 1.0) == 32
    assert rows_to_settle(0.0, 1.0) is None


def test_holm_multiplies_the_smallest_most_and_keeps_their_order():
    p = {"a": 0.01, "b": 0.04, "c": 0.03}
    tests = {name: compare_pairs([0, 0], [1, 1]).__class__(9, 1.0, 0, 2, p[name], 5, 1, 1.0, 9) for name in p}
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
    assert length_adjusted_win_rate([1, 1, 0, 0.5], [5, 5, 5, 5], [5, 5, 5, 5]) == pytest.approx(0.616, abs=0.01)
