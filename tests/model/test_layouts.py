"""Rows without padding: what each token sees, and that the gradient is the one of rows alone."""

import pytest
import torch
import torch.nn.functional as F

from ift.model.attention import Scores, split_heads
from ift.model.block_attention import BLOCK
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.model.layouts import Flat, Tree

HEADS, WIDTH = 2, 12


def attend(layout, qkv: torch.Tensor, **options) -> torch.Tensor:
    """(N, 3C) of one fused product, as GPT-2 has it."""
    return layout.attend(0, *split_heads(qkv, HEADS, HEADS), Scores((WIDTH // HEADS) ** -0.5), **options)


def attention_by_hand(qkv: torch.Tensor) -> torch.Tensor:
    """(T, 3C) of one row: softmax over all earlier tokens and the token itself, head by head, in plain torch."""
    q, k, v = qkv.view(len(qkv), 3, HEADS, WIDTH // HEADS).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) / (WIDTH // HEADS) ** 0.5
    hidden = torch.ones(len(qkv), len(qkv), dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)


def rows_by_hand(qkv: torch.Tensor, flat: Flat) -> torch.Tensor:
    prefix, *rows = qkv.split([flat.prefix, *flat.lengths])
    return torch.cat(
        [attention_by_hand(prefix), *(attention_by_hand(torch.cat([prefix, r]))[len(prefix) :] for r in rows)]
    )


@pytest.mark.parametrize(
    ("lengths", "prefix"),
    [([1], 0), ([3, 1, 5], 0), ([3, 1, 5], 4), ([BLOCK, BLOCK + 1, 2 * BLOCK + 3], 0), ([2, 2 * BLOCK + 1], BLOCK + 9)],
)
def test_every_token_sees_its_own_row_up_to_itself_and_gradients_are_those_of_plain_torch(lengths, prefix):
    flat = Flat(lengths, prefix)
    torch.manual_seed(1)
    ours = torch.randn(prefix + sum(lengths), 3 * WIDTH, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weigh = torch.randn(len(ours), WIDTH)
    found, expected = attend(flat, ours), rows_by_hand(theirs, flat)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    (found * weigh).sum().backward()
    (expected * weigh).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


def test_positions_restart_in_every_row_and_go_on_after_a_prefix():
    assert Flat([3, 1, 2]).positions(torch.zeros(6)).tolist() == [0, 1, 2, 0, 0, 1]
    assert Flat([3, 1, 2], prefix=2).positions(torch.zeros(8)).tolist() == [0, 1, 2, 3, 4, 2, 2, 3]


def test_blocks_cover_every_query_once_and_never_ask_for_a_key_behind_the_last_of_them():
    queries = []
    for block, keys, shared in Flat([5, 3 * BLOCK + 1], prefix=7).blocks():
        queries += range(block.start, block.stop)
        assert keys.stop == block.stop
        assert block.stop - block.start <= BLOCK
        assert shared == (() if block.start < 7 else (slice(0, 7),))
    assert queries == list(range(7 + 5 + 3 * BLOCK + 1))


def test_a_change_in_one_row_changes_nothing_in_another():
    torch.manual_seed(2)
    flat = Flat([4, 3])
    qkv = torch.randn(7, 3 * WIDTH)
    before = attend(flat, qkv)
    qkv[:4] += 1
    after = attend(flat, qkv)
    assert torch.equal(after[4:], before[4:])
    assert not torch.allclose(after[:4], before[:4])


def test_the_states_of_a_model_are_those_of_each_row_alone():
    torch.manual_seed(3)
    model = GPT(GPTConfig(40, 32, n_layer=3, n_head=2, n_embd=24))
    start, rows = [5, 6, 7], [[1, 2], [3], [4, 5, 6, 8]]
    flat_ids = torch.tensor([*start, *(token for row in rows for token in row)])
    with torch.no_grad():
        flat = model.hidden(flat_ids, Flat([2, 1, 4], prefix=3))
        for row, states in zip(rows, flat[3:].split([2, 1, 4]), strict=True):
            alone = model.hidden(torch.tensor([start + row]))[0]
            torch.testing.assert_close(flat[:3], alone[:3], atol=1e-5, rtol=0)
            torch.testing.assert_close(states, alone[3:], atol=1e-5, rtol=0)


def test_stretches_of_a_tree_see_their_own_way_and_gradients_are_those_of_plain_torch():
    """0 -> 1 -> 2, 0 -> 3, and 4 alone: three rows that end in 2, 3 and 4."""
    lengths, parents = [BLOCK + 2, 3, 1, 4, 2], [-1, 0, 1, 0, -1]
    tree = Tree(lengths, parents)
    torch.manual_seed(6)
    ours = torch.randn(sum(lengths), 3 * WIDTH, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    zero, one, two, three, four = theirs.split(lengths)
    long = attention_by_hand(torch.cat([zero, one, two]))
    branch = attention_by_hand(torch.cat([zero, three]))[len(zero) :]
    expected = torch.cat([long, branch, attention_by_hand(four)])
    found, weigh = attend(tree, ours), torch.randn(len(ours), WIDTH)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    (found * weigh).sum().backward()
    (expected * weigh).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


def test_positions_of_a_stretch_go_on_from_its_parent():
    assert Tree([2, 1, 2, 1], [-1, 0, 0, -1]).positions(torch.zeros(6)).tolist() == [0, 1, 2, 2, 3, 0]


def test_bf16_is_near_fp32():
    torch.manual_seed(4)
    qkv = torch.randn(20, 3 * WIDTH)
    flat = Flat([9, 6], prefix=5)
    low = attend(flat, qkv.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), attend(flat, qkv), atol=0.02, rtol=0)


def test_dropout_of_attention_acts_row_by_row_and_refuses_a_shared_prefix(monkeypatch):
    qkv = torch.randn(7, 3 * WIDTH)
    torch.manual_seed(5)
    first, second = (attend(Flat([4, 3]), qkv, dropout=0.5) for _ in range(2))
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="share its dropout"):
        attend(Flat([2, 3], prefix=2), qkv, dropout=0.5)
    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, dropout_p, **rest: plain(*args, **rest))
    torch.testing.assert_close(attend(Flat([4, 3]), qkv, dropout=0.5), rows_by_hand(qkv, Flat([4, 3])))
