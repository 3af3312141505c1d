"""Every family, gradients and answers, and transformers 4 beside 5; tests/model/families has logits of all and the rest
of some."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ift.artifacts.weights import save_weights
from ift.generation.likelihoods import log_likelihoods
from tests.model.families import by_transformers
from tests.model.families.by_transformers import tokens
from tests.model.families.test_family import (  # noqa: F401
    CASES,
    SIZES,
    T,
    compare_answers,
    compare_gradients,
    load,
    made,
)

OLDER = "IFT_TRANSFORMERS_4"  # a python that has transformers 4.57 and torch


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_transformers(made, name):  # noqa: F811
    compare_gradients(*made(name))


@pytest.mark.parametrize("name", CASES)
def test_twenty_answers_of_ragged_prompts_are_those_of_transformers(made, name):  # noqa: F811
    """Prompts of 1 to 25 tokens: some grow over every window, and over the context before longrope stretched it.

    There transformers keeps what it had cached, which is no longer what the whole row gives: it answers without.
    """
    compare_answers(*made(name), lengths=[1 + n * 26 // 20 for n in range(20)], use_cache="longrope" not in name)


@pytest.mark.parametrize("name", CASES)
def test_likelihoods_of_given_tokens_are_those_of_transformers(made, name):  # noqa: F811
    """Questions that begin alike and are computed once up to there, on both sides of every window and border."""
    folder, theirs = made(name)
    beginning = tokens(9).tolist()
    rows = [[*beginning, *tokens(n, seed=n).tolist()] for n in range(4, 20)]
    windows = [(np.array(ids[:-3]), np.array(ids[-3:])) for ids in rows]
    for (given, scored), (total, first) in zip(
        windows, log_likelihoods(load(folder), windows, batch_tokens=1000), strict=True
    ):
        with torch.no_grad():
            logits = theirs(torch.tensor([[*given, *scored[:-1]]])).logits[0, len(given) - 1 :]
        assert total == pytest.approx(torch.log_softmax(logits, -1)[range(3), scored].sum().item(), abs=1e-4)
        assert first == (logits.argmax(-1).tolist() == scored.tolist())


def in_old_dialect(differing: dict) -> dict:
    """Sizes of a case as transformers before version 5 takes them: rotation in keys of its own."""
    stated = differing.get("rope_parameters")
    if stated is None:
        return differing
    full = dict(stated.get("full_attention", stated))
    old = {key: full.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in full}
    if "sliding_attention" in stated:
        old["rope_local_base_freq"] = stated["sliding_attention"]["rope_theta"]
    if full["rope_type"] == "longrope":  # its original context is a key beside
        old["rope_scaling"] = {"type": "longrope", **{key: full[key] for key in ("short_factor", "long_factor")}}
    elif full["rope_type"] != "default":
        old["rope_scaling"] = full
    return {**{key: value for key, value in differing.items() if key != "rope_parameters"}, **old}


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    """A folder with each case as transformers 4 writes it, as "NAME", and as we write it on, as "NAME again"; and the
    logits that it has for both."""
    python = os.environ.get(OLDER)
    if not python:
        pytest.skip(f"{OLDER} names no python that has transformers 4.57")
    folder = tmp_path_factory.mktemp("older")
    make = {name: (kind, {**SIZES, **in_old_dialect(differing)}) for name, (kind, differing) in CASES.items()}
    ask(python, folder, make=make)
    for name in CASES:
        (folder / f"{name} again").mkdir()
        save_weights(load(folder / name), folder / f"{name} again", end_of_text=2)
    version = ask(python, folder, read=[f"{name} again" for name in CASES])
    assert version.startswith("4.57")
    return folder


def ask(python: str, folder: Path, **cases) -> str:
    (folder / "cases.json").write_text(json.dumps({"make": {}, "read": [], **cases}))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, by_transformers.__file__, str(folder), str(folder / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-1]


def logits(folder: Path, name: str) -> torch.Tensor:
    return load_file(folder / f"{name}.logits")["logits"]


@pytest.mark.parametrize("name", CASES)
def test_folders_of_transformers_4_are_read_as_it_reads_them(older, name):
    expected = logits(older, name)
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(load(older / name)(tokens(2, T)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_of_transformers_4_and_written_again_is_read_by_both(older, name):
    import transformers

    torch.testing.assert_close(logits(older, f"{name} again"), logits(older, name), atol=1e-5, rtol=1e-5)
    newer = transformers.AutoModelForCausalLM.from_pretrained(older / f"{name} again", attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(newer(tokens(2, T)).logits, logits(older, name), atol=1e-4, rtol=1e-4)


def test_what_was_read_of_transformers_5_is_written_as_4_reads_it(older, made, tmp_path):  # noqa: F811
    for name in CASES:
        folder, _ = made(name)
        (tmp_path / name).mkdir()
        save_weights(load(folder), tmp_path / name, end_of_text=2)
    ask(os.environ[OLDER], tmp_path, read=list(CASES))
    wrong = {}
    for name in CASES:
        with torch.no_grad():
            apart = (logits(tmp_path, name) - made(name)[1](tokens(2, T)).logits).abs().max().item()
        if apart > 1e-4:
            wrong[name] = apart
    assert wrong == {}
