"""torch's kernel for rows of different lengths, with a stand-in for it."""

import inspect
import math

import pytest
import torch

from ift.model import varlen
from ift.model.attention import Scores, split_heads
from ift.model.block_attention import Plan, attend_blocks
from ift.model.layouts import Flat
from ift.model.varlen import attend_varlen, ends_of, varlen_works

D = 10  # channels of a head
heads = pytest.mark.parametrize("heads", [(2, 2), (4, 2), (4, 1)], ids=lambda h: f"{h[0]}of{h[1]}")


def by_hand(q, k, v, *, scale, window=None):
    """(T, H, D) and (T, K, D) of one whole row -> (T, H * D)."""
    at = torch.arange(len(q))
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    back = at[:, None] - at[None]
    seen = (back >= 0) & (back < (window or len(q)))
    weights = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


def states(tokens, heads):
    """q, k and v of a fused product that learns, and the product."""
    torch.manual_seed(0)
    fused = torch.randn(tokens, (heads[0] + 2 * heads[1]) * D, requires_grad=True)
    return fused, split_heads(fused, *heads)


def stand_in(q, k, v, ends_q, ends_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    """What the kernel computes, in plain torch; the queries are the last of the keys' positions."""
    assert q.is_contiguous()
    assert k.is_contiguous()
    assert window_size[1] == 0
    assert enable_gqa == (q.shape[1] != k.shape[1])
    rows = []
    for (b, e), (kb, ke) in zip(pairs(ends_q), pairs(ends_k), strict=True):
        assert e - b <= max_q
        assert ke - kb <= max_k
        window = None if window_size[0] < 0 else window_size[0] + 1
        padded = torch.cat([q.new_zeros(ke - kb - (e - b), *q.shape[1:]), q[b:e]])
        out = by_hand(padded.float(), k[kb:ke].float(), v[kb:ke].float(), scale=scale, window=window)
        rows.append(out[-(e - b) :].view(e - b, *q.shape[1:]))
    return torch.cat(rows).to(q.dtype)


def pairs(ends):
    return zip(ends.tolist(), ends.tolist()[1:], strict=False)


def old_stand_in(q, k, v, ends_q, ends_k, max_q, max_k, is_causal=False):
    """As in torch 2.10: no scale, no window, no shared heads."""
    assert is_causal
    return stand_in(q, k, v, ends_q, ends_k, max_q, max_k, scale=q.shape[-1] ** -0.5, window_size=(-1, 0))


@pytest.fixture
def kernel(monkeypatch):
    def use(function):
        monkeypatch.setattr(varlen, "varlen_attention", lambda: function)
        monkeypatch.setattr(varlen, "_works", {})

    return use


@heads
@pytest.mark.parametrize("rule", [Scores(D**-0.5), Scores(0.7), Scores(0.3, window=4)])
@pytest.mark.parametrize("function", [stand_in, old_stand_in])
def test_the_kernel_is_given_what_gives_the_same(kernel, heads, rule, function):
    if rule.window and function is old_stand_in:
        pytest.skip("has no window: such layers go block by block")
    kernel(function)
    flat = Flat([3, 7, 1], prefix=2)
    fused, qkv = states(13, heads)
    found = attend_varlen(*qkv, ends_of([(slice(b, e), earlier) for b, e, earlier in flat.rows()], fused.device), rule)
    expected = attend_blocks(*qkv, Plan(list(flat.blocks()), heads, rule.window, fused.device), rule)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weigh = torch.randn(13, heads[0] * D)
    ours, theirs = (torch.autograd.grad((out * weigh).sum(), fused, retain_graph=True)[0] for out in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_whoever_asks_first_the_kernel_is_tried_with_its_gradient(kernel, capsys, mode):
    kernel(stand_in)
    with mode():
        assert varlen_works(torch.device("cpu"))
        assert capsys.readouterr().out == ""
    assert varlen._works == {torch.device("cpu"): True}


def test_a_kernel_that_computes_something_else_is_left_with_a_word(kernel, capsys):
    kernel(lambda *args, **options: stand_in(*args, **options) * 1.5)
    varlen.varlen_attention().__signature__ = inspect.signature(stand_in)
    assert not varlen_works(torch.device("cpu"))
    assert not varlen_works(torch.device("cpu"))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "ift: attention row by row, " in out
    assert "(outputs differ by " in out


def test_a_kernel_that_is_not_there_is_left_with_a_word(kernel, capsys, monkeypatch):
    def missing():
        raise ImportError("no such thing")

    kernel(stand_in)
    monkeypatch.setattr(varlen, "varlen_attention", missing)
    assert not varlen_works(torch.device("cpu"))
    assert "(ImportError: no such thing)" in capsys.readouterr().out


def test_a_device_without_memory_is_tried_again(kernel):
    def full(*args, **options):
        raise torch.OutOfMemoryError("full")

    full.__signature__ = inspect.signature(stand_in)
    kernel(full)
    assert not varlen_works(torch.device("cpu"))
    kernel(stand_in)
    assert varlen_works(torch.device("cpu"))
