"""How tokens lie in a batch, and what each of them may see: the same attention for padded, flat and growing rows.

B rows, T time, N flat tokens, H heads, D channels of a head, C = H * D, P tokens that all rows of a batch begin with.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ift.errors import one_line

BLOCK = 128  # queries that are computed together: scores stay in the processor's cache, and most of what no query may
# see is never computed


Stretches = tuple[slice, ...]  # of flat tokens


class Layout(Protocol):
    def positions(self, input_ids: Tensor) -> Tensor:
        """The position of each token in its row, broadcastable to input_ids."""
        ...

    def attend(self, layer: int, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        """Queries, keys and values of all tokens (..., 3C) to what they see (..., C)."""
        ...


class Padded:
    """(B, T) rows, padded on the right. Attention is causal, so no real token sees the padding."""

    def positions(self, input_ids: Tensor) -> Tensor:
        return torch.arange(input_ids.shape[1], device=input_ids.device)

    def attend(self, layer: int, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        B, T, _ = qkv.shape
        q, k, v = qkv.view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return y.transpose(1, 2).reshape(B, T, -1)


PADDED = Padded()


class Flat:
    """(N,) tokens of rows one after the other, without padding; no token sees another row.

    lengths  tokens of each row, without the P that all rows begin with
    prefix   P: those stand once, before the rows. Their states are the same in every row, so all rows see these ones,
             and their gradients add up to those of P tokens in each row. Exact without dropout.
    """

    def __init__(self, lengths: Sequence[int], prefix: int = 0):
        self.lengths, self.prefix = lengths, prefix

    def positions(self, input_ids: Tensor) -> Tensor:
        rows = [torch.arange(self.prefix), *(torch.arange(self.prefix, self.prefix + n) for n in self.lengths)]
        return torch.cat(rows).to(input_ids.device, non_blocking=True)

    def attend(self, layer: int, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        if dropout:
            return self._with_dropout(qkv, n_head, dropout)
        if qkv.is_cuda and qkv.dtype != torch.float32 and varlen_works(qkv.device):
            return _varlen(self, qkv, n_head)
        return _row_by_row(self, qkv, n_head)

    def rows(self) -> Iterator[tuple[int, int, Stretches]]:
        """Begin and end of each row's own tokens, and what else it sees, all before them; the prefix is one."""
        if self.prefix:
            yield 0, self.prefix, ()
        shared = (slice(0, self.prefix),) if self.prefix else ()
        begin = self.prefix
        for length in self.lengths:
            yield begin, begin + length, shared
            begin += length

    def blocks(self) -> Iterator[tuple[slice, slice, Stretches]]:
        """At most BLOCK queries of a row, the row's keys that the last of them sees, and what it sees besides."""
        for begin, end, shared in self.rows():
            for first in range(begin, end, BLOCK):
                last = min(first + BLOCK, end)
                yield slice(first, last), slice(begin, last), shared

    def _with_dropout(self, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        if self.prefix:
            raise ValueError("rows that share a prefix would share its dropout too")
        rows = []
        for begin, end, _ in self.rows():
            q, k, v = _heads(qkv[begin:end], n_head)[:, None]  # (1, H, T, D) each
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
            rows.append(y[0].transpose(0, 1).flatten(1))
        return torch.cat(rows)


class Tree(Flat):
    """(N,) tokens of stretches one after the other, each of which may go on where an earlier one ends.

    lengths  tokens of each stretch, one at least
    parents  number of the stretch that each goes on after, -1 where it begins a row; a parent comes before its children

    A stretch sees itself and those on its way from the beginning: rows that begin alike are computed once up to where
    they part. Exact without dropout.
    """

    def __init__(self, lengths: Sequence[int], parents: Sequence[int]):
        super().__init__(lengths)
        ends = list(accumulate(lengths))
        self.stretches = [slice(end - length, end) for length, end in zip(lengths, ends, strict=True)]
        self.ways: list[Stretches] = []  # to each stretch, without itself
        self.starts: list[int] = []  # position of its first token
        for parent in parents:
            before = parent >= 0
            self.ways.append((*self.ways[parent], self.stretches[parent]) if before else ())
            self.starts.append(self.starts[parent] + lengths[parent] if before else 0)

    def positions(self, input_ids: Tensor) -> Tensor:
        rows = [torch.arange(start, start + n) for start, n in zip(self.starts, self.lengths, strict=True)]
        return torch.cat(rows).to(input_ids.device, non_blocking=True)

    def rows(self) -> Iterator[tuple[int, int, Stretches]]:
        for stretch, way in zip(self.stretches, self.ways, strict=True):
            yield stretch.start, stretch.stop, way


class FlatAttention(torch.autograd.Function):
    """softmax(QK'/sqrt(D)) V for each block of a Flat, in fp32 whatever the type of qkv; scores are never kept.

    At the lengths of instructions, on a CPU, batched products row by row take a half to a third of the time of torch's
    fused attention and its backward (docs/log.md), and nothing is computed for padding.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, flat: Flat, n_head: int) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.flat, ctx.n_head = flat, n_head
        out = torch.empty(len(qkv), qkv.shape[1] // 3, device=qkv.device)
        heads = _heads(qkv.float(), n_head)
        seen = out.view(len(out), n_head, -1).transpose(0, 1)  # (H, N, D)
        for queries, keys, shared in flat.blocks():
            q, k, v = heads[0, :, queries], _keys(heads[1], keys, shared), _keys(heads[2], keys, shared)
            seen[:, queries] = torch.bmm(_weights(q, k), v)
        return out.to(qkv.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        heads = _heads(qkv.float(), ctx.n_head)
        d_qkv = torch.zeros_like(qkv, dtype=torch.float32)
        d_heads = _heads(d_qkv, ctx.n_head)
        d_seen = gradient.float().view(len(gradient), ctx.n_head, -1).transpose(0, 1)
        for queries, keys, shared in ctx.flat.blocks():
            q, k, v = heads[0, :, queries], _keys(heads[1], keys, shared), _keys(heads[2], keys, shared)
            weights, d_out = _weights(q, k), d_seen[:, queries]
            d_weights = torch.bmm(d_out, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, torch.float32)
            d_scores *= _scale(q)
            d_heads[0, :, queries] = torch.bmm(d_scores, k)
            _add(d_heads[1], keys, shared, torch.bmm(d_scores.transpose(1, 2), q))
            _add(d_heads[2], keys, shared, torch.bmm(weights.transpose(1, 2), d_out))
        return d_qkv.to(qkv.dtype), None, None


def _row_by_row(flat: Flat, qkv: Tensor, n_head: int) -> Tensor:
    out: Tensor = FlatAttention.apply(qkv, flat, n_head)  # type: ignore[no-untyped-call]
    return out


def _heads(qkv: Tensor, n_head: int) -> Tensor:
    """(N, 3C) -> (3, H, N, D), a view."""
    return qkv.view(len(qkv), 3, n_head, -1).permute(1, 2, 0, 3)


def _keys(heads: Tensor, keys: slice, shared: Stretches) -> Tensor:
    """(H, N, D) -> (H, P + K, D), P those that are shared."""
    own = heads[:, keys]
    return torch.cat([*(heads[:, stretch] for stretch in shared), own], dim=1) if shared else own


def _add(heads: Tensor, keys: slice, shared: Stretches, gradient: Tensor) -> None:
    begin = 0
    for stretch in (*shared, keys):
        end = begin + stretch.stop - stretch.start
        heads[:, stretch] += gradient[:, begin:end]
        begin = end


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """(H, Q, D) and (H, K, D) -> (H, Q, K): the last query sees all keys, the one before it all but the last, ..."""
    scores = torch.bmm(q * _scale(q), k.transpose(1, 2))
    n = q.shape[1]
    scores[:, :, -n:] += _triangle(q.device)[:n, :n]
    return torch.softmax(scores, dim=-1)


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


@cache
def _triangle(device: torch.device) -> Tensor:
    return torch.full((BLOCK, BLOCK), -math.inf, device=device).triu(1)


# ----------------------------------------------------------------------------------------------------------------------
# CUDA


def _varlen(flat: Flat, qkv: Tensor, n_head: int) -> Tensor:
    """The same through torch's own kernel for rows of different lengths; it takes bf16, and is causal from the end."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.view(len(qkv), 3, n_head, -1).unbind(1)  # (N, H, D) each
    queries, keys, (max_q, max_k), seen = _ends(flat, qkv.device)
    if seen is not None:
        k, v = k[seen], v[seen]
    # torch 2.10 has is_causal, later ones a window instead
    new = "window_size" in inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if new else {"is_causal": True}
    out: Any = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), queries, keys, max_q, max_k, **causal)
    return out.flatten(1)


