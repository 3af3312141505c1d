"""The head and the cross-entropy over supervised tokens, a chunk of rows at a time: the logits never exist as a whole.

S supervised tokens, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ift.model.linear import Linear

CHUNK = 512  # rows of logits that exist together: enough for full speed of the products, 103 MB in fp32
TILE = 32  # rows that go through the softmax together on a CPU: they stay in its cache
STRIDE = 64  # a row of logits begins at a multiple of it: 50,257 is odd, and products read odd rows a fifth slower


def head_loss(
    hidden: Tensor,
    targets: Tensor,
    head: Linear,
    label_smoothing: float = 0.0,
    cap: float | None = None,
    own: OwnRows | None = None,
) -> tuple[Tensor, Tensor]:
    """(S, C) states and their (S,) targets -> summed cross-entropy (fp32), how many targets have the largest logit.

    The gradient is made in the forward, while a chunk's logits are there: three products as in a plain head, none of
    them twice, and memory for one chunk (as in Liger's fused linear cross-entropy, Hsu et al. 2024, arXiv:2410.10989).
    A frozen head costs two products, frozen states too.

    label_smoothing: the share of each target that goes to all of the vocabulary alike, as in torch's cross_entropy
    cap: logits x become cap * tanh(x / cap)
    own: rows that stand in place of the weight's
    """
    rows = None if own is None else own.rows
    trained = (hidden, head.weight, head.bias, rows)
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in trained]
    logits = Logits.of(head, cap, own)
    loss, correct = _Sum.apply(*trained, targets, logits, needs, label_smoothing)  # type: ignore[no-untyped-call]
    return loss, correct


def head_losses(
    hidden: Tensor, targets: Tensor, head: Linear, cap: float | None = None, own: OwnRows | None = None
) -> Tensor:
    """(S, C) states and their (S,) targets -> (S,) cross-entropy of each in fp32, to be weighted in any way.

    The backward computes a chunk's logits again: a product more than `head_loss`, and memory for one chunk.
    """
    rows = None if own is None else own.rows
    logits = Logits.of(head, cap, own)
    losses: Tensor = _Each.apply(hidden, head.weight, head.bias, rows, targets, logits)  # type: ignore[no-untyped-call]
    return losses


class OwnRows(NamedTuple):
    """Rows of the head that stand in place of the weight's: theirs alone are trained where the weight is frozen."""

    ids: Tensor  # (R,) of the vocabulary
    rows: Tensor  # (R, C)


class Logits(NamedTuple):
    """How states become logits."""

    low: Tensor  # (V, C) the weight in the type that products are computed in
    bias: Tensor | None  # (V,)
    cap: float | None
    own: OwnRows | None = None  # in that type too

    @classmethod
    def of(cls, head: Linear, cap: float | None, own: OwnRows | None) -> Logits:
        low = head.weight_to_compute()
        return cls(low, head.bias, cap, own and OwnRows(own.ids, own.rows.detach().to(low.dtype)))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        own: Tensor | None,
        targets: Tensor,
        head: Logits,
        needs: list[bool],
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        losses, correct = [hidden.new_zeros(1, dtype=torch.float32)], targets.new_zeros(())
        states = hidden.to(head.low.dtype)
        gradients = _Gradients(states, head, weight.dtype, needs)
        for chunk, rows in _logits(states, head):
            for tile in _tiles(chunk, states.device):
                loss, right = _softmax(
                    rows[tile, : len(head.low)],
                    targets[chunk][tile],
                    gradient=any(needs),
                    smoothing=smoothing,
                    cap=head.cap,
                )
                losses.append(loss)
                correct += right
            gradients.add(chunk, rows)
        ctx.gradients, ctx.dtype = gradients.done(), hidden.dtype
        ctx.mark_non_differentiable(correct)
        return torch.cat(losses).sum(), correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, *others = ctx.gradients
        ctx.gradients = None
        if gradient.is_cuda or gradient.item() != 1:  # one: what a step without accumulation has
            d_hidden = None if d_hidden is None else d_hidden * gradient
            others = [None if d is None else d.mul_(gradient) for d in others]
        return None if d_hidden is None else d_hidden.to(ctx.dtype), *others, None, None, None, None


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        own: Tensor | None,
        targets: Tensor,
        head: Logits,
    ) -> Tensor:
        states = hidden.to(head.low.dtype)
        ctx.save_for_backward(states, targets, head.low, bias, *(head.own or ()))
        ctx.dtypes, ctx.cap = (hidden.dtype, weight.dtype), head.cap
        losses = torch.empty(len(states), device=states.device)
        for chunk, rows in _logits(states, head):
            for tile in _tiles(chunk, states.device):
                losses[chunk][tile], _ = _softmax(
                    rows[tile, : len(head.low)], targets[chunk][tile], gradient=False, cap=head.cap
                )
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, targets, low, bias, *own = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        head = Logits(low, bias, ctx.cap, OwnRows(*own) if own else None)
        gradients = _Gradients(states, head, weight_dtype, ctx.needs_input_grad[:4])
        for chunk, rows in _logits(states, head):
            for tile in _tiles(chunk, states.device):
                factors = gradient[chunk][tile]
                _softmax(rows[tile, : len(low)], targets[chunk][tile], gradient=True, factors=factors, cap=ctx.cap)
            gradients.add(chunk, rows)
        d_hidden, *others = gradients.done()
        return None if d_hidden is None else d_hidden.to(dtype), *others, None, None


