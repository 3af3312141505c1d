"""Rotation of queries and keys by their positions (Su et al. 2021). N tokens, D channels of a head."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ift.model.config import Rope


class Rotary:
    """Rotation of the first 2F channels of a head by position; channel i turns with channel F + i (Su et al. 2021).

    Angles, cosines and sines are fp32 whatever the type of the states.
    """

    def __init__(self, rope: Rope):
        self.rope = rope
        self.frequencies = frequencies(rope)  # (F,) angle of each pair for one position
        self.long = frequencies(rope, long=True) if rope.long else None  # of rows of more than rope.original tokens

    def turns(self, positions: Tensor, lengths: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
        """(N,) positions -> cosines and signed sines as `rotate` takes them, (N, 1, 2F) each: alike for all heads.

        lengths: (N,) tokens of the row of each, or one number for all; None: each is the last of its row
        """
        if self.frequencies.device != positions.device:
            self.frequencies = self.frequencies.to(positions.device)
        turn: Tensor = self.frequencies
        if self.long is not None:
            self.long = self.long.to(positions.device)
            lengths = positions + 1 if lengths is None else torch.as_tensor(lengths, device=positions.device)
            turn = torch.where((lengths > self.rope.original).view(-1, 1, 1), self.long, turn)
        angles = positions.float()[:, None, None] * turn
        cos, sin = angles.cos() * self.rope.scale, angles.sin() * self.rope.scale
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def frequencies(rope: Rope, *, long: bool = False) -> Tensor:
    """(F,) angles for one position, in fp32 and in the order of operations in which published models have them.

    On a CPU also where a model is built without memory (torch.device("meta")).
    """
    channels = torch.arange(0, rope.channels, 2, dtype=torch.int64, device="cpu").float() / rope.channels
    plain = 1.0 / (rope.theta**channels)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.long if long else rope.short, device="cpu") * rope.theta**channels)
    if rope.kind == "llama3":
        turns = rope.original * plain / (2 * math.pi)  # in the original context
        kept = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
        return (1 - kept) * plain / rope.factor + kept * plain
    if rope.kind == "yarn":

        def channel(turns: float) -> float:
            """The pair that makes so many turns in the original context."""
            return rope.channels * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

        first, last = channel(rope.high), channel(rope.low)
        first, last = (math.floor(first), math.ceil(last)) if rope.rounded else (first, last)
        first, last = max(first, 0), min(last, rope.channels - 1)
        ramp = (torch.arange(len(plain), device="cpu") - first) / (last - first if last != first else 0.001)
        divided = ramp.clamp(0, 1)
        return plain / rope.factor * divided + plain * (1 - divided)
    return plain


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """(..., N, heads, D) states by the turns of their N positions; channels after the first 2F stay as they are."""
    if torch.is_grad_enabled() and x.requires_grad:
        rotated: Tensor = _Rotation.apply(x, *turns)  # type: ignore[no-untyped-call]
        return rotated
    return _rotate(x, *turns)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Over whole heads, not halves: passes over rows of 32 numbers take twice the time."""
    turning = cos.shape[-1]
    part = x[..., :turning].float()
    other = part.unflatten(-1, (2, turning // 2))  # type: ignore[no-untyped-call]
    other = other.flip(-2).flatten(-2)  # of each channel, the one that it turns with
    turned = torch.addcmul(part * cos, other, sin).to(x.dtype)
    return turned if turning == x.shape[-1] else torch.cat([turned, x[..., turning:]], dim=-1)


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back; nothing of the states is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, -sin), None, None
