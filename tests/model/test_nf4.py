"""NF4 against bitsandbytes, bit for bit, and its product against that of the weights turned back."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ift.model import nf4
from ift.model.linear import Linear, compute_in, prepared
from ift.model.nf4 import NF4Linear, dequantized, in_four_bits, put_in_four_bits, quantized, stored_bytes

SHAPES = [(7, 64), (64, 576), (1536, 576), (48, 100), (200, 1000), (5, 33), (1, 64), (3, 7)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(shape, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return (torch.randn(shape) * 10.0 ** torch.randint(-3, 2, (1,))).to(dtype)


@pytest.fixture
def theirs():
    return pytest.importorskip("bitsandbytes").functional


@pytest.fixture(params=[True, False], ids=["by bitsandbytes", "by torch"])
def both_ways(request, monkeypatch):
    """Turned back by bitsandbytes, and as where it is not installed."""
    if request.param:
        pytest.importorskip("bitsandbytes")
    else:
        monkeypatch.setattr(nf4, "_bitsandbytes", lambda: None)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_bytes_magnitudes_and_their_own_scales_are_those_of_bitsandbytes(shape, dtype, theirs):
    for seed in range(4):
        w = weight(shape, seed, dtype)
        w[0] *= seed  # blocks of zeros in the first of them
        packed, state = theirs.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
        ours = quantized(w)
        assert torch.equal(ours.packed, packed[:, 0])
        assert torch.equal(ours.magnitudes, state.absmax)
        assert torch.equal(ours.scales, state.state2.absmax)
        if seed:  # where the last block is a part of one, and zero, theirs has 1e-38 in place of 0
            assert torch.equal(ours.mean, state.offset)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] % 2 == 0])  # theirs compiles itself for others
@pytest.mark.parametrize("dtype", TYPES)
def test_the_values_turned_back_are_those_of_bitsandbytes(shape, dtype, theirs, both_ways):
    w = weight(shape)
    packed, state = theirs.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
    state.dtype = dtype
    assert torch.equal(dequantized(quantized(w), shape, dtype), theirs.dequantize_4bit(packed, state))


def test_an_odd_row_is_turned_back_too():
    w = weight((5, 33))
    assert (dequantized(quantized(w), (5, 33), torch.float32) - w).norm() / w.norm() < 0.12


def test_levels_are_hit_and_others_go_to_the_nearest(both_ways):
    levels = torch.tensor(nf4.LEVELS).repeat(4)[None]  # one block, whose largest magnitude is 1
    assert torch.equal(dequantized(quantized(levels * 3), (1, 64), torch.float32), levels * 3)
    between = levels.clone()
    between[0, :3] = torch.tensor([-0.87, -0.84, 0.039])  # -1 | -0.696 part at -0.848, 0 | 0.0796 at 0.0398
    back = dequantized(quantized(between), (1, 64), torch.float32)
    torch.testing.assert_close(back[0, :3], torch.tensor([-1.0, -0.6961928, 0.0]), atol=1e-7, rtol=0)


def test_normal_weights_lose_nine_percent_and_take_half_a_byte():
    w = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))
    matrix = quantized(w)
    error = (dequantized(matrix, (512, 1024), torch.float32) - w).norm() / w.norm()
    assert 0.085 < error < 0.1
    taken = sum(part.numel() * part.element_size() for part in matrix)
    assert taken == 512 * 1024 // 2 + 512 * 1024 // 64 + 512 * 1024 // 64 // 256 * 4 + 4


def layers(bias=True, dtype=torch.float32):
    """A product of three matrices with 40, 24 and 16 rows, the second in an order of its own; and one in fp32 with the
    weights that they are turned back to."""
    torch.manual_seed(0)
    layer = NF4Linear(128, 80, bias=bias)
    if bias:
        layer.bias.data.normal_()
    order = torch.randperm(24)
    parts = [torch.randn(rows, 128) for rows in (40, 24, 16)]
    for part, theirs in zip(parts, (None, order, None), strict=True):
        layer.add(part, theirs)
    plain = Linear(128, 80, bias=bias)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        if bias:
            plain.bias.copy_(layer.bias)
    compute_in(layer, dtype)
    compute_in(plain, dtype)
    return layer, plain, parts


def test_rows_come_back_in_their_own_order_and_each_matrix_is_quantized_alone():
    layer, _, parts = layers()
    assert torch.equal(layer.weight[:40], dequantized(quantized(parts[0]), (40, 128), torch.float32))
    assert (layer.weight[40:64] - parts[1]).norm() / parts[1].norm() < 0.1  # another order would be off by 1.4
    assert torch.equal(layer.weight[64:], dequantized(quantized(parts[2]), (16, 128), torch.float32))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TYPES[:2])
def test_outputs_and_gradients_are_those_of_the_weights_turned_back(bias, dtype):
    layer, plain, _ = layers(bias, dtype)
    plain.weight.requires_grad_(False)
    xs = [torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    outs = [one(x) for one, x in zip((layer, plain), xs, strict=True)]
    assert torch.equal(*outs)
    for out in outs:
        out.float().square().sum().backward()
    assert torch.equal(xs[0].grad, xs[1].grad)
    if bias:
        assert torch.equal(layer.bias.grad, plain.bias.grad)
    with torch.no_grad(), prepared(layer):
        assert layer._held.dtype == dtype
        assert torch.equal(layer(xs[0]), outs[1])
    assert layer._held is None


def test_the_backward_keeps_no_weight_and_no_input():
    layer, _, _ = layers()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(5, 128, requires_grad=True))
    assert kept == []


def test_a_model_has_its_blocks_products_in_four_bits_and_nothing_else(make_model):
    model = make_model(n_embd=64)
    put_in_four_bits(model)
    names = [name for name, _ in in_four_bits(model)]
    assert names == [
        f"h.{i}.{part}" for i in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert {name for name, _ in model.named_parameters() if name.endswith("c_fc.weight")} == set()
    assert type(model.lm_head) is Linear


def test_what_a_model_takes_counts_both_kinds(make_model):
    model = make_model(n_embd=64)
    fp32 = sum(p.numel() for p in model.parameters()) * 4
    blocks = 2 * (12 * 64 * 64)  # values of the products
    assert stored_bytes(model) == fp32
    weights = {name: module.weight.detach().clone() for name, module in model.named_modules() if type(module) is Linear}
    put_in_four_bits(model)
    for name, layer in in_four_bits(model):
        layer.add(weights[name])
    scales = 4 * sum(-(-layer.packed_0.numel() * 2 // 64 // 256) for _, layer in in_four_bits(model))
    assert stored_bytes(model) == fp32 - 4 * blocks + blocks // 2 + blocks // 64 + scales + 4 * 8


def test_a_copy_and_another_type_of_products_keep_the_four_bits():
    layer, plain, _ = layers()
    twin = copy.deepcopy(layer)
    x = torch.randn(4, 128)
    assert torch.equal(twin(x), layer(x))
    compute_in(twin, torch.bfloat16)
    assert torch.equal(twin(x), F.linear(x.bfloat16(), plain.weight.bfloat16(), plain.bias.bfloat16()))
    assert layer.state_dict().keys() == {"bias"}  # a checkpoint has no base
