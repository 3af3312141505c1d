import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ift.data.contract.splits import split_rows
from ift.errors import ConfigError, DataError
from ift.settings import FractionSettings

SEED_CHAPTER = FractionSettings(train=0.85, test=0.10, val=0.05)


def as_lists(parts):
    return {name: part.tolist() for name, part in parts.items()}


def test_1100_rows_by_position_are_935_to_train_then_110_to_test_then_55_to_validate():
    parts = split_rows(np.arange(1100), how="positional", fractions=SEED_CHAPTER, seed=123)
    assert as_lists(parts) == {
        "train": list(range(935)),
        "test": list(range(935, 1045)),
        "val": list(range(1045, 1100)),
    }


def test_52002_rows_split_as_the_seed_chapter_counts_them():
    parts = split_rows(np.arange(52002), how="positional", fractions=SEED_CHAPTER, seed=123)
    assert {name: len(part) for name, part in parts.items()} == {"train": 44201, "test": 5200, "val": 2601}


@pytest.mark.parametrize("rows", [20, 21, 99, 1100])
def test_a_random_split_is_disjoint_and_complete(rows):
    parts = split_rows(np.arange(rows), how="random", fractions=SEED_CHAPTER, seed=1)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(rows))


def test_a_random_split_depends_on_the_seed_and_on_nothing_else():
    def split(seed, how="random"):
        return as_lists(split_rows(np.arange(100), how=how, fractions=SEED_CHAPTER, seed=seed))

    for how in ("random", "clustered"):
        assert split(1, how) == split(1, how) != split(2, how)
    assert split(1)["train"] != list(range(85))
    assert split(1)["test"] == [50, 25, 6, 71, 76, 1, 16, 64, 79, 5]  # NumPy's promise, kept across its versions


def test_a_fraction_of_a_whole_number_of_rows_is_that_number():
    parts = split_rows(np.arange(100), how="positional", fractions=FractionSettings(0.29, 0.57, 0.14), seed=0)
    assert [len(parts[name]) for name in ("train", "test", "val")] == [29, 57, 14]  # though 0.29 * 100 is 28.999...


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        (FractionSettings(0.9, 0.1, 0), (9, 1, 0)),
        (FractionSettings(0.85, 0.15, 0), (8, 2, 0)),
        (FractionSettings(0.9, 0, 0.1), (9, 0, 1)),
        (FractionSettings(1, 0, 0), (10, 0, 0)),
    ],
)
def test_a_fraction_of_0_goes_without_that_split_and_no_row_is_left_over(fractions, sizes):
    parts = split_rows(np.arange(10), how="positional", fractions=fractions, seed=0)
    assert tuple(len(parts[name]) for name in ("train", "test", "val")) == sizes


@pytest.mark.parametrize(
    ("rows", "fractions", "message"),
    [
        (9, SEED_CHAPTER, r"data.fractions.test=0.1: 9 rows give 0 for test \(.*or 0 to go without\)"),
        (0, SEED_CHAPTER, "data.fractions.train=0.85: 0 rows give 0 for train"),
        (10, FractionSettings(0, 0.5, 0.5), "data.fractions.train=0: 10 rows give 0 for train"),
    ],
)
def test_a_wanted_split_without_a_row_is_an_error_and_training_is_always_wanted(rows, fractions, message):
    with pytest.raises(DataError, match=message):
        split_rows(np.arange(rows), how="positional", fractions=fractions, seed=0)


@pytest.mark.parametrize(("val", "total"), [(0.1, "1.05"), (0.0, "0.95")])
def test_fractions_that_do_not_add_up_to_1_are_an_error_with_their_sum(val, total):
    with pytest.raises(ConfigError, match=f"add up to {total} "):
        split_rows(np.arange(100), how="random", fractions=FractionSettings(0.85, 0.10, val), seed=0)


def test_near_twins_never_stand_on_both_sides_and_the_sizes_are_kept():
    clusters = np.repeat(np.arange(50), 2)  # 100 rows, each with a twin
    parts = split_rows(clusters, how="clustered", fractions=FractionSettings(0.8, 0.1, 0.1), seed=3)
    assert [len(parts[name]) for name in ("train", "test", "val")] == [80, 10, 10]
    seen = [set(clusters[part]) for part in parts.values()]
    assert seen[0] | seen[1] | seen[2] == set(range(50))
    assert sum(map(len, seen)) == 50


def test_a_large_cluster_trains_as_long_as_others_can_fill_the_test():
    clusters = np.array([0] * 40 + list(range(1, 61)))  # 40 rows are twins of one another
    for seed in range(20):
        parts = split_rows(clusters, how="clustered", fractions=FractionSettings(0.5, 0.5, 0), seed=seed)
        assert set(clusters[parts["test"]]) <= set(range(1, 61))
        assert len(parts["test"]) == 50


def test_a_large_cluster_is_tested_no_more_often_than_its_share_of_the_rows():
    clusters = np.array([0] * 20 + list(range(1, 981)))  # 2 % of the rows
    tested = 0
    for seed in range(300):
        parts = split_rows(clusters, how="clustered", fractions=FractionSettings(0.7, 0.3, 0), seed=seed)
        tested += (clusters[parts["test"]] == 0).sum()
    assert 0.25 * 20 * 300 < tested < 0.35 * 20 * 300  # 30 % of the rows are tested


def test_rows_that_are_all_twins_cannot_be_split_by_cluster_and_the_way_out_is_named():
    with pytest.raises(DataError, match=r"data.split=clustered: nearly all 100 rows .* none is left for test \(random"):
        split_rows(np.zeros(100, int), how="clustered", fractions=SEED_CHAPTER, seed=0)


@given(st.lists(st.integers(0, 30), min_size=40, max_size=200), st.integers(0, 5))
def test_clusters_stay_whole_whatever_they_are(clusters, seed):
    clusters = np.array(clusters)
    try:
        parts = split_rows(clusters, how="clustered", fractions=SEED_CHAPTER, seed=seed)
    except DataError:
        return
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(clusters)))
    for name in ("test", "val"):
        assert not set(clusters[parts[name]]) & set(clusters[parts["train"]])
        assert len(parts[name]) <= len(clusters) * 0.15 + 1
