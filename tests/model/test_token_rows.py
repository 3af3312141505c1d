"""Rows that stand in place of a model's own: as if they had been written into it, and nothing else learns."""

import pytest
import torch

from ift.model.layouts import Flat
from ift.model.linear import compute_in

IDS = [3, 17, 41]


def with_rows(make_model, **changes):
    """A frozen model with rows of its own, and the same model with these rows written into it."""
    model, written = make_model(**changes).eval(), make_model(**changes).eval()
    model.requires_grad_(False)
    model.train_rows_of(IDS)
    with torch.no_grad():
        for parameter in model.own_rows.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        model.own_rows.write_into(**written.token_rows)
    return model, written


IDS_IN_ROWS = torch.tensor([[3, 5, 17, 9, 41, 3, 8, 0], [1, 2, 3, 4, 5, 6, 7, 17]])
KINDS = {
    "tied": {},
    "untied": {"tie_weights": False},
    "capped": {"logit_cap": 2.0, "tie_weights": False},
    "bias of the head": {"biases": ("qkv", "attention", "mlp", "head"), "tie_weights": False},
    "scaled": {"embedding_scale": 3.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_losses_and_gradients_are_those_of_rows_in_the_model(make_model, kind):
    model, written = with_rows(make_model, **KINDS[kind])
    flat, targets = IDS_IN_ROWS.flatten(), torch.cat([IDS_IN_ROWS[:, 1:], IDS_IN_ROWS[:, :1]], dim=1).flatten()
    found = []
    for one in (model, written):
        hidden = one.hidden(flat, Flat([8, 8]))
        with torch.no_grad():
            logits = one.logits(hidden)
        torch.testing.assert_close(one.logits(hidden), logits)
        each, (summed, correct) = one.losses(hidden, targets), one.loss(hidden, targets)
        torch.testing.assert_close(each.sum(), summed)
        (each * torch.linspace(0.5, 2, len(each))).sum().backward(retain_graph=True)
        (3 * summed).backward()
        found.append((logits, each, correct))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(model.own_rows.embedding.grad, written.token_rows["embedding"].grad[IDS])
    if "head" in written.token_rows:
        torch.testing.assert_close(model.own_rows.head.grad, written.token_rows["head"].grad[IDS])
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if name.startswith("own_rows.")
    }


def test_rows_that_are_written_into_a_model_are_theirs_alone(make_model):
    _, written = with_rows(make_model, tie_weights=False)
    untouched = make_model(tie_weights=False).token_rows
    for name, rows in written.token_rows.items():
        changed = (rows != untouched[name]).any(dim=1).nonzero()[:, 0].tolist()
        assert changed == IDS


def test_rows_begin_as_those_of_the_model_and_change_nothing(make_model):
    model = make_model(tie_weights=False).eval()
    with torch.no_grad():
        before = model(IDS_IN_ROWS)
        model.train_rows_of([41, 3])
        torch.testing.assert_close(model(IDS_IN_ROWS), before)
    assert model.own_rows.ids.tolist() == [3, 41]
    assert [tuple(p.shape) for p in model.own_rows.parameters()] == [(2, 16), (2, 16)]


def test_in_bf16_rows_stay_in_fp32_and_the_loss_follows(make_model):
    model, written = with_rows(make_model)
    for one in (model, written):
        compute_in(one, torch.bfloat16)
    hidden = model.hidden(IDS_IN_ROWS)
    targets = IDS_IN_ROWS.flatten()
    loss, _ = model.loss(hidden.flatten(0, 1), targets)
    loss.backward()
    assert model.own_rows.embedding.grad.dtype == torch.float32
    expected, _ = written.loss(written.hidden(IDS_IN_ROWS).flatten(0, 1), targets)
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.01)
