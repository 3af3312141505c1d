"""How long a run is and when it validates, in optimizer steps."""

import pytest

from ift.errors import DataError
from ift.settings import EarlyStoppingSettings, TrainerSettings
from ift.training.trainer import total_steps, val_every


def settings(**changes) -> TrainerSettings:
    values = {
        "max_epochs": 2,
        "max_steps": None,
        "accumulate": 1,
        "precision": "fp32",
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "val_every": None,
        "save_every": None,
        "skip_nonfinite": 0,
        "early_stopping": EarlyStoppingSettings(patience=3, min_delta=0.0),
    }
    return TrainerSettings(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, 234), ({"max_steps": 20}, 20), ({"max_steps": 1000}, 234), ({"max_epochs": 1}, 117)]
)
def test_the_run_ends_at_max_steps_or_max_epochs_whichever_comes_first(changes, steps):
    assert total_steps(settings(**changes), steps_per_epoch=117) == steps


def test_no_step_at_all_is_an_error():
    with pytest.raises(DataError, match="drop_last"):
        total_steps(settings(), steps_per_epoch=0)


def test_ten_validations_a_run_on_whole_steps_unless_asked_otherwise():
    assert val_every(settings(), steps=234) == 24
    assert val_every(settings(), steps=3) == 1
    assert val_every(settings(accumulate=4), steps=100) == 10
    assert val_every(settings(val_every=7, accumulate=4), steps=100) == 7