class _Gradients:
    """Of states, weights, bias and own rows, from chunks of the gradient of the logits; None for what needs none.

    The gradient of a row of the weight that another stands for is that of the other: such a weight is frozen.
    """

    def __init__(self, states: Tensor, head: Logits, dtype: torch.dtype, needs: Any):
        low, own = head.low, head.own
        self.states, self.low, self.dtype, self.own = states, low, dtype, own
        needs_hidden, needs_weight, needs_bias, needs_own = needs
        # what a row differs by from the one that it stands for
        self.differences = None if own is None else own.rows - low[own.ids]
        self.rows = torch.zeros_like(own.rows, dtype=dtype) if own is not None and needs_own else None
        self.hidden = torch.empty_like(states) if needs_hidden else None
        self.weight: Tensor | None = None
        self.needs_weight = needs_weight
        self.bias = torch.zeros(len(low), dtype=dtype, device=low.device) if needs_bias else None

    def add(self, chunk: slice, rows: Tensor) -> None:
        if self.hidden is not None:
            torch.mm(rows[:, : len(self.low)], self.low, out=self.hidden[chunk])
        if self.own is not None and self.differences is not None:
            of_own = rows[:, self.own.ids]
            if self.hidden is not None:
                self.hidden[chunk].addmm_(of_own, self.differences)
            if self.rows is not None:
                self.rows += of_own.t() @ self.states[chunk]
        if self.needs_weight:
            product = (rows.t() @ self.states[chunk])[: len(self.low)].to(self.dtype)
            self.weight = product if self.weight is None else self.weight.add_(product)
        if self.bias is not None:
            self.bias += rows[:, : len(self.low)].sum(dim=0, dtype=self.dtype)

    def done(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        if self.needs_weight and self.weight is None:  # no target at all
            self.weight = torch.zeros_like(self.low, dtype=self.dtype)
        return self.hidden, self.weight, self.bias, self.rows


def _logits(states: Tensor, head: Logits) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of rows and its logits, not capped yet, in one memory for all; what stands behind the vocabulary is
    zero."""
    low, vocabulary = head.low, len(head.low)
    room = low.new_zeros(min(CHUNK, len(states)), -(-vocabulary // STRIDE) * STRIDE)
    for chunk in _slices(len(states), CHUNK):
        rows = room[: chunk.stop - chunk.start]
        torch.mm(states[chunk], low.t(), out=rows[:, :vocabulary])
        if head.own is not None:
            rows[:, head.own.ids] = states[chunk] @ head.own.rows.t()
        if head.bias is not None:
            rows[:, :vocabulary] += head.bias
        yield chunk, rows


def _tiles(chunk: slice, device: torch.device) -> Iterator[slice]:
    return _slices(chunk.stop - chunk.start, TILE if device.type == "cpu" else CHUNK)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, length)) for at in range(0, length, step))


def _softmax(
    logits: Tensor,
    targets: Tensor,
    *,
    gradient: bool,
    factors: Tensor | None = None,
    smoothing: float = 0.0,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of each row, and how many targets have the largest logit.

    gradient: the logits become the gradient of their losses, each row multiplied by its factor where there are some
    cap: the logits are capped first, and the gradient is that of the logits before
    smoothing: label smoothing; the loss is log sum exp x - (1 - smoothing) x[target] - smoothing mean x
    """
    scores, slope = logits.float(), None
    if cap is not None:
        bent = torch.tanh(scores / cap)
        scores, slope = bent * cap, 1 - bent * bent
    largest, first = scores.max(dim=-1)
    at_target = scores.gather(1, targets[:, None])[:, 0]
    if smoothing:
        at_target = torch.lerp(at_target, scores.mean(dim=-1), smoothing)
    if not gradient:
        return torch.logsumexp(scores, dim=-1) - at_target, (first == targets).sum()
    scores = torch.softmax(scores, dim=-1)
    # the largest has the probability exp(0) / sum(exp(x - max)): one pass gives the log of the sum too
    loss = largest - scores.gather(1, first[:, None])[:, 0].log() - at_target
    if smoothing:
        scores -= smoothing / scores.shape[1]
    scores[torch.arange(len(targets), device=targets.device), targets] -= 1 - smoothing
    if slope is not None:
        scores *= slope
    logits.copy_(scores if factors is None else scores * factors[:, None])
    return loss, (first == targets).sum()
