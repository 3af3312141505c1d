"""Which models are kept by which number: `model/` and, with trainer.save_top_k, `best/`."""

from types import SimpleNamespace

import pytest
import torch

from ift.sealed import read_manifest
from ift.text.templates import Segment, Template
from ift.training.callbacks import KeepBest
from ift.training.top import KeepTop

TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{output}", supervised=True)))
MEASURED = [(3.0, 0.1), (1.0, 0.2), (2.0, 0.5), (1.5, 0.3), (2.5, 0.4)]  # val/loss and val/accuracy of steps 0 to 4


@pytest.fixture
def validate(tmp_path, make_model, byte_tokenizer):
    def validate(*, monitor="val/loss", k=2, fresh=True, measured=MEASURED, state=None):
        """Validations of a run, one after the other; what is kept: the step in model/, and the steps in best/."""
        best = KeepBest(tmp_path / "model", byte_tokenizer, TEMPLATE, monitor=monitor)
        if state:
            best.load_state_dict(state)
        top = KeepTop(tmp_path / "best", best, k=k, fresh=fresh)
        module = SimpleNamespace(model=make_model(vocab_size=byte_tokenizer.vocab_size))
        top.setup(None, module, "validate")
        for step, (loss, accuracy) in enumerate(measured):
            metrics = {"val/loss": torch.tensor(loss), "val/accuracy": torch.tensor(accuracy)}
            trainer = SimpleNamespace(
                callback_metrics=metrics, global_step=step, is_global_zero=True, world_size=1, max_steps=99
            )
            best.on_validation_end(trainer, module)
            top.on_validation_end(trainer, module)
        return best, sorted(path.name for path in (tmp_path / "best").glob("*"))

    return validate


def test_the_best_ones_are_kept_under_their_steps_and_all_of_them_where_k_is_minus_one(validate):
    best, names = validate()
    assert (best.best_step, names) == (1, ["step-000001", "step-000003"])
    assert validate(k=-1)[1] == [f"step-00000{step}" for step in range(5)]


def test_another_monitor_decides_and_val_loss_stays_what_it_is(validate, tmp_path):
    """A larger accuracy is better: step 2, whose loss is not the least."""
    best, names = validate(monitor="val/accuracy")
    assert (best.best_step, best.val_loss, names) == (2, 2.0, ["step-000002", "step-000004"])
    about = read_manifest(tmp_path / "model")["about"]
    assert (about["step"], about["val_loss"], about["score"]) == (2, 2.0, -0.5)


def test_a_run_that_goes_on_knows_what_it_has_kept(validate):
    before, _ = validate(monitor="val/accuracy", measured=MEASURED[:3])
    best, names = validate(monitor="val/accuracy", fresh=False, state=before.state_dict())
    assert (best.best_step, names) == (2, ["step-000002", "step-000004"])
    assert validate(measured=MEASURED[:1])[1] == ["step-000000"]  # a run that begins finds nothing
