"""Which model is kept, when validation runs, and when a run stops."""

import json
import math
import re

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ift.artifacts.model_folder import save_model_folder
from ift.artifacts.weights import inspect_folder, load_model
from ift.errors import DivergedError
from ift.text.templates import Segment, Template
from ift.training.callbacks import KeepBest, ValidateAtTheEnd
from ift.training.module import SFTModule
from ift.training.trainer import early_stopping, stop_reason, total_steps, val_every
from tests.training.options import trainer_options

TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{output}", supervised=True)))


class Scripted(SFTModule):
    """Trains for real; its validation losses are read from a list."""

    losses: list[float]

    def on_validation_epoch_end(self):
        self.log("val/loss", torch.tensor(self.losses.pop(0), dtype=torch.float64), logger=False)


class Validations(Callback):
    """The step of every validation, and the weights at that step."""

    def __init__(self):
        self.steps: list[int] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_validation_end(self, trainer, module):
        self.steps.append(trainer.global_step)
        self.weights.append({name: value.clone() for name, value in module.model.state_dict().items()})


@pytest.fixture
def run(tmp_path, make_examples, make_model, make_optim, make_data, make_trainer, byte_tokenizer):
    def run(losses, *, rows=40, max_epochs=2, max_steps=None, every=1, accumulate=1, patience=None, untuned=False):
        """As train.py puts it together: 8 rows a step. Returns what happened."""
        settings = trainer_options(
            max_epochs=max_epochs, max_steps=max_steps, accumulate=accumulate, val_every=every, patience=patience
        )
        data = make_data(make_examples(rows), make_examples(3), batch_size=8 // accumulate, accumulate=accumulate)
        steps = total_steps(settings, data.steps_per_epoch(1))
        module = Scripted(make_model(vocab_size=byte_tokenizer.vocab_size), optim=make_optim(), total_steps=steps)
        module.losses = list(losses)
        best = KeepBest(tmp_path / "model", byte_tokenizer, TEMPLATE, about={"data": "abc"})
        stopping, seen = early_stopping(settings.early_stopping), Validations()
        trainer = make_trainer(
            max_steps=steps,
            accumulate_grad_batches=accumulate,
            val_check_interval=val_every(settings, steps) * accumulate,
            callbacks=[best, seen, stopping, ValidateAtTheEnd()],
        )
        if untuned:
            trainer.validate(module, data.baseline_dataloaders(), verbose=False)
        with best.named_where_diverged():
            trainer.fit(module, data)
        return trainer, best, seen, stop_reason(trainer, settings, stopping)

    return run


# -- when validation runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "validated"),
    [(4, [4, 8, 10]), (5, [5, 10]), (1, list(range(1, 11))), (10, [10]), (99, [10]), (None, list(range(1, 11)))],
)
def test_validation_runs_every_so_many_steps_and_after_the_last_one(run, every, validated):
    """40 rows, 8 a step: 5 steps an epoch, 10 in all; validations do not start anew with an epoch."""
    _, _, seen, reason = run([1.0] * 10, every=every)
    assert seen.steps == validated
    assert reason == "max_epochs=2"


def test_steps_are_counted_in_optimizer_steps_when_gradients_are_accumulated(run):
    trainer, _, seen, _ = run([1.0] * 10, every=3, accumulate=4, rows=38)  # the last window: 2 + 2 + 2 + 0 rows
    assert trainer.global_step == 10
    assert seen.steps == [3, 6, 9, 10]


def test_max_steps_ends_a_run_within_an_epoch_and_says_so(run):
    trainer, _, seen, reason = run([1.0] * 9, max_epochs=9, max_steps=7, every=3)
    assert trainer.global_step == 7
    assert seen.steps == [3, 6, 7]
    assert reason == "max_steps=7"


# -- early stopping -------------------------------------------------------------------------------------------------


def test_patience_counts_validations_without_a_better_loss(run):
    """Best at the second validation; the next three are not better, across the end of an epoch too."""
    trainer, best, seen, reason = run([3.0, 2.0, 2.1, 2.0, 2.5, 1.0], every=2, max_epochs=9, patience=3)
    assert seen.steps == [2, 4, 6, 8, 10]
    assert trainer.global_step == 10
    assert best.best_step == 4
    assert reason == "early stopping: no better val/loss in 3 validations after step 4"


