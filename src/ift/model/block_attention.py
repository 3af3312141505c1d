"""Attention over rows that lie one after the other: blocks of queries, those of like size computed together.

N tokens, D channels of a head, H heads of queries, K heads of keys and values: K divides H, and H / K neighbouring
heads of queries share one. B blocks of a group, n queries and m keys of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ift.model.attention import Scores

BLOCK = 64  # queries of a row that are computed together: most of what no query may see is never computed
PADDED = 1.4  # a block may be padded to so many times its scores: that costs less than a call of its own
FEW = 1 << 14  # scores of all heads; padding up to it costs less than a call in any case
AT_ONCE = 1 << 20  # scores of a group, where it has more than a block: they stay in the processor's cache
HIDDEN = -1e30  # added to a score that no query may see. Finite: padding sees nothing else, and must not become NaN

Stretches = tuple[slice, ...]  # of flat tokens
Block = tuple[slice, slice, Stretches]  # queries, the row's own keys up to the last of them, earlier keys of the row


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores) -> Tensor:
    """q (N, H, D), k and v (N, K, D) -> (N, H * D): each block's queries see its keys, up to themselves."""
    out: Tensor = BlockAttention.apply(q, k, v, plan, scores)  # type: ignore[no-untyped-call]
    return out


class Group(NamedTuple):
    """Blocks of like size. The last query of each stands at its last key; where it has fewer, padding comes first."""

    size: tuple[int, int, int]  # B, n, m
    queries: slice  # of the plan's queries: (B, H, n) of them, in that order
    keys: slice  # of its keys: (B, K, m)
    unseen: Tensor  # (n, up to m) HIDDEN where a query may not see a key, 0 elsewhere; of the last keys, all see others
    padding: Tensor | None  # (B, 1, 1, up to m) HIDDEN where a block has no key; of the first keys, others have all


class Plan:
    """Which queries and keys are computed together, made once for all layers of a forward and its backward.

    blocks  whose keys are all positions of its row, from the first to that of its last query
    heads   H and K
    window  as in Scores
    """

    def __init__(
        self, blocks: Sequence[Block], heads: tuple[int, int], window: int | None, device: torch.device
    ) -> None:
        self.groups: list[Group] = []
        H, K = heads
        queries: list[Tensor] = []  # of (token, head), as a number; each padding is the first token's
        keys: list[Tensor] = []
        no_query: list[Tensor] = []  # which of the queries are padding
        no_key: list[Tensor] = []
        at = [0, 0]
        sized = [(block[0], _seen(block, window)) for block in blocks]
        for members in _alike(sized, H):
            B, n, m = len(members), max(map(_queries, members)), max(map(_keys, members))
            tokens, is_query = _slots([(block[0],) for block in members], n)
            queries.append(_of_heads(tokens, H))
            no_query.append(~is_query[:, None].expand(B, H, n).flatten())
            seen, is_key = _slots([stretches for _, stretches in members], m)
            keys.append(_of_heads(seen, K))
            no_key.append(~is_key[:, None].expand(B, K, m).flatten())
            least = min(map(_keys, members))
            padding = torch.zeros(B, 1, 1, m - least).masked_fill_(~is_key[:, None, None, : m - least], HIDDEN)
            group = Group(
                (B, n, m),
                slice(at[0], at[0] + B * H * n),
                slice(at[1], at[1] + B * K * m),
                _unseen(n, m, window).to(device),
                padding.to(device) if m > least else None,
            )
            at = [group.queries.stop, group.keys.stop]
            self.groups.append(group)
        all_queries, padded = torch.cat(queries), torch.cat(no_query)
        back = torch.empty(int((~padded).sum()), dtype=torch.int64)
        back[all_queries[~padded]] = (~padded).nonzero()[:, 0]
        self.queries, self.back = all_queries.to(device), back.to(device)  # of each (token, head), where its query is
        self.padding = padded.nonzero()[:, 0].to(device) if padded.any() else None
        self.keys = torch.cat(keys).to(device)
        # whose gradient is nobody's
        self.keys_or_none = self.keys.masked_fill(torch.cat(no_key).to(device), -1)


