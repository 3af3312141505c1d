"""The learning rate of each step, and how a gradient is divided, clipped or left out for any optimizer."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ift.model.slices import local
from ift.settings import OptimSettings


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: OptimSettings, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, settings, total_steps))


COOLDOWN = 0.2  # share of all steps, where optim.cooldown is not set (Hägele et al. 2024, arXiv:2405.18392)


def lr_factor(step: int, settings: OptimSettings, total_steps: int) -> float:
    """Share of the peak rate at a step, counted from 0: a linear warm-up, then what the schedule says.

    constant  stays
    cosine    falls to min_lr along half a cosine
    linear    falls to min_lr along a line
    wsd       stays, and falls to min_lr along a line in its last part (warm-up-stable-decay, Hu et al. 2024)

    warmup, cooldown and min_lr are shares: of all steps, and of the peak rate. From restart_at
    on, the schedule is that of the steps that are left, with rewarm as its warm-up.
    """
    restart = settings.restart_at
    if restart is not None:
        once = replace(settings, restart_at=None)
        if step < restart:
            return lr_factor(step, once, min(restart, total_steps))
        rest = replace(once, warmup=settings.rewarm or 0.0, warmup_steps=None)
        return lr_factor(step - restart, rest, total_steps - restart)
    warmup = math.ceil(settings.warmup * total_steps) if settings.warmup_steps is None else settings.warmup_steps
    warmup = min(warmup, total_steps - 1)  # a step at least has the rate itself
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    begin = warmup
    if settings.schedule == "wsd":
        begin = max(warmup, total_steps - math.ceil((settings.cooldown or COOLDOWN) * total_steps))
    done = min(1.0, max(0, step - begin) / max(1, total_steps - begin))
    left = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.min_lr + (1 - settings.min_lr) * left


def set_rates(optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Give the next step the rate that its schedule says: a checkpoint holds the one of the schedule before."""
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)


def clip_coefficient(norm: Tensor, clip: float | None) -> Tensor:
    """What a gradient of this norm is multiplied by, so that its norm is at most `clip`."""
    return torch.ones_like(norm) if clip is None else (clip / norm).clamp(max=1)


def scale_gradients(optimizer: torch.optim.Optimizer, factor: Tensor, *, finite: Tensor) -> None:
    """Multiply all gradients by a factor, for any optimizer; where `finite` is false, its next step does nothing.

    An optimizer that scales and skips in its own pass does both there: that saves a pass over the gradients, and on a
    GPU the wait to learn whether they are finite. Every other one gets them multiplied, or none at all, and then
    leaves out the step.
    """
    if scales_by_itself(optimizer):  # made for loss scaling: divides by grad_scale, and does nothing where found_inf
        optimizer.grad_scale = (1 / factor).float()  # type: ignore[attr-defined]
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not finite:
        for parameter in parameters:
            parameter.grad = None
    elif parameters:
        torch._foreach_mul_([local(p.grad) for p in parameters], factor.float())


def scales_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is one of torch's fused optimizers that know `grad_scale` and `found_inf`.

    Not SGD: where its first step is left out, its fused pass goes on from momentum that nobody has initialized.
    """
    known = getattr(optimizer, "_step_supports_amp_scaling", False) and not isinstance(optimizer, torch.optim.SGD)
    return known and all(group.get("fused") for group in optimizer.param_groups)
