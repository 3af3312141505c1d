"""Blocks compiled for real, by inductor and the machine's C++ compiler, in a whole training."""

import os
import shutil

import pytest

from ift.run import read_json, read_jsonl
from tests.running import train

NEEDS = pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler")


@NEEDS
def test_a_compiled_training_has_the_losses_of_a_plain_one(tmp_path):
    losses = []
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        done = train(
            f"output_dir={tmp_path / name}", f"model.compile={compiled}", "data.batching=padded", "trainer.max_steps=3",
            "trainer.precision=fp32", "logger=none",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert read_json(tmp_path / name / "summary.json")["status"] == "finished"
        losses.append([line["train/loss"] for line in read_jsonl(tmp_path / name / "metrics.jsonl") if "lr" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 3
