"""Products in fp16 train as those in fp32 do, and gradients that overflow cost a step, not the run."""

import math

import pytest
import torch

from ift.errors import DivergedError
from ift.model.linear import compute_in
from ift.training.loss_scale import AFTER, LossScale
from ift.training.module import SFTModule


def test_half_after_an_overflow_and_twice_after_many_steps_without():
    scale, yes, no = LossScale(64.0), torch.tensor(True), torch.tensor(False)
    scale.update(no)
    assert scale.on(yes.device).item() == 32
    for _ in range(AFTER - 1):
        scale.update(yes)
    assert scale.state_dict() == {"number": 32, "steps": AFTER - 1}
    goes_on = LossScale()
    goes_on.load_state_dict(scale.state_dict())
    goes_on.update(yes)
    assert goes_on.on(yes.device).item() == 64


@pytest.fixture
def losses(fit, make_model, make_optim, make_examples):
    def losses(dtype, scale, *, broken=False):
        """Of ten steps, and all that was recorded. broken: a weight is no number."""
        module = SFTModule(make_model(), optim=make_optim(lr=3e-3), total_steps=10, loss_scale=scale)
        compute_in(module.model, dtype)
        if broken:
            next(module.model.parameters()).data[0] = math.nan
        recorded = []
        module.record = lambda step, values: recorded.append(values)
        fit(make_examples(40), steps=10, module=module)
        return [values["train/loss"] for values in recorded if "train/loss" in values], recorded

    return losses


def test_fp16_with_loss_scaling_follows_fp32(losses):
    exact, _ = losses(torch.float32, None)
    close, recorded = losses(torch.float16, LossScale())
    assert close == pytest.approx(exact, rel=2e-3)
    assert exact[-1] < exact[0] - 0.01  # there is something to follow
    assert {values["loss_scale"] for values in recorded} == {256.0}


def test_gradients_that_overflow_leave_out_their_step_and_the_scale_comes_down(losses):
    close, recorded = losses(torch.float16, LossScale(2.0**20))
    left_out = [values for values in recorded if "grad_norm" not in values]
    assert 0 < len(left_out) < 10
    assert [values["loss_scale"] for values in left_out] == [2.0 ** (20 - n) for n in range(len(left_out))]
    assert all(math.isfinite(loss) for loss in close)


def test_a_loss_that_is_no_number_is_no_matter_of_scale(losses):
    with pytest.raises(DivergedError, match="loss nan"):
        losses(torch.float16, LossScale(), broken=True)
