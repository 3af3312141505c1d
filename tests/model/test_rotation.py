"""Rotation by positions: against complex numbers, and its gradient against that of the formula."""

import pytest
import torch

from ift.model.config import Rope
from ift.model.rotation import Rotary, rotate

D = 10  # channels of a head, of which six turn
ROTARY = Rotary(Rope(theta=100.0, channels=6, scale=1.25))


def turned(x, positions):
    """(T, heads, D): channel i with channel 3 + i by position * frequency, as a complex number."""
    pairs = torch.complex(x[..., :3], x[..., 3:6])
    angles = positions[:, None, None] * ROTARY.frequencies
    pairs = pairs * torch.polar(torch.full_like(angles, 1.25), angles)
    return torch.cat([pairs.real, pairs.imag, x[..., 6:]], dim=-1)


def test_rotation_is_fp32_and_leaves_what_is_not_turned():
    x = torch.randn(5, 2, D)
    low = rotate(x.bfloat16(), ROTARY.turns(torch.arange(5)))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), turned(x, torch.arange(5.0)), atol=0.03, rtol=0.01)
    assert torch.equal(low[..., 6:], x.bfloat16()[..., 6:])
    cos, sin = ROTARY.turns(torch.tensor([30_000]).bfloat16().long())
    assert cos.dtype == sin.dtype == torch.float32
    assert torch.allclose(cos.square() + sin.square(), torch.tensor(1.25**2))


@pytest.mark.parametrize("channels", [6, 10])
def test_the_gradient_of_a_rotation_is_that_of_its_formula(channels):
    rotary = Rotary(Rope(theta=100.0, channels=channels, scale=1.25))
    x, g = torch.randn(5, 2, D, requires_grad=True), torch.randn(5, 2, D)
    angles = torch.arange(5.0)[:, None, None] * rotary.frequencies
    cos, sin, half = angles.cos() * 1.25, angles.sin() * 1.25, channels // 2
    first, second, rest = x[..., :half], x[..., half:channels], x[..., channels:]
    plain = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    found = rotate(x, rotary.turns(torch.arange(5)))
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, g)[0] for y in (found, plain)))
