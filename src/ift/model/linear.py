"""Matrix products in bf16 with fp32 master weights: parameters, their gradients and the optimizer never leave fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.slices import is_slice


class Linear(nn.Linear):
    """torch's own, computing in another type where `compute_in` has set one.

    The weights are cast in each forward, and the backward reads that cast: nothing is kept in between, so nothing can
    be out of date. One cast costs as much as the product of a few tokens; where few are computed at a time, `prepared`
    holds the casts.
    """

    compute_dtype = torch.float32
    _held: Tensor | None = None  # by `prepared`, and only as long as it lasts

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model: a held cast stays with the weights that it was made of."""
        return {name: value for name, value in self.__dict__.items() if name != "_held"}

    def weight_to_compute(self) -> Tensor:
        """The weights as the products read them, without a gradient."""
        if self._held is not None and not torch.is_grad_enabled():
            return self._held
        return self.weight.detach().to(self.compute_dtype)

    @property
    def worth_holding(self) -> bool:
        """Whether reading the weights costs more than a look at them; slices of them are gathered in their own time."""
        return self.weight.dtype != self.compute_dtype and not is_slice(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == self.compute_dtype:
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        low = self.weight_to_compute()
        if not torch.is_grad_enabled():  # a step of an answer has a hundred products, each as short as the detour
            return F.linear(x.to(low.dtype), low, None if self.bias is None else self.bias.to(low.dtype))
        out: Tensor = _Product.apply(x, self.weight, self.bias, low)  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    """x W' + b in the type of `low`, which is W cast to it; the gradients of W and b in theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor) -> Tensor:
        x_low = x.to(low.dtype)
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x_low if needs_weight else None, low if needs_x else None)
        ctx.dtypes = x.dtype, weight.dtype
        return F.linear(x_low, low, None if bias is None else bias.to(low.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, low = ctx.saved_tensors
        x_dtype, dtype = ctx.dtypes
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        d_x = (gradient @ low).to(x_dtype) if needs_x else None
        d_bias = rows.sum(dim=0, dtype=dtype) if needs_bias else None
        d_weight = (rows.t() @ x.reshape(-1, x.shape[-1])).to(dtype) if needs_weight else None
        return d_x, d_weight, d_bias, None


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """What the matrix products of a model are computed in from now on; weights stay as they are."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute_dtype = dtype


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Cast each weight once for all that is computed without gradients inside: an answer has a forward for each token.

    The weights must not change meanwhile. At the end the casts are dropped, so the next time sees the weights as they
    are then. Whatever is computed with gradients casts anew, inside too; a second one inside the first adds nothing.
    """
    layers = []
    try:
        for layer in model.modules():
            if isinstance(layer, Linear) and layer._held is None and layer.worth_holding:
                layers.append(layer)
                layer._held = layer.weight_to_compute()
        yield
    finally:
        for layer in layers:
            layer._held = None
