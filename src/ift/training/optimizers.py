"""The optimizers that `optim=NAME` chooses from: torch's own, bitsandbytes' for 8 bits, and Lion, which neither has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ift.errors import ConfigError, missing_extra
from ift.model.gpt import GPT
from ift.model.parts import layers_above, parts_of
from ift.settings import OptimSettings


def make_optimizer(model: GPT, settings: OptimSettings) -> torch.optim.Optimizer:
    """Of what is trained. Weight decay on matrices only (embeddings included), or on all parameters with decay=all.

    Each layer below the top one has its own rate where optim.layer_decay is set. Raises MachineError where a package is
    missing, ConfigError where Muon has no matrix to train.
    """
    trained = shares(model, settings.layer_decay)
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


Shares = list[tuple[nn.Parameter, float]]  # what is trained, and its share of optim.lr


def shares(model: GPT, decay: float | None) -> Shares:
    """Layer-wise decay of the rate (Howard & Ruder 2018, arXiv:1801.06146; as in BEiT, arXiv:2106.08254).

    3 layers, decay 0.5: 1 for the head, the last norm and h.2, 0.5 for h.1, 0.25 for h.0, 0.125 for embeddings. A head
    that is the embedding has the embedding's.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [(p, 1.0 if decay is None else decay ** layers_above(model, name)) for name, p in named]


def show_rates(model: GPT, settings: OptimSettings) -> str:
    """A line that says which part has which rate, from the embeddings to the head."""
    names, parts = {id(p): name for name, p in model.named_parameters()}, dict[float, list[str]]()
    for p, share in sorted(shares(model, settings.layer_decay), key=lambda each: each[1]):
        its = parts.setdefault(share, [])
        its += parts_of(model, names[id(p)])
    words = [f"{settings.lr * share:.3g} {' and '.join(dict.fromkeys(its))}" for share, its in parts.items()]
    words = words if len(words) <= 5 else [*words[:2], "...", *words[-2:]]
    return f"rates     {', '.join(words)} (optim.layer_decay={settings.layer_decay:g})"


def _groups(trained: Shares, settings: OptimSettings) -> list[dict[str, Any]]:
    """What decays and what does not, of one rate after the other, the highest first; only what there is."""
    groups = []
    for share, decays in ((share, decays) for share in _falling(trained) for decays in (True, False)):
        its = [p for p, of in trained if of == share and (p.dim() >= 2 or settings.decay == "all") == decays]
        decay = settings.weight_decay if decays else 0.0
        groups.append({"params": its, "weight_decay": decay, "lr": settings.lr * share})
    return [group for group in groups if group["params"]]


def _falling(trained: Iterable[tuple[nn.Parameter, float]]) -> list[float]:
    return sorted({share for _, share in trained}, reverse=True)


def _adamw(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=_betas(settings), eps=_given(settings.eps), fused=True
    )  # fmt: skip


def _muon(model: GPT, trained: Shares, settings: OptimSettings) -> torch.optim.Optimizer:
    in_blocks = {id(p) for p in model.h.parameters() if p.dim() == 2}
    matrices = [each for each in trained if id(each[0]) in in_blocks]
    if not matrices:
        raise ConfigError("optim=muon: no matrix of a block is trained (optim=adamw trains what model.freeze leaves)")
    muon = torch.optim.Muon(
        [
            {"params": [p for p, of in matrices if of == share], "lr": settings.lr * share}
            for share in _falling(matrices)
        ],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=_given(settings.momentum),
        adjust_lr_fn="match_rms_adamw",
    )
    rest = _groups([each for each in trained if id(each[0]) not in in_blocks], settings)
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