def test_patience_counts_from_the_first_validation_after_training_began(run):
    """The untuned model is better than all that follows: the first validation sets the mark all the same."""
    _, best, seen, reason = run([0.5, 3.0, 3.1, 3.0, 2.0], untuned=True, patience=2)
    assert seen.steps == [0, 1, 2, 3]
    assert best.best_step == 0
    assert reason == "early stopping: no better val/loss in 2 validations after step 1"


def test_a_better_loss_starts_the_count_again(run):
    trainer, best, _, reason = run([3.0, 3.1, 3.1, 2.0, 2.1, 2.1, 1.9, 2.0, 2.0, 2.0], patience=3)
    assert trainer.global_step == 10
    assert best.best_step == 7
    assert reason.startswith("early stopping")


def test_without_patience_a_run_goes_on_to_its_end(run):
    trainer, _, _, reason = run([1.0] + [2.0] * 9, patience=None)
    assert trainer.global_step == 10
    assert reason == "max_epochs=2"


# -- which model is kept --------------------------------------------------------------------------------------------


def about(tmp_path):
    return json.loads((tmp_path / "model" / "ift.json").read_text())


def test_the_model_that_is_kept_is_the_one_with_the_best_validation_loss(run, tmp_path):
    _, best, seen, _ = run([3.0, 2.0, 2.5, 1.5, 1.6], every=2)
    assert (best.best_loss, best.best_step) == (1.5, 8)
    assert about(tmp_path) == {"data": "abc", "step": 8, "val_loss": 1.5}
    kept = load_model(inspect_folder(tmp_path / "model")).state_dict()
    at_best, last = seen.weights[3], seen.weights[4]
    for name, value in kept.items():
        assert torch.equal(value, at_best[name]), name
    assert not torch.equal(kept["wte.weight"], last["wte.weight"])


def test_of_two_equal_losses_the_earlier_model_is_kept(run):
    _, best, _, _ = run([2.0, 1.0, 1.0], every=4)
    assert best.best_step == 8


def test_the_last_step_can_be_the_best(run, tmp_path):
    _, best, _, _ = run([3.0, 2.0, 1.0], every=4)
    assert best.best_step == 10
    assert about(tmp_path)["step"] == 10


def test_an_untuned_model_that_is_better_than_all_after_it_is_kept(run, tmp_path, make_model, byte_tokenizer):
    _, best, _, _ = run([0.5, 3.0, 2.0, 1.0], every=4, untuned=True)
    assert (best.best_loss, best.best_step) == (0.5, 0)
    fresh = make_model(vocab_size=byte_tokenizer.vocab_size).state_dict()
    kept = load_model(inspect_folder(tmp_path / "model")).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_finite_number_is_divergence_and_the_best_model_before_it_stays(run, tmp_path, loss):
    left = re.escape(f"{tmp_path / 'model'} holds the best model, of step 2 (validation loss 2.000) (lower optim.lr)")
    with pytest.raises(DivergedError, match=f"^step 4: val/loss is {loss}; {left}$"):
        run([2.0, loss, 1.0], every=2)
    assert about(tmp_path)["step"] == 2


def test_an_untuned_model_whose_loss_is_no_finite_number_is_not_trained(run, tmp_path):
    with pytest.raises(DivergedError, match=r"step 0: val/loss is nan of the untuned model \(are its weights whole"):
        run([math.nan, 1.0], untuned=True)
    assert not (tmp_path / "model").exists()


# -- a run that goes on ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, make_model, byte_tokenizer):
    """A model folder of step 8, loss 1.5; the state is that of a checkpoint of step 6."""

    def kept(damage=lambda folder: None):
        about = {"step": 8, "val_loss": 1.5}
        save_model_folder(tmp_path / "model", make_model(vocab_size=257), byte_tokenizer, TEMPLATE, about)
        damage(tmp_path / "model")
        best = KeepBest(tmp_path / "model", byte_tokenizer, TEMPLATE)
        best.load_state_dict({"best_loss": 2.0, "best_step": 5})
        return best.best_loss, best.best_step

    return kept


def test_what_the_model_folder_says_of_its_weights_is_the_best_so_far(kept):
    assert kept() == (1.5, 8)


def test_a_crash_while_the_folder_was_replaced_loses_no_model(kept):
    assert kept(lambda folder: folder.rename(folder.with_name("model.old"))) == (1.5, 8)


def test_a_best_model_that_is_damaged_is_set_aside_and_the_best_from_here_on_kept(kept, tmp_path, capsys):
    def damage(folder):
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:-1] + b"?")

    assert kept(damage) == (math.inf, 0)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.damaged").is_dir()
    assert "the best model from here on is kept" in capsys.readouterr().out
