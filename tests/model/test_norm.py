"""The norms: the passes of our own backward are those of torch's, in fewer."""

import pytest
import torch
import torch.nn.functional as F

from ift.model.norm import RMSNorm

EPS = 1e-2  # large enough to be seen


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6), (0, 6)])
def test_rms_norm_and_its_gradients_are_torchs(shape, offset):
    norm = RMSNorm(6, EPS, offset)
    torch.nn.init.normal_(norm.weight)
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)

    def plain(x, weight):
        return F.rms_norm(x, (6,), weight + offset, EPS)

    torch.testing.assert_close(norm(x), plain(x, norm.weight), atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        alone = norm(x)
    assert torch.equal(norm(x), alone)
    ours = torch.autograd.grad(norm(x), (x, norm.weight), g)
    theirs = torch.autograd.grad(plain(x, norm.weight), (x, norm.weight), g)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_of_frozen_weights_or_states_no_gradient_is_made():
    norm, x = RMSNorm(6, EPS, 0.0), torch.randn(5, 6, requires_grad=True)
    (whole,) = torch.autograd.grad(norm(x).square().sum(), x)
    norm.requires_grad_(False)
    (alone,) = torch.autograd.grad(norm(x).square().sum(), x)
    assert torch.equal(whole, alone)
    norm.requires_grad_(True)
    norm(x.detach()).sum().backward()
    torch.testing.assert_close(norm.weight.grad, F.rms_norm(x, (6,), eps=EPS).sum(0))


def test_nothing_but_the_states_the_weight_and_a_number_a_row_is_kept_for_the_backward():
    norm, x = RMSNorm(6, EPS, 0.0), torch.randn(5, 6, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm(x)
    assert [t.data_ptr() for t in kept[:2]] == [x.data_ptr(), norm.weight.data_ptr()]
    assert [t.numel() for t in kept[2:]] == [5]
