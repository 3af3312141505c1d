"""Gradients are added up over ranks in one order, whatever came before."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ift.training.ranks import _buckets
from tests.training.three_ranks import SIZES, WITHOUT

SCRIPT = Path(__file__).with_name("three_ranks.py")


def test_neighbours_share_a_bucket_and_a_large_gradient_has_one_alone(monkeypatch):
    monkeypatch.setattr("ift.training.ranks.BUCKET", 64)
    gradients = [torch.zeros(n) for n in (12, 4, 1, 40, 16)] + [torch.zeros(2, dtype=torch.float64)]
    assert [[gradient.numel() for gradient in bucket] for bucket in _buckets(gradients)] == [
        [12, 4],  # 64 bytes
        [1],
        [40],  # 160 bytes
        [16],
        [2],  # of another type
    ]
    assert list(_buckets([])) == []


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_three_ranks_have_the_same_sum_each_time_and_it_is_the_sum(warm, tmp_path):
    """One rank has no gradient of one parameter: nothing is added, and none waits."""
    out = tmp_path / "out"
    end = warm.start([str(SCRIPT), str(tmp_path)], stdout=out, stderr=out, ranks=3, timeout=120)
    assert end["codes"] == [0, 0, 0], out.read_text()
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(3)]
    for i in range(len(SIZES)):
        terms = [each[f"mine-{i}"].double() for rank, each in enumerate(ranks) if (rank, i) != WITHOUT]
        total: Tensor = ranks[0][f"first-{i}"]
        torch.testing.assert_close(total.double(), torch.stack(terms).sum(0), rtol=1e-6, atol=1e-5)
        for each in ranks:
            assert torch.equal(each[f"first-{i}"], total)
            assert torch.equal(each[f"second-{i}"], total)
