"""Two processes that each take half of the rows are one process that takes them all, with the callbacks of train.py."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ift.run import read_jsonl
from ift.sealed import check, newest, steps_there

SCRIPT = Path(__file__).with_name("two_ranks.py")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")


def seen(folder, rank=0):
    return json.loads((folder / f"rank-{rank}.json").read_text())


def train_losses(folder):
    return [line["train/loss"] for line in read_jsonl(folder / "metrics.jsonl") if line["step"] and "lr" in line]


def test_two_ranks_take_the_steps_of_one_process(tmp_path, warm):
    """17 rows, 8 a step: in the last step of each epoch the second rank has no row. 5 validation rows: 3 and 2."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    runpy.run_path(str(SCRIPT))["run"](one, devices=1, batch_size=8, accumulate=1)
    done = warm.run(str(SCRIPT), str(two), "2", "2", "2", timeout=300)  # 2 ranks, 2 micro-batches of 2 rows each
    assert done.returncode == 0, done.stderr[-2000:]

    alone, together = seen(one), seen(two)
    assert (alone["world"], together["world"]) == (1, 2)
    assert len(train_losses(two)) == 6
    assert train_losses(two) == pytest.approx(train_losses(one), abs=1e-6)
    assert together["val"] == pytest.approx(alone["val"], abs=1e-6)
    assert len(set(together["val"])) == 3  # untuned, at step 3, at step 6
    assert together["tokens"] == alone["tokens"]
    expected, found = load_file(one / "weights"), load_file(two / "weights")
    for name, value in expected.items():
        other = found[name]
        if name.endswith("c_attn.bias"):  # a bias of keys moves all scores alike: its gradient is rounding noise
            value, other = value.view(3, -1)[[0, 2]], other.view(3, -1)[[0, 2]]
        torch.testing.assert_close(other, value, atol=1e-5, rtol=0)  # a hundredth of one step

    assert seen(two, rank=1) == seen(two)  # what was logged is the same on both, to the last bit
    for folder in (one, two):
        assert seen(folder)["best"] == [min(seen(folder)["val"]), 6]
        assert check(folder / "model").about["step"] == 6
        assert steps_there(folder / "checkpoints") == [6, 3]
        assert newest(folder / "checkpoints").about == {"data": "abc", "step": 6}
        assert [line["step"] for line in read_jsonl(folder / "samples.jsonl")] == [0, 3, 6]
    assert "sync_dist" not in done.stderr


def test_a_model_that_rank_0_cannot_write_ends_both_and_none_waits(tmp_path, warm):
    """At step 3 the untuned model is there still, so training goes on; after the last step there is no later try."""
    done = warm.run(str(SCRIPT), str(tmp_path), "2", "2", "2", "full", timeout=300)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stdout.count("training goes on") == 1
    for rank in (0, 1):  # both came to the end of the last validation, behind which the model is written
        assert len(seen(tmp_path, rank)["val"]) == 3
        assert seen(tmp_path, rank)["best"] == [seen(tmp_path, 0)["val"][0], 0]
    assert check(tmp_path / "model").about["step"] == 0
