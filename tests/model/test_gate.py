"""The gate's own backward is torch's, in fewer passes."""

import pytest
import torch
import torch.nn.functional as F

from ift.model.gate import TILE, gated


def plain(x, activation):
    a, b = x.chunk(2, dim=-1)
    return activation(a) * b


@pytest.mark.parametrize("activation", [F.silu, F.gelu])
@pytest.mark.parametrize("shape", [(2 * TILE + 3, 10), (2, 3, 10), (0, 10)])
def test_the_gate_and_its_gradient_are_torchs(shape, activation):
    torch.manual_seed(0)
    x, g = 4 * torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 5)
    found, expected = gated(x, activation), plain(x, activation)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    ours, theirs = (torch.autograd.grad(y, x, g)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_far_from_zero_nothing_overflows():
    x = torch.tensor([[-200.0, -30.0, 0.0, 30.0, 200.0, *[2.0] * 5]], requires_grad=True)
    y = gated(x, F.silu)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y[0], torch.tensor([0.0, 0.0, 0.0, 60.0, 400.0]))
    torch.testing.assert_close(slope[0, :5], torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0]))


def test_without_a_gradient_and_in_other_types_it_is_torchs_to_the_bit():
    x = torch.randn(7, 10)
    assert torch.equal(gated(x, F.silu), plain(x, F.silu))
    low = x.bfloat16().requires_grad_()
    assert torch.equal(gated(low, F.silu), plain(low, F.silu))


def test_no_more_is_kept_for_the_backward_than_torch_keeps():
    x, kept = torch.randn(7, 10, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        gated(x, F.silu)
    assert sorted(kept) == [7 * 5, 7 * 10]
