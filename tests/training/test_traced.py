"""A step on tensors without memory counts what a step on real ones would: bytes, operations, numbers of things."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ift.data.batches import collate_padded, collate_unpadded
from ift.data.contract.examples import Example
from ift.model.adapters import adapted
from ift.model.config import GPTConfig, Rope
from ift.model.gpt import GPT
from ift.model.low_rank import LowRank, chosen
from ift.model.nf4 import in_four_bits, put_in_four_bits
from ift.training.objectives import CrossEntropy
from ift.training.traced import Product, Shape, Tracker, Work, trace_step, without_memory

C, V, L = 64, 1000, 3
GPT2 = GPTConfig(vocab_size=V, context_length=128, n_layer=L, n_head=4, n_embd=C)
LLAMA = GPTConfig(
    vocab_size=V, context_length=128, n_layer=L, n_head=4, n_embd=C, kv_heads=2, n_inner=160, gated=True, norm="rms",
    activation="silu", biases=(), learned_positions=False, tie_weights=False,
    ropes=(Rope(theta=1e4, channels=16),), rope_of=(0,) * L,
)  # fmt: skip


def rows(*lengths):
    return [
        Example(np.arange(n, dtype=np.int32) % 7 + number * 10, np.arange(n) >= n // 2, row=number)
        for number, n in enumerate(lengths)
    ]


def adamw(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)


def traced(config, batch, make_model=None):
    return trace_step(make_model or (lambda: GPT(config)), adamw, CrossEntropy(), batch)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_weights_gradients_and_state_are_those_of_adamw_in_fp32(config):
    numbers = sum(p.numel() for p in GPT(config).parameters())
    found = traced(config, collate_unpadded(rows(20, 30), end_of_text=0))
    assert found.parameters == found.trained == numbers
    assert (found.weights, found.gradients) == (4 * numbers, 4 * numbers)
    tensors = len(list(GPT(config).parameters()))
    assert found.state == 8 * numbers + 4 * tensors  # two moments, and a number of steps for each tensor
    assert found.peak >= 16 * numbers
    assert found.embedding + sum(p.nbytes for p in GPT(config).h.parameters()) == found.weights


def test_products_are_two_operations_for_each_weight_and_token_three_times():
    """Forward, gradient of what went in, gradient of the weight; scores of attention come on top."""
    batch = collate_padded(rows(32, 32), end_of_text=0)
    found = traced(GPT2, batch)
    in_blocks = L * (12 * C * C) * 64  # weights of a block's four products, each for 64 tokens
    head = V * C * 64
    attention = L * 2 * 2 * 32 * 32 * C  # QK' and its product with V, two rows of 32
    assert 6 * (in_blocks + head) <= found.batch.products <= 6 * (in_blocks + head) + 7 * attention
    assert found.step.products == 0


def test_an_unpadded_batch_computes_the_head_for_what_is_supervised_alone():
    batch = collate_unpadded(rows(32, 32), end_of_text=0)
    supervised = len(batch.supervised)
    assert supervised == 34  # 16 of each row, and its end
    other = collate_unpadded(
        [Example(e.ids, np.arange(32) >= 31, row=e.row) for e in rows(32, 32)], end_of_text=0
    )  # two of each row
    more = traced(GPT2, batch).batch.products - traced(GPT2, other).batch.products
    assert more >= 6 * V * C * (supervised - len(other.supervised))


def test_a_step_without_memory_has_the_peak_of_a_step_with_it():
    batch = collate_unpadded(rows(40, 25, 31), end_of_text=0, share_prefix=True)
    found = traced(LLAMA, batch)
    with Tracker() as real:
        model = GPT(LLAMA).train()
        for parameter in model.parameters():
            real.see(parameter)
        optimizer = adamw(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        loss, weight, _ = CrossEntropy()(model, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / weight)
        optimizer.step()
    assert found.peak == pytest.approx(real.peak, rel=0.02)


def test_what_is_frozen_has_no_gradient_and_no_state():
    def frozen():
        model = GPT(GPT2)
        for block in model.h:
            block.requires_grad_(False)
        return model

    batch = collate_unpadded(rows(20, 30), end_of_text=0)
    whole, part = traced(GPT2, batch), traced(GPT2, batch, frozen)
    outside = sum(p.numel() for name, p in GPT(GPT2).named_parameters() if not name.startswith("h."))
    assert part.weights == whole.weights
    assert (part.trained, part.gradients) == (outside, 4 * outside)
    assert part.batch.products < whole.batch.products


def test_longer_rows_need_more_memory_in_proportion():
    peaks = [traced(GPT2, collate_unpadded(rows(n, n), end_of_text=0)).activations for n in (32, 64, 128)]
    assert 1.5 < (peaks[2] - peaks[1]) / (peaks[1] - peaks[0]) < 2.5


def test_bytes_of_a_tensor_count_once_and_only_while_it_is_there():
    with without_memory() as tracker:
        x = torch.empty(1000)
        assert (tracker.now, tracker.peak) == (4000, 4000)
        y = x.view(10, 100)[2:4]  # views
        assert tracker.now == 4000
        z = x + 1
        assert tracker.now == 8000
        del x, y, z
    assert (tracker.now, tracker.peak) == (0, 8000)


def test_work_of_single_operations():
    def work(do):
        with without_memory() as tracker:
            given = [torch.empty(10, 20), torch.empty(20, 30), torch.empty(1, 30)]
            before = tracker.work.copy()
            kept = do(*given)
            found = tracker.work - before
        del kept
        return found

    flop = 2 * 10 * 20 * 30
    left, right = (Shape(size, (size[1], 1), torch.float32) for size in ((10, 20), (20, 30)))
    product = Product(torch.ops.aten.mm.default, (left, right), (), flop)
    assert work(lambda a, b, c: a @ b) == Work(products=flop, moved=0, calls=1, shapes=Counter({product: 1}))
    out = torch.ops.aten.mm.out
    assert work(lambda a, b, c: out(a, b, out=torch.empty(10, 30))).shapes == Counter({product: 1})
    assert work(lambda a, b, c: b * 2) == Work(products=0, moved=2 * 4 * 600, calls=1)
    assert work(lambda a, b, c: b + c.expand(20, 30)) == Work(products=0, moved=4 * (600 + 30 + 600), calls=1)
    assert work(lambda a, b, c: b.t()) == Work()


def test_attention_of_a_cpu_is_counted_as_two_products_and_five_backward():
    """8 queries and 8 keys, 2 rows, 4 heads of 16 channels: 2 x 4 x 8 x 8 x 16 numbers times 2 operations each."""
    with without_memory() as tracker:
        q, k, v = (torch.empty(2, 4, 8, 16, requires_grad=True) for _ in range(3))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        forward = tracker.work.products
        out.backward(torch.empty_like(out))
    one = 2 * (2 * 4 * 8 * 8 * 16)
    assert (forward, tracker.work.products - forward) == (2 * one, 5 * one)


def test_a_batch_of_another_size_is_in_proportion():
    assert Work(100.0, 10.0, 7).times(0.5) == Work(50.0, 5.0, 7)


def test_activation_checkpointing_keeps_less_and_computes_more():
    from ift.model.gpt import plainly
    from ift.training.blocks import checkpointed

    def model():
        made = GPT(GPT2)
        made.run_block = checkpointed(plainly)
        return made

    batch = collate_unpadded(rows(100, 100), end_of_text=0)
    whole, less = traced(GPT2, batch), traced(GPT2, batch, model)
    assert less.peak < whole.peak
    again = less.batch.products - whole.batch.products  # a forward of the blocks, less in the last one
    assert 0.7 * 2 * L * 12 * C * C * 200 < again < 1.2 * 2 * L * 12 * C * C * 200


def test_a_base_in_four_bits_is_counted_as_it_is_held():
    """Its matrices take 0.516 bytes a number where they took 4, and the step reads them turned back."""

    def in_bits(four: bool):
        def make_model():
            model = GPT(replace(LLAMA, family="llama"))
            if four:
                put_in_four_bits(model)
                for _, layer in in_four_bits(model):
                    layer.allocate()
            adapted(model, LowRank("base", chosen("all", None, model.config), 4, 8.0))
            return model

        return make_model

    batch = collate_unpadded(rows(20, 30), end_of_text=0)
    plain, four = (traced(LLAMA, batch, in_bits(bits)) for bits in (False, True))
    each = [C * 128, C * C, C * 320, 160 * C]  # c_attn: queries, two heads of keys and of values
    scales = L * sum(4 * math.ceil(n / 64 / 256) + 4 for n in each)  # of 256 blocks of 64 each, and a mean
    matrices = L * sum(each)
    assert plain.weights - four.weights == 4 * matrices - matrices // 2 - matrices // 64 - scales
    assert (four.parameters, four.trained, four.state) == (plain.parameters, plain.trained, plain.state)
    assert four.peak < plain.peak
    assert four.batch.products == plain.batch.products