def _seen(block: Block, window: int | None) -> Stretches:
    """The stretches of keys that any of its queries sees."""
    queries, keys, earlier = block
    stretches = (*earlier, keys)
    if window is None:
        return stretches
    # positions that are too far back for the first query
    before = _length(stretches) - (queries.stop - queries.start) - window + 1
    left = []
    for part in stretches:
        gone = min(max(0, before), part.stop - part.start)
        before -= gone
        if part.start + gone < part.stop:
            left.append(slice(part.start + gone, part.stop))
    return tuple(left)


Sized = tuple[slice, Stretches]  # queries, and the keys that any of them sees


def _length(stretches: Stretches) -> int:
    return sum(part.stop - part.start for part in stretches)


def _queries(block: Sized) -> int:
    return block[0].stop - block[0].start


def _keys(block: Sized) -> int:
    return _length(block[1])


def _alike(blocks: Sequence[Sized], heads: int) -> Iterator[list[Sized]]:
    """Blocks that are worth computing together: the largest first, each with those that are little smaller."""
    members: list[Sized] = []
    n = m = own = least = 0  # queries and keys that each is padded to; scores of all members, and of the smallest
    for block in sorted(blocks, key=lambda block: (_queries(block), _keys(block)), reverse=True):
        scores, keys = _queries(block) * _keys(block), _keys(block)
        if members:
            each = n * max(m, keys)
            together = each * (len(members) + 1)
            worth = (together - own - scores) * heads <= FEW or each <= PADDED * min(least, scores)
            if not worth or together * heads > AT_ONCE:
                yield members
                members = []
        if not members:
            n, m, own, least = _queries(block), 0, 0, scores
        members.append(block)
        m, own, least = max(m, keys), own + scores, min(least, scores)
    if members:
        yield members


def _slots(rows: Sequence[Stretches], width: int) -> tuple[Tensor, Tensor]:
    """(B, width) the tokens of each row, padding before them, and which are no padding."""
    tokens, there = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.bool)
    for stretches, places, used in zip(rows, tokens, there, strict=True):
        own = torch.cat([torch.arange(part.start, part.stop) for part in stretches])
        places[width - len(own) :] = own
        used[width - len(own) :] = True
    return tokens, there


