"""How a training ends, in real processes: diverged, with the untuned model as its best, without validation rows."""

import csv
import json

import pytest

from ift.commands.train import show_finished
from ift.run import RunFolder, read_json, read_jsonl
from ift.training.finish import untuned_is_best
from tests.running import train

QUIET = ("logger=none", "trainer.accelerator=cpu")


@pytest.fixture
def ends(warm):
    """ends(*overrides): a tiny training to its end."""
    return lambda *overrides: train(*overrides, *QUIET, run=warm.run)


def test_a_run_that_diverged_is_failed_in_the_table_of_its_sweep_and_nothing_else_is(ends, tmp_path):
    """A rate of 1e30 makes the weights so large that the loss after one step is no number."""
    done = ends("-m", "optim.lr=0.003,1e30", "trainer.val_every=1", f"output_dir={tmp_path}")
    assert done.returncode == 6, done.stderr
    model = tmp_path / "1/model"
    said = f"step 1: val/loss is nan; {model} holds the untuned model (validation loss "
    (line,) = done.stderr.splitlines()
    assert said in line
    assert line.endswith(") (lower optim.lr)")
    assert json.loads((model / "ift.json").read_text())["step"] == 0
    with (tmp_path / "sweep.csv").open() as file:
        good, bad = csv.DictReader(file)
    assert (good["job"], good["status"]) == ("0", "finished")
    assert float(good["val_loss"]) < 10
    assert (bad["job"], bad["val_loss"]) == ("1", "")
    assert bad["status"].startswith("failed: step 1: val/loss is nan")


def test_without_validation_rows_the_run_says_how_far_it_is_and_how_it_ended(ends, tmp_path):
    done = ends("data.fractions.val=0", "data.fractions.train=0.9", f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0].strip() for line in steps] == ["step 0", "step 2", "step 4"]
    assert steps[0].startswith("step 0    the untuned model: no validation rows; loss on training rows ")
    assert "validation" not in steps[1]
    assert "trained   4 steps without validation rows: model/ is the last step's; stopped by max_steps=4" in done.stdout
    assert "val_loss" not in [key for key, value in read_json(tmp_path / "summary.json").items() if value is not None]


def test_a_run_whose_best_model_is_the_untuned_one_says_so_loudly(ends, tmp_path):
    done = ends("optim.lr=3", "optim.warmup=0", f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    losses = {m["step"]: m["val/loss"] for m in read_jsonl(tmp_path / "metrics.jsonl") if "val/loss" in m}
    assert min(losses, key=losses.get) == 0
    step = min((2, 4), key=losses.get)
    summary = read_json(tmp_path / "summary.json")
    assert (summary["untuned_is_best"], summary["best_trained_step"]) == (True, step)
    line = (
        f"best      THE UNTUNED MODEL, validation loss {losses[0]:.3f}: no step of training was better, the best one "
    )
    assert line + f"is {losses[step]:.3f} at step {step} of 4." in done.stdout
    assert "The best model is the untuned one" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("loss", "believed"), [(2.5, 2.5), (float("nan"), None), (float("inf"), None), (None, None)])
def test_a_sweep_believes_no_loss_of_an_earlier_run_that_is_no_finite_number(tmp_path, loss, believed):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished", "val_loss": loss}))
    assert show_finished(RunFolder(tmp_path)) == believed


def test_the_flag_is_there_where_there_was_validation():
    class Best:
        val_loss, best_step, monitor = 2.0, 3, "val/loss"

    assert untuned_is_best([], Best()) == {"untuned_is_best": False}
    Best.val_loss = None
    assert untuned_is_best([], Best()) == {}
