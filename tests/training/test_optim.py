"""Which learning rate each step has, and by what a gradient is multiplied."""

import pytest
import torch

from ift.training.optim import clip_coefficient, lr_factor, make_schedule
from ift.training.optimizers import make_optimizer


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 1 / 3),  # two of ten steps warm up
        (1, 2 / 3),
        (2, 1.0),  # cos 0
        (4, 0.1 + 0.9 * (1 + 2**-0.5) / 2),  # cos 45 degrees
        (6, 0.55),  # cos 90 degrees: half of the way from 1 to 0.1
        (8, 0.1 + 0.9 * (1 - 2**-0.5) / 2),
        (10, 0.1),
        (12, 0.1),  # and no way up again
    ],
)
def test_the_rate_warms_up_and_falls_along_a_cosine(make_optim, step, share):
    settings = make_optim(schedule="cosine", warmup=0.2, min_lr=0.1)
    assert lr_factor(step, settings, total_steps=10) == pytest.approx(share)


def test_a_constant_rate_warms_up_too(make_optim):
    settings = make_optim(schedule="constant", warmup=0.2, min_lr=0.1)
    assert [lr_factor(step, settings, 10) for step in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_a_linear_rate_falls_along_a_line(make_optim):
    settings = make_optim(schedule="linear", warmup=0.2, min_lr=0.1)
    shares = [lr_factor(step, settings, 10) for step in (0, 1, 2, 4, 6, 8, 10, 12)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 0.775, 0.55, 0.325, 0.1, 0.1])


@pytest.mark.parametrize(
    ("cooldown", "shares"),
    [
        (0.5, [1 / 2, 1, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28]),  # five of ten steps fall, by 0.9 / 5 each
        (None, [1 / 2, 1, 1, 1, 1, 1, 1, 1, 1, 0.55]),  # two
    ],
)
def test_a_rate_that_is_stable_falls_in_its_last_part(make_optim, cooldown, shares):
    settings = make_optim(schedule="wsd", warmup=0.1, cooldown=cooldown, min_lr=0.1)
    assert [lr_factor(step, settings, 10) for step in range(10)] == pytest.approx(shares)


def test_a_warm_up_in_steps_counts_instead_of_the_share(make_optim):
    settings = make_optim(schedule="constant", warmup=0.5, warmup_steps=3)
    assert [lr_factor(step, settings, 100) for step in range(5)] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1])
    assert lr_factor(0, make_optim(warmup=0.5, warmup_steps=0), 100) == 1


def test_without_warm_up_the_first_step_has_the_whole_rate(make_optim):
    assert lr_factor(0, make_optim(schedule="cosine", warmup=0.0), 10) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 1.0])
def test_a_run_of_one_step_has_the_rate_that_was_asked_for(make_optim, schedule, warmup):
    assert lr_factor(0, make_optim(schedule=schedule, warmup=warmup, min_lr=0.1), 1) == 1.0


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 1.0])
def test_no_step_of_a_short_run_is_without_a_rate(make_optim, total, warmup):
    settings = make_optim(schedule="cosine", warmup=warmup)
    assert all(0 < lr_factor(step, settings, total) <= 1 for step in range(total))


def test_the_schedule_sets_the_rate_of_every_group(make_model, make_optim):
    settings = make_optim(lr=1e-3, schedule="cosine", warmup=0.2, min_lr=0.1)
    optimizer = make_optimizer(make_model(), settings)
    schedule = make_schedule(optimizer, settings, total_steps=10)
    rates = []
    for _ in range(7):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([1e-3 / 3] * 2)
    assert rates[2] == pytest.approx([1e-3] * 2)
    assert rates[6] == pytest.approx([0.55e-3] * 2)


@pytest.mark.parametrize(
    ("norm", "clip", "coefficient"), [(10.0, 1.0, 0.1), (0.5, 1.0, 1.0), (1.0, 1.0, 1.0), (10.0, None, 1.0), (0, 1, 1)]
)
def test_clipping_scales_down_to_the_limit_and_never_up(norm, clip, coefficient):
    assert clip_coefficient(torch.tensor(float(norm)), clip).item() == pytest.approx(coefficient)
