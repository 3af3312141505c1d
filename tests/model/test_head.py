"""The head in chunks: the same loss and gradients as all logits at once."""

import pytest
import torch
import torch.nn.functional as F

from ift.model.head import CHUNK, TILE, head_loss
from ift.model.linear import Linear, compute_in

WIDTH, VOCABULARY = 8, 37


def problem(rows: int):
    torch.manual_seed(rows)
    head = Linear(WIDTH, VOCABULARY, bias=False)
    return torch.randn(rows, WIDTH, requires_grad=True), torch.randint(VOCABULARY, (rows,)), head


def whole(hidden, targets, head):
    logits = F.linear(hidden, head.weight)
    return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()


def gradients(loss, hidden, head, factor=1.0):
    hidden.grad = head.weight.grad = None
    (loss * factor).backward()
    return hidden.grad.clone(), head.weight.grad.clone()


@pytest.mark.parametrize("rows", [1, TILE - 1, TILE + 1, CHUNK, 2 * CHUNK + TILE + 3])
def test_loss_hits_and_gradients_are_those_of_all_logits_at_once(rows):
    hidden, targets, head = problem(rows)
    (loss, correct), (expected, expected_correct) = head_loss(hidden, targets, head), whole(hidden, targets, head)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert correct.item() == expected_correct.item()
    for factor in (1.0, 3.0):  # accumulation scales the loss
        ours = gradients(head_loss(hidden, targets, head)[0], hidden, head, factor)
        theirs = gradients(whole(hidden, targets, head)[0], hidden, head, factor)
        for found, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, wanted, atol=3e-5, rtol=1e-5)  # sums over all rows


def test_the_gradient_is_the_slope_of_the_loss():
    hidden, targets, head = problem(3)
    d_hidden, _ = gradients(head_loss(hidden, targets, head)[0], hidden, head)
    with torch.no_grad():
        up, down = hidden.double().clone(), hidden.double().clone()
        up[1, 2] += 1e-4
        down[1, 2] -= 1e-4
        weight = head.weight.double()
        slope = [F.cross_entropy(x @ weight.t(), targets, reduction="sum") for x in (up, down)]
    assert d_hidden[1, 2].item() == pytest.approx((slope[0] - slope[1]).item() / 2e-4, abs=1e-5)


def test_nothing_supervised_is_a_loss_of_zero_with_a_gradient_of_zero():
    hidden, targets, head = problem(4)
    loss, correct = head_loss(hidden[:0], targets[:0], head)
    loss.backward()
    assert (loss.item(), correct.item()) == (0, 0)
    assert not hidden.grad.any()
    assert not head.weight.grad.any()


def test_without_gradients_nothing_is_kept_and_the_loss_is_the_same():
    hidden, targets, head = problem(CHUNK + 5)
    expected = head_loss(hidden, targets, head)[0].item()
    with torch.no_grad():
        loss, _ = head_loss(hidden, targets, head)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_logits_far_apart_overflow_nothing():
    hidden, targets, head = problem(5)
    with torch.no_grad():
        hidden.mul_(1e4)
    loss, _ = head_loss(hidden, targets, head)
    assert loss.item() == pytest.approx(whole(hidden, targets, head)[0].item(), rel=1e-6)


def test_bf16_is_near_fp32_with_gradients_in_fp32():
    hidden, targets, head = problem(50)
    expected = gradients(head_loss(hidden, targets, head)[0], hidden, head)
    loss = head_loss(hidden, targets, head)[0].item()
    compute_in(head, torch.bfloat16)
    low = head_loss(hidden, targets, head)[0]
    assert (low.dtype, low.item()) == (torch.float32, pytest.approx(loss, rel=0.01))
    for found, wanted in zip(gradients(low, hidden, head), expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()
