"""Matrix products in bf16 with fp32 master weights: parameters, their gradients and the optimizer never leave fp32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_optimizer_steps = 0  # of this process: torch's fused optimizers change weights without counting a new version of them


def _count_step(*args: Any) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


class Linear(nn.Linear):
    """torch's own, computing in another type when it is told to.

    The copy of the weights that the products read is made again when the weights have changed, once an optimizer step;
    autocast would make it in every forward. It is no buffer: checkpoints, DDP and .to() know nothing of it.
    """

    compute_dtype = torch.float32
    _copy: Tensor | None = None
    _copied = (-1, -1)  # version of the weights that were copied, and steps at that time

    def weight_to_compute(self) -> Tensor:
        """The weights as the products read them, without a gradient."""
        weight = self.weight.detach()
        if weight.dtype == self.compute_dtype:
            return weight
        if self._copy is None or self._copy.device != weight.device or self._copy.dtype != self.compute_dtype:
            self._copy, self._copied = torch.empty_like(weight, dtype=self.compute_dtype), (-1, -1)
        now = (self.weight._version, _optimizer_steps)
        if self._copied != now:
            self._copied = now
            self._copy.copy_(weight)
        return self._copy

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == self.compute_dtype:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _Product.apply(x, self.weight, self.bias, self.weight_to_compute())  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    """x W' + b in the type of `copy`; the gradients of W and b in theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor) -> Tensor:
        x_low = x.to(copy.dtype)
        ctx.save_for_backward(x_low, copy)
        ctx.dtypes = x.dtype, weight.dtype, bias is not None
        return F.linear(x_low, copy, None if bias is None else bias.to(copy.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, copy = ctx.saved_tensors
        x_dtype, dtype, has_bias = ctx.dtypes
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        d_x = (gradient @ copy).to(x_dtype)
        d_bias = rows.sum(dim=0, dtype=dtype) if has_bias else None
        return d_x, (rows.t() @ inputs).to(dtype), d_bias, None


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """What the matrix products of a model are computed in from now on; weights stay as they are."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute_dtype, module._copy = dtype, None
