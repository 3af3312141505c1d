"""One rule of attention in every layout: against plain torch with a mask and repeated heads, forward and backward."""

import math
from types import SimpleNamespace

import pytest
import torch

from ift.generation.cache import Cache, Prefill, Step
from ift.model.attention import Scores, split_heads
from ift.model.block_attention import BLOCK
from ift.model.config import GPTConfig, Rope
from ift.model.gpt import GPT
from ift.model.layouts import PADDED, Flat, Tree
from ift.model.rotation import Rotary

D = 10  # channels of a head: with 4 heads not the width of any model here
ROTARY = Rotary(Rope(theta=100.0, channels=6, scale=1.25))  # of the 10 channels
HEADS = [(2, 2), (4, 2), (4, 1)]  # of queries, and of keys and values
OPTIONS = [
    {"scale": D**-0.5},
    {"scale": 0.7},
    {"scale": 0.3, "window": 4},
    {"scale": 0.3, "window": BLOCK + 5},
    {"scale": 2.0, "cap": 1.5},
    {"scale": 0.5, "rotary": ROTARY},
    {"scale": 0.5, "window": 3, "cap": 2.0, "rotary": ROTARY},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
heads = pytest.mark.parametrize("heads", HEADS, ids=lambda h: f"{h[0]}of{h[1]}")


def turned(x, positions):
    """(T, heads, D): channel i with channel 3 + i by position * frequency, as a complex number."""
    pairs = torch.complex(x[..., :3], x[..., 3:6])
    angles = positions[:, None, None] * ROTARY.frequencies
    pairs = pairs * torch.polar(torch.full_like(angles, 1.25), angles)
    return torch.cat([pairs.real, pairs.imag, x[..., 6:]], dim=-1)


def rule(options):
    """The options of by_hand as a layout takes them."""
    scores = Scores(options["scale"], options.get("window"), options.get("cap"))
    return {"scores": scores, "rotary": options.get("rotary")}


def by_hand(q, k, v, *, scale, window=None, cap=None, rotary=None):
    """(T, H, D) and (T, K, D) of one whole row -> (T, H * D)."""
    at = torch.arange(len(q))
    if rotary:
        q, k = turned(q, at.float()), turned(k, at.float())
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    products = torch.einsum("qhd,khd->hqk", q, k) * scale
    if cap:
        products = cap * torch.tanh(products / cap)
    back = at[:, None] - at[None]
    seen = (back >= 0) & (back < (window or len(q)))
    weights = products.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


def states(tokens, heads, *, seed=0):
    """q, k and v of a fused product that learns, and the product."""
    torch.manual_seed(seed)
    fused = torch.randn(*tokens, (heads[0] + 2 * heads[1]) * D, requires_grad=True)
    return fused, split_heads(fused, *heads)


def assert_same(layout, row_of, expected_places, tokens, heads, options):
    """A layout gives the reference's outputs and gradients; rows are given by the places of all their tokens."""
    fused, qkv = states([tokens], heads)
    found = layout.attend(0, *qkv, **rule(options))
    theirs = fused.detach().clone().requires_grad_()
    parts = theirs.unflatten(-1, (-1, D)).split([heads[0], heads[1], heads[1]], dim=1)
    expected = torch.cat([by_hand(*(part[row] for part in parts), **options)[own] for row, own in row_of])
    assert found.shape == (tokens, heads[0] * D)
    torch.testing.assert_close(found[expected_places], expected, atol=1e-5, rtol=1e-5)
    weigh = torch.randn(tokens, heads[0] * D)
    (found * weigh).sum().backward()
    (expected * weigh[expected_places]).sum().backward()
    torch.testing.assert_close(fused.grad, theirs.grad, atol=3e-5, rtol=1e-4)


@heads
@options
def test_padded_rows(heads, options):
    fused, qkv = states([2, 9], heads)
    found, weigh = PADDED.attend(0, *qkv, **rule(options)), torch.randn(2, 9, heads[0] * D)
    theirs = fused.detach().clone().requires_grad_()
    parts = theirs.unflatten(-1, (-1, D)).split([heads[0], heads[1], heads[1]], dim=2)
    expected = torch.stack([by_hand(*(part[row] for part in parts), **options) for row in range(2)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (found * weigh).sum().backward()
    (expected * weigh).sum().backward()
    torch.testing.assert_close(fused.grad, theirs.grad, atol=3e-5, rtol=1e-4)


@heads
@options
@pytest.mark.parametrize(("lengths", "prefix"), [([3, 1, 5], 0), ([3, BLOCK + 9], 6), ([2 * BLOCK + 3], 0)])
def test_flat_rows_and_what_they_share(heads, options, lengths, prefix):
    rows, begin = [(torch.arange(prefix), slice(None))] if prefix else [], prefix
    for length in lengths:
        rows.append((torch.cat([torch.arange(prefix), torch.arange(begin, begin + length)]), slice(prefix, None)))
        begin += length
    assert_same(Flat(lengths, prefix), rows, torch.arange(begin), begin, heads, options)


@heads
@options
def test_a_tree(heads, options):
    """0 -> 1 -> 2, 0 -> 3, and 4 alone; tokens 0-4, 5-7, 8, 9-12, 13-14."""
    zero, one, two, three, four = (torch.arange(*ends) for ends in ((0, 5), (5, 8), (8, 9), (9, 13), (13, 15)))
    rows = [
        (torch.cat([zero, one, two]), slice(None)),
        (torch.cat([zero, three]), slice(5, None)),
        (four, slice(None)),
    ]
    assert_same(Tree([5, 3, 1, 4, 2], [-1, 0, 1, 0, -1]), rows, torch.arange(15), 15, heads, options)


class Model:
    """What a cache asks of a model: its face, with any heads."""

    def __init__(self, heads, dtype=torch.float32):
        self.config = SimpleNamespace(n_kv_head=heads[1], head_dim=D, n_layer=1)
        self.compute_dtype, self.device = dtype, torch.device("cpu")


@heads
@options
@torch.no_grad()
def test_prompts_and_then_token_by_token_in_a_cache(heads, options):
    """Rows of 7 and 5 tokens that begin with the same 3: those first, then the rest but two, then one at a time."""
    _, (q, k, v) = states([12], heads)
    for part in (q, k, v):
        part[7:10] = part[:3]
    rows = [slice(0, 7), slice(7, 12)]
    expected = [by_hand(q[row], k[row], v[row], **options) for row in rows]
    cache = Cache(Model(heads), slots=2, capacity=7)

    def attend(layout, places):
        return layout.attend(0, q[places], k[places], v[places], **rule(options))

    torch.testing.assert_close(attend(Prefill(cache, 0, [3], 0), slice(0, 3)), expected[0][:3], atol=1e-5, rtol=1e-5)
    cache.copy(0, slice(None), 3)
    found = attend(Prefill(cache, 0, [3, 1], 3), [3, 4, 5, 10])
    torch.testing.assert_close(found, torch.cat([expected[0][3:6], expected[1][3:4]]), atol=1e-5, rtol=1e-5)
    found = attend(Step(cache, torch.tensor([6, 4]), 7), [6, 11])
    torch.testing.assert_close(found, torch.stack([expected[0][6], expected[1][4]]), atol=1e-5, rtol=1e-5)


@heads
def test_dropout_leaves_the_rest_of_the_rule_alone(heads, monkeypatch):
    for options in ({"scale": 0.4, "window": 3}, {"scale": 0.4, "cap": 1.0}):
        _, (q, k, v) = states([7], heads)
        first, second = (Flat([4, 3]).attend(0, q, k, v, dropout=0.5, **rule(options)) for _ in range(2))
        assert not torch.allclose(first, second)
        many = torch.stack([Flat([4, 3]).attend(0, q, k, v, dropout=0.2, **rule(options)) for _ in range(3000)]).mean(0)
        expected = torch.cat([by_hand(q[row], k[row], v[row], **options) for row in (slice(0, 4), slice(4, 7))])
        torch.testing.assert_close(many, expected, atol=0.15, rtol=0)


def test_a_model_of_two_heads_has_keys_and_values_for_both():
    config = GPT(GPTConfig(9, 8, n_layer=1, n_head=2, n_embd=12)).config
    assert (config.n_kv_head, config.head_dim) == (2, 6)
