"""Answers are kept, and servers known, by it: it has to be the same in every process, and another for every model."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from ift.model.fingerprint import fingerprint

SMALL = """
import torch
from ift.model.config import GPTConfig
from ift.model.fingerprint import fingerprint
from ift.model.gpt import GPT
torch.manual_seed(3)
print(fingerprint(GPT(GPTConfig(20, 8, n_layer=1, n_head=2, n_embd=8)), "template"))
"""


def test_every_process_computes_the_same():
    """Python orders a set of texts anew in every process: four orders of hashing, one name."""
    names = set()
    for seed in ("0", "1", "2", "3"):
        command = [sys.executable, "-c", SMALL]
        names.add(
            subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        )
    assert len(names) == 1
    assert len(names.pop().strip()) == 16


@pytest.mark.parametrize("what", ["weight", "buffer", "type of products", "config", "what else is given"])
def test_another_model_has_another(make_model, what):
    model = make_model()
    other = copy.deepcopy(model)
    assert fingerprint(other, "a") == fingerprint(model, "a")
    if what == "weight":
        with torch.no_grad():
            other.wte.weight[0, 0] += 1
    elif what == "buffer":
        other.register_buffer("packed", torch.tensor(3, dtype=torch.uint8))
    elif what == "type of products":
        other.lm_head.compute_dtype = torch.bfloat16
    elif what == "config":
        object.__setattr__(other.config, "norm_eps", 1e-6)
    assert fingerprint(other, "b" if what == "what else is given" else "a") != fingerprint(model, "a")
