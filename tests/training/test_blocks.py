"""Blocks that keep less, or are compiled: the loss and the gradient of a plain model."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ift.data.batches import collate_padded, collate_unpadded
from ift.errors import MachineError
from ift.model.gpt import plainly
from ift.model.linear import compute_in
from ift.training import blocks
from ift.training.blocks import checkpointed, compiled, set_up_blocks
from ift.training.inputs import refuse_what_is_missing
from ift.training.objectives import CrossEntropy

END = 49


def loss_and_gradients(model, batch, run=plainly):
    """Seeded, since dropout draws."""
    model.run_block = run
    model.zero_grad()
    torch.manual_seed(5)
    loss = CrossEntropy()(model.train(), batch).loss
    loss.backward()
    gradients = {n: p.grad.to_dense() if p.grad.is_sparse else p.grad for n, p in model.named_parameters()}
    return loss.item(), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("collate", [collate_padded, collate_unpadded])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_computed_again_is_the_same_bit_for_bit(make_model, make_examples, collate, dtype):
    """With dropout; and each block runs twice: in the forward and in the backward."""
    calls = []

    def counted(*arguments):
        calls.append(1)
        return plainly(*arguments)

    model, batch = make_model(dropout=0.2), collate(make_examples(6), end_of_text=END)
    compute_in(model, dtype)
    loss, gradients = loss_and_gradients(model, batch)
    again, others = loss_and_gradients(model, batch, checkpointed(counted))
    assert loss == again
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    assert len(calls) == 2 * 2
    with torch.no_grad():
        CrossEntropy()(model, batch)
    assert len(calls) == 2 * 2  # plainly


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_is_compiled_once_for_all_blocks_and_two_widths(make_model, make_examples, dtype):
    """Ten blocks, batches of three widths: each piece once for the first width, and once for any other."""
    torch._dynamo.reset()
    counter, pieces = CompileCounterWithBackend("aot_eager"), []
    model, rows = make_model(n_layer=10), make_examples(9)
    compute_in(model, dtype)
    run = compiled(counter)
    for width in (14, 15, 16):
        batch = collate_padded([row for row in rows if row.tokens <= width], end_of_text=END, pad_to=width)
        loss, gradients = loss_and_gradients(model, batch)
        for way in (run, checkpointed(run)):
            fast, others = loss_and_gradients(model, batch, way)
            assert fast == pytest.approx(loss, rel=1e-5 if dtype == torch.float32 else 1e-2)
            for name, gradient in gradients.items():
                close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 5e-2}
                torch.testing.assert_close(others[name], gradient, **close)
        pieces.append(counter.frame_count)
    assert pieces[2] == pieces[1] <= 2 * pieces[0] < 20


def test_settings_choose_the_way(make_model, settings_of, monkeypatch):
    model = make_model()
    set_up_blocks(model, settings_of().model)
    assert model.run_block is plainly
    monkeypatch.setattr(blocks, "compiled", lambda: "compiled")
    monkeypatch.setattr(blocks, "checkpointed", lambda run: ("checkpointed", run))
    set_up_blocks(model, settings_of("model.activation_checkpointing=true").model)
    assert model.run_block == ("checkpointed", plainly)
    set_up_blocks(
        model, settings_of("model.compile=true", "model.activation_checkpointing=true", "data.batching=padded").model
    )
    assert model.run_block == ("checkpointed", "compiled")


def test_without_a_compiler_it_is_one_line(settings_of, monkeypatch):
    settings = settings_of("model.compile=true", "data.batching=padded")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        MachineError, match=r"^model.compile=true: no C\+\+ compiler, no-such-compiler is not on the PATH"
    ):
        refuse_what_is_missing(settings)
    refuse_what_is_missing(settings_of())
