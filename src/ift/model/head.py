"""The head and the cross-entropy over supervised tokens, a chunk of rows at a time: the logits never exist as a whole.

S supervised tokens, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ift.model.linear import Linear

CHUNK = 512  # rows of logits that exist together: enough for full speed of the products, 103 MB in fp32
TILE = 32  # rows that go through the softmax together on a CPU: they stay in its cache
STRIDE = 64  # a row of logits begins at a multiple of it: 50,257 is odd, and products read odd rows a fifth slower


def head_loss(hidden: Tensor, targets: Tensor, head: Linear) -> tuple[Tensor, Tensor]:
    """(S, C) states and their (S,) targets -> cross-entropy summed in fp32, and how many the model had as its first.

    The gradient is made in the forward, while a chunk's logits are there: three products as in a plain head, none of
    them twice, and memory for one chunk (as in Liger's fused linear cross-entropy, Hsu et al. 2024, arXiv:2410.10989).
    """
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or head.weight.requires_grad)
    loss, correct = _HeadLoss.apply(hidden, head.weight, targets, head.weight_to_compute(), wanted)  # type: ignore[no-untyped-call]
    return loss, correct


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, copy: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        losses, correct = [hidden.new_zeros(1, dtype=torch.float32)], targets.new_zeros(())
        low, vocabulary = hidden.to(copy.dtype), len(copy)
        d_hidden = torch.empty_like(low) if wanted else None
        d_weight: Tensor | None = None
        # what stands behind the vocabulary is zero, logits and gradient
        room = copy.new_zeros(min(CHUNK, len(low)), -(-vocabulary // STRIDE) * STRIDE)
        for chunk in _slices(len(low), CHUNK):
            rows = room[: len(low[chunk])]
            logits = torch.mm(low[chunk], copy.t(), out=rows[:, :vocabulary])
            for tile in _slices(len(logits), TILE if low.device.type == "cpu" else CHUNK):
                loss, right = _softmax(logits[tile], targets[chunk][tile], wanted)
                losses.append(loss)
                correct += right
            if d_hidden is not None:
                torch.mm(logits, copy, out=d_hidden[chunk])
                product = (rows.t() @ low[chunk])[:vocabulary].to(weight.dtype)
                d_weight = product if d_weight is None else d_weight.add_(product)
        if wanted and d_weight is None:
            d_weight = torch.zeros_like(weight)
        ctx.gradients, ctx.dtype = (d_hidden, d_weight), hidden.dtype
        ctx.mark_non_differentiable(correct)
        return torch.cat(losses).sum(), correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_weight = ctx.gradients
        ctx.gradients = None
        if gradient.is_cuda or gradient.item() != 1:  # one: what a step without accumulation has
            d_hidden, d_weight = d_hidden * gradient, d_weight.mul_(gradient)
        return d_hidden.to(ctx.dtype), d_weight, None, None, None


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, length)) for at in range(0, length, step))


def _softmax(logits: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Loss of each row, and how many have their target as the largest; logits become their gradient if it is wanted."""
    scores = logits.float()
    largest, first = scores.max(dim=-1)
    at_target = scores.gather(1, targets[:, None])[:, 0]
    if not wanted:
        return torch.logsumexp(scores, dim=-1) - at_target, (first == targets).sum()
    scores = torch.softmax(scores, dim=-1)
    # the largest has the probability exp(0) / sum(exp(x - max)): one pass gives the log of the sum too
    loss = largest - scores.gather(1, first[:, None])[:, 0].log() - at_target
    scores[torch.arange(len(targets), device=targets.device), targets] -= 1
    logits.copy_(scores)
    return loss, (first == targets).sum()
