"""Products in bf16: master weights stay fp32, and the copy that the products read is never an old one."""

import torch
import torch.nn.functional as F
from torch import nn

from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.model.linear import Linear, compute_in


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


def test_the_copy_is_made_once_for_each_version_of_the_weights():
    layer = low_precision()
    copy = layer.weight_to_compute()
    assert copy.dtype == torch.bfloat16
    copy.zero_()  # what nobody does: so it can be seen that no new copy is made
    assert not layer.weight_to_compute().any()
    with torch.no_grad():
        layer.weight.add_(1)
    assert layer.weight_to_compute().any()


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
