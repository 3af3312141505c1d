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
        if x.is_cuda or not torch.is_grad_enabled():
            return F.rms_norm(x, weight.shape, weight, self.eps)
        y: Tensor = _RMSNorm.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        return y


def norm(config: GPTConfig, width: int) -> nn.Module:
    if config.norm == "layer":
        return nn.LayerNorm(width, eps=config.norm_eps)
    return RMSNorm(width, config.norm_eps, config.norm_offset)


class _RMSNorm(torch.autograd.Function):
    """torch's rms_norm, whose backward on a CPU is a dozen passes that keep copies of x: here x alone, and four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """With r = 1 / sqrt(mean of x² + eps): of x g w r - x r³ (mean of g w x), of w the sum over rows of g x r."""
        saved, weight = ctx.saved_tensors
        x, g = saved.reshape(-1, saved.shape[-1]), gradient.reshape(-1, saved.shape[-1])
        r = (torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1] + ctx.eps).rsqrt()
        products = g * x
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = (g * weight).mul_(r[:, None])
            back = r.pow(3) * (products @ weight) / x.shape[-1]
            d_x = d_x.addcmul_(x, back[:, None], value=-1).view(saved.shape)
        if ctx.needs_input_grad[1]:
            d_weight = r @ products
        return d_x, d_weight, None
