"""The head in chunks: the same loss and gradients as all logits at once."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ift.model.head import CHUNK, TILE, head_loss, head_losses
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


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
@pytest.mark.parametrize("rows", [3, CHUNK + TILE + 3])
def test_smoothed_labels_are_those_of_torchs_cross_entropy(rows, smoothing):
    hidden, targets, head = problem(rows)
    logits = F.linear(hidden, head.weight)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    theirs = gradients(expected, hidden, head)
    loss, correct = head_loss(hidden, targets, head, smoothing)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert correct == (logits.argmax(-1) == targets).sum()
    for found, wanted in zip(gradients(loss, hidden, head), theirs, strict=True):
        torch.testing.assert_close(found, wanted, atol=3e-5, rtol=1e-5)
    with torch.no_grad():
        assert head_loss(hidden, targets, head, smoothing)[0].item() == pytest.approx(expected.item(), rel=1e-6)


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


@pytest.mark.parametrize("rows", [1, TILE + 1, 2 * CHUNK + TILE + 3])
def test_the_loss_of_each_target_can_be_weighted_in_any_way(rows):
    hidden, targets, head = problem(rows)
    weigh = torch.randn(rows)
    ours, theirs = head_losses(hidden, targets, head), F.cross_entropy(head(hidden), targets, reduction="none")
    assert ours.shape == (rows,)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for curve in (lambda losses: losses * weigh, torch.exp, lambda losses: F.logsigmoid(losses - losses.mean())):
        found, expected = (gradients(curve(losses).sum(), hidden, head) for losses in each_way(hidden, targets, head))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)  # sums over all rows


def each_way(hidden, targets, head):
    yield head_losses(hidden, targets, head)
    yield F.cross_entropy(F.linear(hidden, head.weight), targets, reduction="none")


def test_the_losses_of_targets_add_up_to_their_sum_in_bf16_too():
    hidden, targets, head = problem(50)
    compute_in(head, torch.bfloat16)
    whole_loss, losses = head_loss(hidden, targets, head)[0], head_losses(hidden, targets, head)
    assert losses.sum().item() == pytest.approx(whole_loss.item(), rel=1e-5)
    together, each = (gradients(loss, hidden, head) for loss in (whole_loss, losses.sum()))
    for one, other in zip(each, together, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.005 * other.norm()


def test_no_target_at_all_has_no_loss_and_a_gradient_of_zero():
    hidden, targets, head = problem(4)
    losses = head_losses(hidden[:0], targets[:0], head)
    losses.sum().backward()
    assert losses.shape == (0,)
    assert not head.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hidden_learns", "head_learns"), [(True, True), (True, False), (False, True)])
def test_what_is_frozen_costs_no_gradient(hidden_learns, head_learns, dtype):
    """Three products where both learn, two where one does; the loss of each target has one more."""
    hidden, targets, head = problem(8)
    compute_in(head, dtype)
    expected = gradients(head_loss(hidden, targets, head)[0], hidden, head)
    hidden.grad = head.weight.grad = None
    hidden.requires_grad_(hidden_learns)
    head.weight.requires_grad_(head_learns)
    room = 64  # logits of a row, rounded up; the product for the weights goes over all of them
    for loss_of, again in ((lambda: head_loss(hidden, targets, head)[0], 0), (each_summed(hidden, targets, head), 1)):
        hidden.grad = head.weight.grad = None
        with FlopCounterMode(display=False) as counter:
            loss_of().backward()
        flops = 2 * 8 * WIDTH * (VOCABULARY * (1 + again + hidden_learns) + room * head_learns)
        assert counter.get_total_flops() == flops
        for tensor, gradient in zip((hidden, head.weight), expected, strict=True):
            assert (tensor.grad is not None) == tensor.requires_grad
            if tensor.grad is not None:
                torch.testing.assert_close(tensor.grad, gradient, atol=0.02, rtol=0.02)


def each_summed(hidden, targets, head):
    return lambda: head_losses(hidden, targets, head).sum()


@pytest.mark.parametrize("rows", [3, CHUNK + TILE + 3])
@pytest.mark.parametrize(("cap", "bias"), [(2.0, False), (None, True), (0.5, True)])
def test_a_cap_and_a_bias_of_the_logits(rows, cap, bias):
    """Gemma 2 caps its logits at 30, Phi's head adds a bias; here small enough to bend every one of them."""
    torch.manual_seed(rows)
    head = Linear(WIDTH, VOCABULARY, bias=bias)
    hidden, targets = torch.randn(rows, WIDTH, requires_grad=True), torch.randint(VOCABULARY, (rows,))
    learnt = [hidden, *head.parameters()]

    def plain():
        logits = F.linear(hidden, head.weight, head.bias)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    each = F.cross_entropy(plain(), targets, reduction="none")
    wanted = torch.autograd.grad(each.sum(), learnt)
    weights = torch.linspace(0.5, 1.5, rows)
    weighted = torch.autograd.grad((F.cross_entropy(plain(), targets, reduction="none") * weights).sum(), learnt)
    loss, correct = head_loss(hidden, targets, head, cap=cap)
    losses = head_losses(hidden, targets, head, cap)
    assert loss.item() == pytest.approx(each.sum().item(), rel=1e-6)
    assert correct == (plain().argmax(-1) == targets).sum()
    torch.testing.assert_close(losses, each, atol=1e-6, rtol=1e-6)
    for found, expected in (
        (torch.autograd.grad(loss, learnt), wanted),
        (torch.autograd.grad((losses * weights).sum(), learnt), weighted),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)
