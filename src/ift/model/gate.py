"""The gate of an MLP: the activation of one product times another (Shazeer 2020). M channels of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 64  # rows that go through all passes together: they stay in the processor's cache


def gated(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """(..., 2M) -> (..., M), the activation of the first half times the second."""
    trains = torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling()
    if activation is F.silu and trains and x.dtype == torch.float32 and not x.is_cuda:
        y: Tensor = _SiluGate.apply(x)  # type: ignore[no-untyped-call]
        return y
    gate, up = x.chunk(2, dim=-1)
    return activation(gate) * up


class _SiluGate(torch.autograd.Function):
    """With s = sigmoid(a): a s b; its gradients are g b (a s (1 - s) + s) and g a s.

    torch keeps silu(a) and computes the exponential again in the backward, which is most of the time without AVX-512;
    here s is kept in its place, the passes go over rows in the cache, and both gradients are written where they belong.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        s, out = (rows.new_empty(len(rows), rows.shape[1] // 2) for _ in range(2))
        for row, to_s, to in zip(*(torch.split(part, TILE) for part in (rows, s, out)), strict=True):
            a, b = row.chunk(2, dim=1)
            torch.sigmoid(a, out=to_s)
            torch.mul(a, to_s, out=to).mul_(b)
        ctx.save_for_backward(x, s)
        return out.view(*x.shape[:-1], out.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        rows, g = x.reshape(-1, x.shape[-1]), gradient.reshape(s.shape)
        d, one = torch.empty_like(rows), s.new_ones(())
        for row, of_s, of_g, to in zip(*(torch.split(part, TILE) for part in (rows, s, g, d)), strict=True):
            (a, b), (d_a, d_b) = row.chunk(2, dim=1), to.chunk(2, dim=1)
            silu = a * of_s
            torch.mul(silu, of_g, out=d_b)
            slope = torch.lerp(silu, one, of_s, out=silu)
            torch.mul(slope.mul_(of_g), b, out=d_a)
        return d.view(x.shape)
