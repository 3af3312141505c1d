"""The two norms that decoders have. N rows, C channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.config import GPTConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean of x² + eps), each channel times its weight + offset (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float, offset: float):
        super().__init__()
        self.weight, self.eps, self.offset = nn.Parameter(torch.full((width,), 1 - offset)), eps, offset

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.offset if self.offset else self.weight
        x = x.to(weight.dtype)
        if x.is_cuda:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        if not torch.is_grad_enabled():
            return _rms_norm(x, weight, self.eps)[0]
        y: Tensor = _RMSNorm.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        return y


def norm(config: GPTConfig, width: int) -> nn.Module:
    if config.norm == "layer":
        return nn.LayerNorm(width, eps=config.norm_eps)
    return RMSNorm(width, config.norm_eps, config.norm_offset)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x r w, and r = 1 / sqrt(mean of x² + eps), (..., 1).

    Three passes; torch's rms_norm is half a dozen on a CPU.
    """
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * r).mul_(weight), r


class _RMSNorm(torch.autograd.Function):
    """Keeps x and r alone: the backward of torch's own on a CPU is a dozen passes that keep copies of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, r = _rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Of x: g w r - x r³ (mean of g w x); of w: the sum over rows of g x r."""
        saved, weight, by_row = ctx.saved_tensors
        width = saved.shape[-1]
        x, g, r = saved.reshape(-1, width), gradient.reshape(-1, width), by_row.reshape(-1, 1)
        products = g * x
        d_weight = r[:, 0] @ products if ctx.needs_input_grad[1] else None
        d_x = None
        if ctx.needs_input_grad[0]:
            back = r.pow(3).mul_((products @ weight)[:, None]).div_(-width)
            d_x = torch.mul(x, back, out=products).addcmul_(g * r, weight).view(saved.shape)
        return d_x, d_weight, None
