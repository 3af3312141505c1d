"""Adapters by the real commands on a small base: to stop though the base never learnt its end token; on four bits."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file

from ift.artifacts.tensors import read_header
from ift.run import RunFolder, read_json
from tests.running import TRAIN, run

ROWS = ("logger=none", "samples.rows=0", "trainer.max_epochs=50")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The built-in default, trained, whose end token is then as if no text had held it."""
    folder = tmp_path_factory.mktemp("base")
    done = run(TRAIN, f"output_dir={folder / 'run'}", *ROWS, "trainer.max_steps=1700")
    assert done.returncode == 0, done.stderr
    forget_the_end(folder / "run" / "model")
    return folder / "run" / "model"


def forget_the_end(model):
    tensors = load_file(model / "model.safetensors")
    end = json.loads((model / "config.json").read_text())["eos_token_id"]
    tensors["transformer.wte.weight"][end] = 0
    (model / "manifest.json").unlink()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def tuned(base, name, *words):
    """A run of an adapter on the base, its summary, and what it printed."""
    folder = base.parent.parent / name
    done = run(
        TRAIN, "model=pretrained", f"model.pretrained={base}", "data=demo", f"output_dir={folder}", *ROWS,
        "trainer.max_steps=300", "optim.lr=5e-3", "data.batch_size=24", "generate.max_new_tokens=48", *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return RunFolder(folder), read_json(folder / "summary.json"), done


def test_an_adapter_learns_to_stop_by_the_row_of_the_end_token_alone(base):
    found, summary, done = tuned(base, "auto", "adapter=lora")
    assert "is zero in the embedding; their rows are trained beside the adapter" in done.stderr
    assert summary["end_rate"] >= 0.95
    header = read_header(found.model / "adapter_model.safetensors")
    rows = header["base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"]
    assert rows.shape == [1, json.loads((base / "config.json").read_text())["n_embd"]]
    _, without, done = tuned(base, "none", "adapter=lora", "adapter.trainable_tokens=none")
    assert "the model cannot learn to stop (adapter.trainable_tokens=auto trains them" in done.stderr
    assert without["end_rate"] < summary["end_rate"]
    assert summary["test_loss"] < without["test_loss"]


def test_on_four_bits_the_loss_is_near_and_both_merges_are_measured(base):
    lora = tuned(base, "auto", "adapter=lora")[1]  # finished already: nothing is done
    found, summary, done = tuned(base, "qlora", "adapter=qlora")
    weights = re.search(r"the weights take ([\d.]+) MB", done.stdout)
    full = sum(tensor.numel() * 4 for tensor in load_file(base / "model.safetensors").values()) / 1e6
    assert float(weights[1]) < 0.6 * full  # the embedding of a small model stays as it is
    assert abs(summary["test_loss"] - lora["test_loss"]) < 0.15
    assert summary["end_rate"] >= 0.95
    merged = run("-m", "ift.cli", "merge", str(found.path))
    assert merged.returncode == 0, merged.stderr
    losses = [float(number) for number in re.findall(r"^ {10}(\d\.\d+)  ", merged.stdout, flags=re.M)]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(losses[2], abs=2e-4)
    assert losses[0] == pytest.approx(summary["val_loss"], abs=2e-3)
