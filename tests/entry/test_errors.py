"""Errors from below Hydra, and Hydra's own, as one line."""

import pytest
from hydra.errors import MissingConfigException

from ift.entry.errors import as_ift_error, no_such_choice
from ift.errors import DataError, MachineError
from ift.settings import Settings


def test_an_error_of_ours_is_found_below_those_it_caused():
    ours = DataError("rows.json:3: no")
    outer = RuntimeError("a job failed")
    outer.__cause__ = ValueError("because")
    outer.__cause__.__cause__ = ours
    assert as_ift_error(outer, Settings) is ours


def test_an_error_of_the_system_names_its_file():
    error = as_ift_error(OSError(28, "No space left on device", "runs/a/metrics.jsonl"), Settings)
    assert isinstance(error, MachineError)
    assert str(error).startswith("runs/a/metrics.jsonl: No space left on device")


def test_an_error_nobody_foresaw_stays_what_it_is():
    error = ZeroDivisionError("division by zero")
    assert as_ift_error(error, Settings) is error


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("hydra/launcher/ray", 'needs the package hydra-ray-launcher (pip install "ift[ray]")'),
        ("hydra/launcher/joblib", 'needs the package hydra-joblib-launcher (pip install "ift[joblib]")'),
        ("hydra/launcher/submitit_slurm", 'needs the package hydra-submitit-launcher (pip install "ift[submitit]")'),
        ("hydra/sweeper/optuna", 'needs the package hydra-optuna-sweeper (pip install "ift[sweep]")'),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_what_to_type(choice, message):
    error = as_ift_error(MissingConfigException(f"Could not find '{choice}'\n\tbasic", choice), Settings)
    assert isinstance(error, MachineError)
    group, _, name = choice.rpartition("/")
    assert str(error) == f"{group}={name}: this {message}"


def test_a_sweep_of_which_no_trial_came_to_its_end_is_one_line():
    error = as_ift_error(ValueError("No trials are completed yet."), Settings)
    assert str(error) == "no trial of the sweep came to its end (see the error of each)"


def test_a_choice_that_is_misspelled_has_the_nearest_one_beside_all_that_there_is():
    assert str(no_such_choice("eval", "scoer", ["keys", "quick", "score"])) == (
        "eval=scoer: no such choice (there is quick, score; did you mean score?)"
    )
    assert str(no_such_choice("eval", "x", ["keys", "quick"])) == "eval=x: no such choice (there is quick)"
