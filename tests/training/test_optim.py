"""What decays, and which learning rate each step has."""

import pytest
import torch

from ift.training.optim import clip_coefficient, lr_factor, make_optimizer, make_schedule


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_biases_and_norms_do_not(make_model, make_optim, tied):
    model = make_model(tie_weights=tied)
    decayed, plain = make_optimizer(model, make_optim(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    matrices = {"wte", "wpe", "c_attn", "c_proj", "c_fc"} | (set() if tied else {"lm_head"})
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == matrices
    assert all(name.endswith("bias") or ".ln_" in f".{name}" for name in (names[id(p)] for p in plain["params"]))
    assert len(decayed["params"]) + len(plain["params"]) == len(names)  # each once, the shared matrix too


def test_decay_all_takes_every_parameter(make_model, make_optim):
    model = make_model()
    (group,) = make_optimizer(model, make_optim(weight_decay=0.1, decay="all")).param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out(make_model, make_optim):
    model = make_model()
    model.wpe.requires_grad_(False)
    optimizer = make_optimizer(model, make_optim())
    assert all(p is not model.wpe.weight for group in optimizer.param_groups for p in group["params"])


def test_the_optimizer_is_the_fused_one_with_the_settings_asked_for(make_model, make_optim):
    optimizer = make_optimizer(make_model(), make_optim(lr=3e-4, beta1=0.8, beta2=0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["fused"] for group in optimizer.param_groups)
    assert all((group["lr"], group["betas"]) == (3e-4, (0.8, 0.95)) for group in optimizer.param_groups)


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


def test_without_warm_up_the_first_step_has_the_whole_rate(make_optim):
    assert lr_factor(0, make_optim(schedule="cosine", warmup=0.0), 10) == 1.0


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
