"""The optimizers that `optim=NAME` chooses from: torch's own, bitsandbytes' for 8 bits, and Lion, which neither has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ift.errors import ConfigError, missing_extra
from ift.model.gpt import GPT
from ift.settings import OptimSettings


def make_optimizer(model: GPT, settings: OptimSettings) -> torch.optim.Optimizer:
    """Of what is trained. Weight decay on matrices only (embeddings included), or on all parameters with decay=all.

    Raises MachineError where a package is missing, ConfigError where Muon has no matrix to train.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if settings.name == "muon":
        return _muon(model, trained, settings)
    groups, lr = _groups(trained, settings), settings.lr
    if settings.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=_given(settings.momentum), lr=lr)
    if settings.name == "lion":
        return Lion(groups, betas=_betas(settings), lr=lr)
    if settings.name == "adamw8bit":
        return _eight_bits()(groups, betas=_betas(settings), eps=_given(settings.eps), lr=lr)
    return _adamw(groups, settings)


def _groups(parameters: list[nn.Parameter], settings: OptimSettings) -> list[dict[str, Any]]:
    """What decays and what does not; the second where there is some of it."""
    decayed = [p for p in parameters if p.dim() >= 2 or settings.decay == "all"]
    plain = [p for p in parameters if p.dim() < 2 and settings.decay != "all"]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=_betas(settings), eps=_given(settings.eps), fused=True
    )  # fmt: skip


def _muon(model: GPT, trained: list[nn.Parameter], settings: OptimSettings) -> torch.optim.Optimizer:
    matrices = [p for p in model.h.parameters() if p.requires_grad and p.dim() == 2]
    if not matrices:
        raise ConfigError("optim=muon: no matrix of a block is trained (optim=adamw trains what model.freeze leaves)")
    ours = {id(p) for p in matrices}
    muon = torch.optim.Muon(
        matrices,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=_given(settings.momentum),
        adjust_lr_fn="match_rms_adamw",
    )
    rest = _groups([p for p in trained if id(p) not in ours], settings)
    return Several(muon, _adamw(rest, settings)) if rest else muon


def _betas(settings: OptimSettings) -> tuple[float, float]:
    return _given(settings.beta1), _given(settings.beta2)


def _given(value: float | None) -> float:
    assert value is not None  # ift.rules.optimizer_has
    return value


def _eight_bits() -> Callable[..., torch.optim.Optimizer]:
    try:
        import bitsandbytes
    except ImportError as error:
        raise missing_extra("bitsandbytes", "adamw8bit") from error
    optimizer: Callable[..., torch.optim.Optimizer] = bitsandbytes.optim.adamw.AdamW8bit
    return optimizer


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2: a step of the rate's length in each weight, whatever its slope.

    c = beta1 m + (1 - beta1) g;  w -= lr (sign(c) + decay w);  m = beta2 m + (1 - beta2) g
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _loss_of(closure)
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                momentum: Tensor = state.setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(momentum.lerp(p.grad, 1 - beta1).sign_(), alpha=-lr)
                momentum.lerp_(p.grad, 1 - beta2)
        return loss


class Several(torch.optim.Optimizer):
    """Several optimizers that train a part of the parameters each, as one: one list of groups, one state."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts work on this list of groups and on this state: a schedule and a checkpoint see only them."""
        begin = 0
        for part in self.parts:
            end = begin + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[begin:end], self.state
            begin = end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _loss_of(closure)
        for part in self.parts:
            part.step()
        return loss


def _loss_of(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def state_bytes(model: GPT, settings: OptimSettings) -> int:
    """What the optimizer will keep of the parameters that are trained, in memory and in a checkpoint."""
    matrices = {id(p) for p in model.h.parameters() if p.dim() == 2}
    return sum(_bytes_for(p, settings, id(p) in matrices) for p in model.parameters() if p.requires_grad)


def _bytes_for(p: nn.Parameter, settings: OptimSettings, in_block: bool) -> int:
    """In fp32 but for what 8 bits keep: two bytes a weight, and two scales for each 256 of them."""
    n = p.numel()
    if settings.name == "adafactor":
        return 4 * (sum(p.shape) if p.dim() == 2 else n)
    if settings.name == "adamw8bit" and n >= 4096:  # smaller ones stay in fp32
        return 2 * n + 8 * math.ceil(n / 256)
    one = settings.name in ("lion", "sgd") or (settings.name == "muon" and in_block)
    return (0 if settings.momentum == 0 else 4 * n) if one else 8 * n