@lru_cache(maxsize=2)  # the layers of one forward ask for the same
def _ends(flat: Flat, device: torch.device) -> tuple[Tensor, Tensor, tuple[int, int], Tensor | None]:
    """Where each row's queries and keys end (B + 1,), the longest of them, and the token behind each key.

    None for those where the keys are the tokens, in order: nothing is shared.
    """
    spans = list(flat.rows())
    queries = [end - begin for begin, end, _ in spans]
    keys = [end - begin + sum(part.stop - part.start for part in shared) for begin, end, shared in spans]
    ends = [torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device) for lengths in (queries, keys)]
    seen = [
        torch.arange(part.start, part.stop) for begin, end, shared in spans for part in (*shared, slice(begin, end))
    ]
    nothing = all(not shared for _, _, shared in spans)
    return ends[0], ends[1], (max(queries), max(keys)), None if nothing else torch.cat(seen).to(device)


@cache
def varlen_works(device: torch.device) -> bool:
    """Whether the kernel is there and agrees with FlatAttention, forward and backward, on rows with a prefix."""
    flat = Flat([3, 7, 1], prefix=2)
    random = torch.Generator().manual_seed(0)
    qkv = torch.randn(13, 3 * 2 * 64, generator=random).to(device, torch.bfloat16)
    results: list[Tensor] = []
    try:
        for attend in (_varlen, _row_by_row):
            x = qkv.clone().requires_grad_()
            with torch.enable_grad():
                y = attend(flat, x, 2)
                (gradient,) = torch.autograd.grad(y.square().sum(), x)
            results += [y.detach().float(), gradient.float()]
    except (ImportError, RuntimeError, TypeError) as error:
        why = one_line(f"{type(error).__name__}: {error}", 80)
        print(f"ift: attention row by row, since torch's own for rows of different lengths fails here ({why})")
        return False
    y1, g1, y2, g2 = results
    return torch.allclose(y1, y2, atol=0.05) and torch.allclose(g1, g2, atol=0.2)
