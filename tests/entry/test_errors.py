"""Errors from below Hydra, and Hydra's own, as one line."""

from ift.entry.errors import as_ift_error
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
