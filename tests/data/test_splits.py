import pytest

from ift.data.splits import split_rows
from ift.errors import ConfigError, DataError
from ift.settings import FractionSettings

SEED_CHAPTER = FractionSettings(train=0.85, test=0.10, val=0.05)


def test_1100_rows_by_position_are_935_to_train_then_110_to_test_then_55_to_validate():
    parts = split_rows(list(range(1100)), how="positional", fractions=SEED_CHAPTER, seed=123)
    assert parts == {"train": list(range(935)), "test": list(range(935, 1045)), "val": list(range(1045, 1100))}


def test_52002_rows_split_as_the_seed_chapter_counts_them():
    parts = split_rows(list(range(52002)), how="positional", fractions=SEED_CHAPTER, seed=123)
    assert {name: len(part) for name, part in parts.items()} == {"train": 44201, "test": 5200, "val": 2601}


@pytest.mark.parametrize("rows", [20, 21, 99, 1100])
def test_a_random_split_is_disjoint_and_complete(rows):
    parts = split_rows(list(range(rows)), how="random", fractions=SEED_CHAPTER, seed=1)
    assert sorted(parts["train"] + parts["test"] + parts["val"]) == list(range(rows))


def test_a_random_split_depends_on_the_seed_and_on_nothing_else():
    rows = list(range(100))
    first = split_rows(rows, how="random", fractions=SEED_CHAPTER, seed=1)
    assert split_rows(rows, how="random", fractions=SEED_CHAPTER, seed=1) == first
    assert split_rows(rows, how="random", fractions=SEED_CHAPTER, seed=2) != first
    assert first["train"] != rows[:85]


def test_a_fraction_of_a_whole_number_of_rows_is_that_number():
    parts = split_rows(list(range(100)), how="positional", fractions=FractionSettings(0.29, 0.57, 0.14), seed=0)
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
    parts = split_rows(list(range(10)), how="positional", fractions=fractions, seed=0)
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
        split_rows(list(range(rows)), how="positional", fractions=fractions, seed=0)


@pytest.mark.parametrize(("val", "total"), [(0.1, "1.05"), (0.0, "0.95")])
def test_fractions_that_do_not_add_up_to_1_are_an_error_with_their_sum(val, total):
    with pytest.raises(ConfigError, match=f"add up to {total} "):
        split_rows(list(range(100)), how="random", fractions=FractionSettings(0.85, 0.10, val), seed=0)