def _of_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, n) tokens -> (B * heads * n,) rows of a (N * heads, D) tensor."""
    return (tokens[:, None] * heads + torch.arange(heads)[:, None]).flatten()


def _unseen(n: int, m: int, window: int | None) -> Tensor:
    """(n, columns) HIDDEN where the key is after the query or out of its window."""
    back = torch.arange(n - 1, -1, -1)
    columns = n if window is None else m
    distance = torch.arange(columns - 1, -1, -1) - back[:, None]  # from the key on to the query
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(n, columns).masked_fill_(hidden, HIDDEN)


class BlockAttention(torch.autograd.Function):
    """softmax(QK' * scale) V for each block, in the type that `computed_in` says; scores are never kept.

    At the lengths of instructions, on a CPU, batched products take a half to a third of the time of torch's fused
    attention and its backward (docs/log.md), and little is computed for padding.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.plan, ctx.scores = plan, scores
        dtype = computed_in(q, scores)
        queries, keys, values = (_pick(*each, dtype) for each in ((q, plan.queries), (k, plan.keys), (v, plan.keys)))
        out = torch.empty_like(queries)
        for group in plan.groups:
            weights, _ = _weights(group, queries, keys, scores)
            torch.bmm(weights, _of(group, values), out=_grouped(group, out, weights))
        return out.index_select(0, plan.back).view(len(q), -1).to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v = ctx.saved_tensors
        plan, scores = ctx.plan, ctx.scores
        dtype = computed_in(q, scores)
        queries, keys, values = (_pick(*each, dtype) for each in ((q, plan.queries), (k, plan.keys), (v, plan.keys)))
        d_out = _pick(gradient.view(q.shape), plan.queries, dtype)
        if plan.padding is not None:
            d_out.index_fill_(0, plan.padding, 0)
        d_queries, d_keys, d_values = (torch.empty_like(part) for part in (queries, keys, values))
        for group in plan.groups:
            weights, slope = _weights(group, queries, keys, scores)
            query, key, value = _grouped(group, queries, weights), _of(group, keys), _of(group, values)
            d = _grouped(group, d_out, weights)
            d_scores = torch._softmax_backward_data(torch.bmm(d, value.transpose(1, 2)), weights, -1, dtype)
            if slope is not None:
                d_scores *= slope
            _scaled_bmm(d_scores, key, scores.scale, into=_grouped(group, d_queries, weights))
            _scaled_bmm(d_scores.transpose(1, 2), query, scores.scale, into=_of(group, d_keys))
            torch.bmm(weights.transpose(1, 2), d, out=_of(group, d_values))
        d_q = d_queries.index_select(0, plan.back)
        # a key has a place in the blocks of each query that sees it: what an embedding's row has in a text
        d_k, d_v = (
            torch.ops.aten.embedding_dense_backward(d.float(), plan.keys_or_none, k.shape[0] * k.shape[1], -1, False)
            for d in (d_keys, d_values)
        )
        d_q, d_k, d_v = (d.view(part.shape).to(q.dtype) for d, part in ((d_q, q), (d_k, k), (d_v, v)))
        return d_q, d_k, d_v, None, None


def computed_in(states: Tensor, scores: Scores) -> torch.dtype:
    """bf16 where states are that and the processor has units for it; softmax and sums are fp32 inside of it.

    fp32 elsewhere: small products in bf16 and the passes around them take longer there.
    """
    fast = states.dtype == torch.bfloat16 and not states.is_cuda and scores.cap is None and has_amx()
    return torch.bfloat16 if fast else torch.float32


@cache
def has_amx() -> bool:
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    return supported()


def _pick(states: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, heads, D) -> (places, D)"""
    return states.to(dtype).reshape(-1, states.shape[-1]).index_select(0, places)


def _of(group: Group, keys: Tensor) -> Tensor:
    """Of all keys those of a group, (B * K, m, D)"""
    return keys[group.keys].view(-1, group.size[2], keys.shape[-1])


def _grouped(group: Group, queries: Tensor, weights: Tensor) -> Tensor:
    """Of all queries those of a group, (B * K, H / K * n, D): those that share a head of keys, one after the other."""
    return queries[group.queries].view(len(weights), -1, queries.shape[-1])


def _weights(group: Group, queries: Tensor, keys: Tensor, scores: Scores) -> tuple[Tensor, Tensor | None]:
    """Weights (B * K, H / K * n, m), and the slope of the cap if there is one."""
    key = _of(group, keys)
    products = _scaled_bmm(_grouped(group, queries, key), key.transpose(1, 2), scores.scale)
    slope = None
    if scores.cap is not None:
        bent = torch.tanh(products / scores.cap)
        products, slope = bent * scores.cap, 1 - bent * bent
    B, n, m = group.size
    by_head = products.view(B, -1, n, m)
    by_head[..., m - group.unseen.shape[1] :].add_(group.unseen)
    if group.padding is not None:
        by_head[..., : group.padding.shape[-1]].add_(group.padding)
    return torch.softmax(products, dim=-1), slope


def _scaled_bmm(a: Tensor, b: Tensor, scale: float, into: Tensor | None = None) -> Tensor:
    into = a.new_empty(len(a), a.shape[1], b.shape[2]) if into is None else into
    return torch.baddbmm(into, a, b, beta=0, alpha=scale, out=into)
