"""Blocks of like size are computed together: which, how they are padded, and that padding changes nothing.

Against plain torch, in every layout, forward and backward: test_attention.py.
"""

import pytest
import torch

from ift.model import block_attention
from ift.model.attention import Scores, split_heads
from ift.model.block_attention import BLOCK, HIDDEN, Plan, attend_blocks
from ift.model.layouts import Flat, Tree

CPU = torch.device("cpu")


def plan_of(layout, heads=(4, 2), window=None):
    return Plan(list(layout.blocks()), heads, window, CPU)


def test_rows_of_like_length_are_one_group_and_a_long_one_is_its_own(monkeypatch):
    monkeypatch.setattr(block_attention, "FEW", 0)
    sizes = [group.size for group in plan_of(Flat([20, 60, 22, 21, 58], prefix=10)).groups]
    assert sizes == [(2, 60, 70), (3, 22, 32), (1, 10, 10)]  # blocks, queries and keys of each
    sizes = [group.size for group in plan_of(Flat([2 * BLOCK, 2 * BLOCK])).groups]
    assert sizes == [(2, BLOCK, 2 * BLOCK), (2, BLOCK, BLOCK)]


def test_small_rows_are_padded_to_one_group_since_a_call_costs_more():
    assert [group.size for group in plan_of(Flat([20, 30, 3], prefix=10)).groups] == [(4, 30, 40)]


def test_a_group_has_no_more_scores_than_stay_in_the_cache(monkeypatch):
    monkeypatch.setattr(block_attention, "AT_ONCE", 4 * 5 * 5 * 2)  # of 4 heads, 2 rows of 5
    assert [group.size for group in plan_of(Flat([5] * 5)).groups] == [(2, 5, 5), (2, 5, 5), (1, 5, 5)]


def test_every_query_has_one_place_and_each_key_one_in_each_block_that_sees_it():
    layout = Tree([BLOCK + 2, 3, 1, 4, 2], [-1, 0, 1, 0, -1])
    plan, tokens = plan_of(layout, heads=(1, 1)), BLOCK + 12
    assert plan.queries[plan.back].tolist() == list(range(tokens))
    assert set(range(len(plan.queries))) - set(plan.back.tolist()) == set(plan.padding.tolist())
    seen = [0] * tokens
    for _, keys, earlier in layout.blocks():
        for part in (*earlier, keys):
            for token in range(part.start, part.stop):
                seen[token] += 1
    assert torch.bincount(plan.keys_or_none[plan.keys_or_none >= 0]).tolist() == seen
    assert torch.equal(plan.keys[plan.keys_or_none >= 0], plan.keys_or_none[plan.keys_or_none >= 0])


def test_a_window_leaves_out_the_keys_that_no_query_sees():
    (group,) = plan_of(Flat([6]), window=2).groups
    assert group.size == (1, 6, 6)
    assert (group.unseen == HIDDEN).int().tolist() == [
        [0, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [1, 0, 0, 1, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 0, 0],
    ]
    # of a row's second block, the queries and the three positions before them
    assert (BLOCK, BLOCK + 3) in [group.size[1:] for group in plan_of(Flat([2 * BLOCK]), window=4).groups]


@pytest.mark.parametrize("window", [None, 5])
def test_results_do_not_depend_on_what_is_padded(monkeypatch, window):
    """All blocks as one group, and each alone; what the padding holds is the first token's, which is made huge."""
    layout, found = Flat([3, 2 * BLOCK + 7, 20, 1], prefix=4), []
    torch.manual_seed(0)
    fused = torch.randn(2 * BLOCK + 35, 8 * 6, requires_grad=True)
    fused.data[0] *= 5
    weigh = torch.randn(len(fused), 4 * 6)
    for few in (0, 1 << 40):
        monkeypatch.setattr(block_attention, "FEW", few)
        monkeypatch.setattr(block_attention, "PADDED", 1)
        monkeypatch.setattr(block_attention, "AT_ONCE", few or 1)
        plan = plan_of(layout, window=window)
        assert (len(plan.groups) == 1) == bool(few)
        out = attend_blocks(*split_heads(fused, 4, 2), plan, Scores(0.4, window))
        found.append((out.detach(), *torch.autograd.grad((out * weigh).sum(), fused)))
    for alone, together in zip(*found, strict=True):
        assert together.isfinite().all()
        torch.testing.assert_close(together, alone, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", [Scores(0.4), Scores(0.4, window=5), Scores(0.4, cap=2.0)])
def test_products_in_bf16_where_they_are_fast_give_the_same_to_its_tolerance(monkeypatch, rule):
    layout = Flat([3, BLOCK + 7, 20, 1], prefix=4)
    torch.manual_seed(0)
    values, weigh = torch.randn(BLOCK + 35, 8 * 6).bfloat16(), torch.randn(BLOCK + 35, 4 * 6)
    plan, found, types = plan_of(layout, window=rule.window), [], []
    for amx in (False, True):
        monkeypatch.setattr(block_attention, "has_amx", lambda amx=amx: amx)
        fused = values.clone().requires_grad_()
        qkv = split_heads(fused, 4, 2)
        types.append(block_attention.computed_in(qkv[0], rule))
        out = attend_blocks(*qkv, plan, rule)
        assert out.dtype == torch.bfloat16
        found.append((out.detach().float(), torch.autograd.grad((out.float() * weigh).sum(), fused)[0].float()))
    assert types == [torch.float32, torch.float32 if rule.cap else torch.bfloat16]
    for plain, fast in zip(*found, strict=True):
        assert (fast - plain).norm() <= 0.01 * plain.norm()  # 8 bits: 0.004 a number
        torch.testing.assert_close(fast, plain, atol=0.1, rtol=0.05)


def test_states_in_fp32_are_computed_in_fp32_whatever_the_processor_has(monkeypatch):
    monkeypatch.setattr(block_attention, "has_amx", lambda: True)
    assert block_attention.computed_in(torch.zeros(1, 1, 1), Scores(1.0)) == torch.float32


def test_blocks_of_hundreds_of_rows_are_each_in_one_group_and_none_is_padded_too_far():
    lengths = [1 + 7 * i % 90 for i in range(300)]
    layout = Flat(lengths, prefix=11)
    plan = plan_of(layout, heads=(1, 1))
    assert sum(B for B, _, _ in (group.size for group in plan.groups)) == len(list(layout.blocks()))
    assert plan.queries[plan.back].tolist() == list(range(11 + sum(lengths)))
    padded = sum(B * n * m for B, n, m in (group.size for group in plan.groups))
    own = sum((e - b) * (e - b + 1) // 2 + (e - b) * 11 * bool(earlier) for b, e, earlier in layout.rows())
    assert len(plan.groups) < 30
    assert padded < 3 * own  # causal: half of a block's scores are of keys that come after
