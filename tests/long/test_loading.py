"""What reading weights takes beside the weights: benchmarks/loading.py, as a bound."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

from loading import BOUND, KINDS, make, measured  # noqa: E402


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not count resident memory so")
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_read_into_the_memory_of_its_weights(kind, tmp_path):
    """0.4 GB of fp32 parameters: one copy beside a file in bf16 would be 1.5, one that is mapped in fp32 2."""
    differing, stored, files = KINDS[kind]
    make(tmp_path / "model", differing, stored, files, 400)
    found = measured(tmp_path / "model")
    assert found["weights_mb"] > 350
    assert 1.0 <= found["read_peak"] < BOUND
    assert found["write_extra"] < 0.35  # the largest tensor, in the type of the file
