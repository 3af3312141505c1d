"""Two processes that each take half of the rows are one process that takes them all."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_two_ranks_take_the_steps_of_one_process(tmp_path, warm):
    """17 rows, 8 a step: in the last step of each epoch the second rank has no row. 5 validation rows: 3 and 2."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    runpy.run_path(str(SCRIPT))["fit"](one, devices=1, batch_size=8, accumulate=1)
    done = warm.run(str(SCRIPT), str(two), "2", "2", "2", timeout=120)  # 2 ranks, 2 micro-batches of 2 rows each
    assert done.returncode == 0, done.stderr[-2000:]

    alone, together = (json.loads((folder / "seen.json").read_text()) for folder in (one, two))
    assert (alone["world"], together["world"]) == (1, 2)
    assert len(together["train"]) == 6
    assert together["train"] == pytest.approx(alone["train"], abs=1e-6)
    assert together["val"] == pytest.approx(alone["val"], abs=1e-6)
    assert len(set(together["val"])) == 2
    assert together["tokens"] == alone["tokens"]
    expected, found = load_file(one / "weights"), load_file(two / "weights")
    for name, value in expected.items():
        other = found[name]
        if name.endswith("c_attn.bias"):  # a bias of keys moves all scores alike: its gradient is rounding noise
            value, other = value.view(3, -1)[[0, 2]], other.view(3, -1)[[0, 2]]
        torch.testing.assert_close(other, value, atol=1e-5, rtol=0)  # a hundredth of one step
