"""Products in bf16: master weights stay fp32, and what the products read is never an old cast of them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.model.linear import Linear, compute_in, prepared


def low_precision(inputs=6, outputs=4, **options) -> Linear:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs, **options)
    compute_in(layer, torch.bfloat16)
    return layer


def test_in_fp32_it_is_torchs_own():
    layer, x = Linear(6, 4), torch.randn(3, 6)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_bf16_gives_the_values_and_gradients_of_autocast_and_leaves_all_in_fp32():
    layer, x = low_precision(), torch.randn(2, 3, 6, requires_grad=True)
    layer(x).float().square().sum().backward()
    found = [x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    x.grad = layer.weight.grad = layer.bias.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), out)
    out.float().square().sum().backward()
    for ours, theirs in zip(found, [x.grad, layer.weight.grad, layer.bias.grad], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_without_gradients_the_product_is_the_same():
    for layer in (low_precision(), low_precision(bias=False)):
        x = torch.randn(2, 3, 6)
        out = layer(x).detach()
        with torch.no_grad():
            assert torch.equal(layer(x), out)
        with torch.inference_mode(), prepared(layer):
            assert torch.equal(layer(x), out)


def test_a_changed_weight_is_seen_by_the_next_product():
    layer, x = low_precision(bias=False), torch.eye(6)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(layer(x), 2 * before)
    torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.load_state_dict({"weight": torch.ones(4, 6)})
    assert torch.equal(layer(x).float(), torch.ones(6, 4))
    layer.weight = nn.Parameter(torch.full((4, 6), 3.0))
    assert torch.equal(layer(x).float(), torch.full((6, 4), 3.0))


def test_an_optimizer_step_is_seen_by_the_next_product():
    layer, x = low_precision(bias=False), torch.eye(6)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, weight_decay=0.0, fused=True)
    before = layer(x).detach()
    before.requires_grad_()
    layer(x).float().sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer(x).float(), (before - 0.5).float(), atol=0.01, rtol=0)


def test_an_edit_that_torch_counts_no_version_of_is_seen_by_the_next_product():
    """Through `.data`, as an average of weights or a merge may do it."""
    layer, x = low_precision(bias=False), torch.eye(6)
    layer(x)
    layer.weight.data.fill_(2.0)
    assert torch.equal(layer(x).float(), torch.full((6, 4), 2.0))
    with prepared(layer), torch.no_grad():
        layer(x)
    layer.weight.data.fill_(3.0)
    with torch.no_grad():
        assert torch.equal(layer(x).float(), torch.full((6, 4), 3.0))
    with prepared(layer), torch.no_grad():
        assert torch.equal(layer(x).float(), torch.full((6, 4), 3.0))


def test_weights_are_cast_once_while_prepared_and_nothing_of_it_is_left(monkeypatch):
    model, casts = nn.Sequential(low_precision(6, 6), low_precision(6, 6)), []
    plain = torch.Tensor.to

    def counted(tensor, *args, **options):
        casts.append(tuple(tensor.shape))
        return plain(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    with torch.no_grad(), prepared(model), prepared(model):  # a second one adds nothing and takes nothing away
        for _ in range(5):
            model(torch.ones(1, 6))
        assert casts.count((6, 6)) == 2
    assert all(layer._held is None for layer in model)
    with pytest.raises(RuntimeError, match="here"), prepared(model):
        raise RuntimeError("here")
    assert all(layer._held is None for layer in model)


def test_what_is_trained_never_reads_the_casts_that_are_prepared():
    layer, x = low_precision(bias=False), torch.eye(6)
    with prepared(layer):
        layer.weight.data.fill_(2.0)
        assert torch.equal(layer(x).detach().float(), torch.full((6, 4), 2.0))


def test_no_optimizer_of_the_process_is_hooked():
    from torch.optim import optimizer

    assert not optimizer._global_optimizer_post_hooks
    assert not optimizer._global_optimizer_pre_hooks


@pytest.mark.parametrize(
    ("x_learns", "weight_learns", "products"), [(True, True, 3), (True, False, 2), (False, True, 2), (False, False, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_frozen_costs_no_gradient(x_learns, weight_learns, products, dtype):
    layer = Linear(6, 4)
    compute_in(layer, dtype)
    layer.weight.requires_grad_(weight_learns)
    x = torch.randn(5, 6, requires_grad=x_learns)
    with FlopCounterMode(display=False) as counter:
        layer(x).float().sum().backward()
    assert counter.get_total_flops() == products * 2 * 5 * 6 * 4
    assert (x.grad is not None, layer.weight.grad is not None) == (x_learns, weight_learns)


def test_a_model_in_bf16_is_near_itself_in_fp32_and_its_state_is_unchanged():
    torch.manual_seed(1)
    model = GPT(GPTConfig(40, 16, n_layer=2, n_head=2, n_embd=32))
    ids = torch.randint(40, (2, 16))
    expected, state = model(ids), {name: value.clone() for name, value in model.state_dict().items()}
    compute_in(model, torch.bfloat16)
    found = model(ids)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.05)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    compute_in(model, torch.float32)
    assert torch.equal(model(ids), expected)


def test_a_copy_that_is_made_while_casts_are_held_has_none_of_them():
    layer = Linear(4, 3, bias=False)
    compute_in(layer, torch.bfloat16)
    with prepared(layer):
        copied = copy.deepcopy(layer)
    copied.weight.data.zero_()
    with torch.no_grad():
        assert copied(torch.ones(1, 4)).tolist() == [[0, 0, 0]]
