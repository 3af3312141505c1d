"""Training's import of Lightning leaves out what it has no use for, and leaves no trace where others look later."""

import importlib.util
import sys

import pytest
from lightning_utilities.core import imports as asked
from lightning_utilities.core.imports import RequirementCache

from ift.training.lightning_alone import LEFT_OUT, unseen
from tests.running import run

SEEN = """
import sys
from ift.training.lightning_alone import import_lightning
import_lightning(alone={alone})
from torchmetrics import SumMetric
total = SumMetric(); total.update(2.0); total.update(3.0)
print(float(total.compute()), *(name in sys.modules for name in {names}))
import scipy.signal, matplotlib.pyplot  # afterwards they are there for all
from lightning_utilities.core.imports import RequirementCache
print(bool(RequirementCache("scipy")), bool(RequirementCache("matplotlib>=3")))
"""


def test_what_torchmetrics_looks_for_is_not_imported_and_is_there_afterwards():
    done = run("-c", SEEN.format(alone=True, names=list(LEFT_OUT)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["5.0" + " False" * len(LEFT_OUT), "True True"]


def test_callbacks_of_others_get_the_whole_of_it():
    done = run("-c", SEEN.format(alone=False, names=["scipy"]))
    assert done.stdout.splitlines() == ["5.0 True", "True True"], done.stderr


def test_a_package_is_unseen_inside_alone():
    """json5x is nowhere; `wave` is a module of Python's own that nothing has imported."""
    sys.modules.pop("wave", None)
    with unseen(("wave", "json5x", "sys")):
        assert not asked.package_available("wave")
        assert not RequirementCache(module="wave")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("wave")
        assert asked.package_available("sys")  # imported already: it stays
    assert asked.package_available("wave")
    assert importlib.import_module("wave").__name__ == "wave"
    assert "json5x" not in sys.modules


def test_versions_are_found_again_after_an_error():
    with pytest.raises(KeyError), unseen(("tiktoken",)):
        raise KeyError
    assert asked._version("lightning-utilities") == importlib.metadata.version("lightning-utilities")
