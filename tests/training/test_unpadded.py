"""Training without padding: the loss of the padded batch, and every one of its gradients."""

import numpy as np
import pytest
import torch

from ift.data.batches import collate_padded, collate_unpadded
from ift.data.contract.examples import Example
from ift.model.linear import compute_in
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy

END = 49


def rows(lengths, *, template=(), seed=0) -> list[Example]:
    """Rows that begin with the template; a third of what follows is prompt."""
    random = np.random.default_rng(seed)
    examples = []
    for row, length in enumerate(lengths):
        ids = np.append(template, random.integers(0, END, size=length)).astype(np.int32)
        supervised = np.arange(len(ids)) >= len(template) + length // 3
        examples.append(Example(ids, supervised, ends=row % 3 != 2, row=row))
    return examples


def loss_and_gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss, targets, _ = CrossEntropy()(model, batch)
    (loss / targets).backward()
    return (loss / targets).item(), targets, {name: p.grad.clone() for name, p in model.named_parameters()}


CASES = {
    "short rows": rows([3, 9, 1, 6, 4]),
    "a template that all share": rows([3, 9, 6, 4, 12, 1], template=range(10)),
    "rows of several blocks": rows([300, 7, 150], template=range(5)),
    "one row": rows([12], template=range(4)),
    "equal rows": rows([5], seed=3) * 4,
}


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tie_weights", [True, False])
def test_loss_and_every_gradient_are_those_of_the_padded_batch(make_model, case, share_prefix, tie_weights):
    model = make_model(context_length=320, n_embd=32, n_layer=3, tie_weights=tie_weights)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too: nothing is zero or one
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    padded = collate_padded(CASES[case], end_of_text=END)
    unpadded = collate_unpadded(CASES[case], end_of_text=END, share_prefix=share_prefix)
    loss, targets, gradients = loss_and_gradients(model, unpadded)
    expected_loss, expected_targets, expected = loss_and_gradients(model, padded)
    assert targets == expected_targets
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_model_with_room_for_more_tokens_has_the_same_loss_both_ways(make_model):
    """Ids that no token has are never chosen, and count in the softmax of a loss, as transformers has it."""
    model = make_model(context_length=320, vocab_size=60, tokens=50)
    case = CASES["short rows"]
    ways = (collate_padded(case, end_of_text=END), collate_unpadded(case, end_of_text=END, share_prefix=True))
    padded, unpadded = (loss_and_gradients(model, batch)[0] for batch in ways)
    assert padded == pytest.approx(unpadded, abs=1e-6)
    less = make_model(context_length=320, vocab_size=60, tokens=50)
    with torch.no_grad():
        less.lm_head.weight[50:] *= 100
    assert abs(loss_and_gradients(less, ways[1])[0] - unpadded) > 0.01
    assert less.logits(torch.randn(2, less.config.n_embd)).shape == (2, 50)


def test_measures_are_those_of_the_padded_batch(make_model, make_optim):
    module = SFTModule(make_model(context_length=320), optim=make_optim(), total_steps=1)
    case, found = CASES["a template that all share"], []
    for batch in (collate_padded(case, end_of_text=END), collate_unpadded(case, end_of_text=END, share_prefix=True)):
        sums = module.sums["val_sums"]
        with torch.no_grad():
            module.validation_step(batch, 0)
        found.append({name: metric.compute().item() for name, metric in sums.items()})
        for metric in sums.values():
            metric.reset()
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_training_run_takes_the_same_path(fit, make_examples):
    examples = make_examples(22)
    _, unpadded = fit(examples, steps=6)
    _, padded = fit(examples, steps=6, batching="padded")
    assert unpadded.losses == pytest.approx(padded.losses, abs=1e-6)


def test_in_bf16_the_gradient_is_near_that_of_fp32(make_model):
    case = CASES["a template that all share"]
    batch = collate_unpadded(case, end_of_text=END, share_prefix=True)
    model = make_model(context_length=320, n_embd=64)
    loss, _, expected = loss_and_gradients(model, batch)
    compute_in(model, torch.bfloat16)
    low_loss, _, gradients = loss_and_gradients(model, batch)
    assert low_loss == pytest.approx(loss, abs=0.01)
    whole, difference = (
        torch.cat([d.flatten() for d in parts]).norm()
        for parts in (expected.values(), [gradients[name] - expected[name] for name in expected])
    )
    assert difference < 0.02 * whole


def test_with_dropout_rows_share_nothing_and_each_is_dropped_by_itself(make_model, make_data):
    case = CASES["a template that all share"]
    assert make_data(case).train_dataloader().collate_fn(case).prefix == 9  # row 5 has its first target at 10
    data = make_data(case, dropout=0.1)
    assert data.train_dataloader().collate_fn(case).prefix == 0
    model = make_model(dropout=0.1, context_length=320).train()
    losses = {CrossEntropy()(model, collate_unpadded(case, end_of_text=END)).loss.item() for _ in range(3)}
    assert len(losses) == 3
