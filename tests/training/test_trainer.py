"""How long a run is and when it validates, in optimizer steps."""

import pytest

from ift.errors import DataError
from ift.training.trainer import in_steps, total_steps, val_every
from tests.training.options import trainer_options


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, 234), ({"max_steps": 20}, 20), ({"max_steps": 1000}, 234), ({"max_epochs": 1}, 117)]
)
def test_the_run_ends_at_max_steps_or_max_epochs_whichever_comes_first(changes, steps):
    assert total_steps(trainer_options(**changes), steps_per_epoch=117) == steps


def test_no_step_at_all_is_an_error():
    with pytest.raises(DataError, match="drop_last"):
        total_steps(trainer_options(), steps_per_epoch=0)


def test_ten_validations_a_run_on_whole_steps_unless_asked_otherwise():
    assert val_every(trainer_options(), steps=234) == 24
    assert val_every(trainer_options(), steps=3) == 1
    assert val_every(trainer_options(accumulate=4), steps=100) == 10
    assert val_every(trainer_options(val_every=7, accumulate=4), steps=100) == 7


def test_a_share_of_an_epoch_between_validations_is_whole_steps_and_at_least_one():
    """val_every=1 is every step, val_every=1.0 every epoch."""
    for given, steps in ((0.25, 29), (1.0, 117), (0.001, 1), (1, 1), (None, None)):
        assert in_steps(trainer_options(val_every=given), steps_per_epoch=117).val_every == steps
